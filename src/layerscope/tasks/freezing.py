"""Which parameters of an autoencoder are trained, and keeping the others as they are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Literal

from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from layerscope.data.schema import did_you_mean
from layerscope.errors import ConfigurationError

# The quant convolutions stand between the two sides: decoding starts with post_quant_conv, encoding ends with
# quant_conv, which therefore stays frozen with the encoder. SD3 and Flux have neither.
_SIDES = {"decoder": ("decoder", "post_quant_conv"), "encoder": ("encoder", "quant_conv")}
_PARTS = [part for parts in _SIDES.values() for part in parts]
_ADAPTER = "model."
"""Under which name an adapter keeps the model inside."""


TrainedPart = Literal["all", "decoder", "encoder"]


def select_trainable(autoencoder: nn.Module, train: TrainedPart = "all", freeze: Sequence[str] = ()) -> list[str]:
    """Sets ``requires_grad`` of every parameter, whatever it was before, and returns the names of the trainable ones.

    Call it before the optimizer and DDP see the parameters. Frozen modules also need ``keep_frozen_in_eval``.

    Args:
        autoencoder: the module whose parameters are meant.
        train: ``all``; ``decoder`` with post_quant_conv; or ``encoder`` with quant_conv. A parameter belongs to the
            first of these that is a component of its name (``model.decoder.conv_in.weight``). Both sides freeze what
            belongs to neither, such as a VQModel's codebook, on which the side that stays relies.
        freeze: patterns of parameters to freeze besides: globs (``*``, ``?``, ``[...]``; ``*`` also crosses dots) or
            ``re:`` and a regular expression. They match a whole name, with or without the leading ``model.`` of an
            adapter.

    Returns:
        Names as in ``autoencoder.named_parameters()`` and in its order.

    Raises:
        ConfigurationError: ``train`` names a side that the parameters' names do not show, a pattern is no regular
            expression or matches no parameter, or nothing is left to train. Then nothing was changed.
    """
    names = [name for name, _ in autoencoder.named_parameters()]
    match train:
        case "all":
            chosen = list(names)
        case "decoder" | "encoder":
            chosen = _of_side(train, names, autoencoder)
        case _:
            raise ConfigurationError(f"train is {train!r}: expected all, decoder or encoder.")
    if isinstance(freeze, str):
        raise ConfigurationError(f"freeze is the text {freeze!r}: expected a list of patterns, such as [{freeze!r}].")
    frozen = {name for pattern in freeze for name in _matched(pattern, names)}
    chosen = [name for name in chosen if name not in frozen]
    if not chosen:
        why = f"train: {train}" + (f" and freeze: {', '.join(freeze)}" if freeze else "")
        raise ConfigurationError(
            f"Nothing is left to train: with {why} all {len(names)} parameters of the {type(autoencoder).__name__} are "
            "frozen. Remove or narrow a pattern, or train another side."
        )
    wanted = set(chosen)
    for name, parameter in autoencoder.named_parameters():
        parameter.requires_grad_(name in wanted)
    _warn_of_frozen_new_tensors(autoencoder, [name for name in names if name not in wanted])
    return chosen


def trained_part(autoencoder: nn.Module) -> TrainedPart:
    """Which side really trains, by the parameters and not by the setting: all of one side may be frozen by patterns."""
    trainable = [name for name, parameter in autoencoder.named_parameters() if parameter.requires_grad]
    for side in ("decoder", "encoder"):
        if trainable and all(part_of(name) in _SIDES[side] for name in trainable):
            return side
    return "all"


def keep_frozen_in_eval(module: nn.Module) -> None:
    """Puts every sub-module whose parameters are all frozen into evaluation mode, with everything inside it.

    A frozen batch normalisation would otherwise go on moving its running statistics, and a frozen part's dropout would
    stay on. Modules without parameters follow the one around them. The rest is left as it is, so a task calls this
    after ``train()``::

        def train(self, mode: bool = True) -> AutoencoderTraining:
            super().train(mode)
            keep_frozen_in_eval(self.autoencoder)
            return self

    and in ``on_train_start``: Lightning does not call ``train()`` itself, and after validation it restores the modes
    that it found. (The constructor would serve as well, but Lightning warns of evaluation mode before that hook.)
    """
    parameters = list(module.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        module.eval()
        return
    for child in module.children():
        keep_frozen_in_eval(child)


def _of_side(side: Literal["decoder", "encoder"], names: Sequence[str], autoencoder: nn.Module) -> list[str]:
    parts = [part_of(name) for name in names]
    if side not in parts:
        top = sorted({name.removeprefix(_ADAPTER).split(".")[0] for name in names})
        raise ConfigurationError(
            f"train is {side!r}, but no parameter of the {type(autoencoder).__name__} has {side!r} as a component of "
            f"its name; its parts are {', '.join(top) or 'none'}. For such an autoencoder only train: all and freeze "
            f"patterns apply, such as {top[0] if top else 'part'}.*."
        )
    return [name for name, part in zip(names, parts) if part in _SIDES[side]]


def part_of(name: str) -> str | None:
    """The first of the four parts that is a component of a parameter's name."""
    return next((part for part in name.split(".") if part in _PARTS), None)


def _matched(pattern: str, names: Sequence[str]) -> list[str]:
    """The names that match; at least one."""
    if pattern.startswith("re:"):
        try:
            expression = re.compile(pattern[len("re:") :])
        except re.error as error:
            raise ConfigurationError(f"freeze has {pattern!r}, which is no regular expression: {error}.") from error
        found = [name for name in names if any(expression.fullmatch(spelt) for spelt in _spellings(name))]
    else:
        found = [name for name in names if any(fnmatchcase(spelt, pattern) for spelt in _spellings(name))]
    if found:
        return found
    inside = [name for name in names if any(spelt.startswith(f"{pattern}.") for spelt in _spellings(name))]
    if inside:
        hint = f": that is a module, and patterns match its parameters. Write {pattern}.* to freeze all of them."
    else:
        choices = list(dict.fromkeys(spelt for name in names for spelt in _spellings(name)))
        modules = list(dict.fromkeys(spelt.rpartition(".")[0] + ".*" for spelt in choices))
        near = did_you_mean(pattern.removeprefix("re:"), choices + modules)
        whole = " as a whole" if pattern.startswith("re:") else ""
        hint = f"{whole}{near}. `named_parameters()` of the autoencoder lists all {len(names)} of them."
    raise ConfigurationError(f"freeze has {pattern!r}, which matches no parameter{hint}")


def _spellings(name: str) -> tuple[str, ...]:
    """A name in full, and as the model inside the adapter calls it."""
    return (name, name[len(_ADAPTER) :]) if name.startswith(_ADAPTER) else (name,)


def _warn_of_frozen_new_tensors(autoencoder: nn.Module, frozen: Sequence[str]) -> None:
    """An adapter tells which tensors are random because the latent has a new width; frozen they stay random."""
    new = set(getattr(autoencoder, "new_tensors", ()))
    if random := [name for name in frozen if new.intersection(_spellings(name))]:
        rank_zero_warn(
            f"The latent's new width made these tensors random, and they stay so because they are frozen: "
            f"{', '.join(random)}. Train them too (train: all), or keep the width of the source."
        )

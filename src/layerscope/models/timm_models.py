"""Building a model of timm and loading weights into it, for teachers and backbones alike."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from layerscope.errors import ConfigurationError, WeightsError
from layerscope.models.hub_sources import is_not_cached, unreachable_hub
from layerscope.models.weight_files import first_line, key_mismatch, name_keys, read_tensors


def create_timm_model(
    name: str, num_classes: int, pretrained: bool, model_kwargs: Mapping[str, Any], reserved: str
) -> nn.Module:
    """``timm.create_model``, imported here because that takes seconds.

    Args:
        name: timm's name.
        num_classes: outputs of the last layer; 0 leaves it out.
        pretrained: with timm's own weights.
        model_kwargs: further arguments.
        reserved: for the error where they name one that layerscope sets: what to use instead.

    Raises:
        ConfigurationError: timm does not know the name or an argument.
        WeightsError: its weights cannot be had.
    """
    import timm

    is_known = name.startswith(("hf-hub:", "hf_hub:", "local-dir:")) or timm.is_model(name)
    if not is_known:
        near = difflib.get_close_matches(name.split(".")[0], timm.list_models(), n=3)
        raise ConfigurationError(
            f"timm {timm.__version__} has no model {name!r}. "
            + (f"Did you mean {' or '.join(near)}?" if near else "timm.list_models() lists them.")
        )
    if taken := {"num_classes", "pretrained", "checkpoint_path"} & set(model_kwargs):
        raise ConfigurationError(
            f"model_kwargs sets {', '.join(sorted(taken))}, which layerscope sets itself: use {reserved}."
        )
    unreachable: str | None = None
    on_hub = name.startswith(("hf-hub:", "hf_hub:"))
    try:
        with unreachable_hub() if pretrained or on_hub else contextlib.nullcontext() as unreachable:
            model: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=num_classes, **model_kwargs)
    except Exception as error:  # with the network involved, errors of several libraries
        reason = unreachable if unreachable is not None and is_not_cached(error) else first_line(error)
        if pretrained:
            raise WeightsError(
                f"timm's weights of {name} could not be had: {reason} Without network, download the model's "
                "safetensors on another machine and give it as checkpoint, or do without pretrained."
            ) from error
        if on_hub and is_not_cached(error):
            raise WeightsError(
                f"timm could not fetch the configuration of {name}: {reason} Without network, give the model by timm's "
                "own name, or as local-dir:PATH a folder with its config.json and weights, fetched on another machine."
            ) from error
        raise ConfigurationError(f"timm cannot build {name} with {dict(model_kwargs)}: {reason}") from error
    return model


def load_timm_weights(model: nn.Module, path: str | Path, what: str, num_labels: int | None) -> None:
    """Copies the weights in a file into a timm model, all of them or none.

    Stored half-precision weights become those of the model's precision.

    Args:
        model: the timm model.
        path: a file for ``read_tensors``; a common prefix of the keys is recognised.
        what: of whom errors speak: teacher, backbone.
        num_labels: outputs of the last layer; None for a model without one, which leaves the file's out.

    Raises:
        WeightsError: as ``read_tensors``; or keys or shapes differ, or the file holds several such models.
    """
    stored = read_tensors(path)
    expected = dict(model.state_dict())
    found = _without_prefix(stored, expected, path, what)
    if num_labels is None:
        heads = _head_parts(model)
        found = {key: value for key, value in found.items() if key in expected or key.split(".")[0] not in heads}
    else:
        _check_outputs(model, found, expected, path, what, num_labels)
    # Counters of batches seen while training; they change no answer, and old files lack them.
    for key, value in expected.items():
        if key.endswith("num_batches_tracked"):
            found.setdefault(key, value)
    if problem := key_mismatch(expected, found):
        raise WeightsError(
            f"The {what}'s checkpoint {path} does not fit the model. {problem} Check the {what}'s name and "
            "model_kwargs against those it was trained with."
        )
    model.load_state_dict(found, strict=True)


@contextlib.contextmanager
def input_size_explained(name: str, x: Tensor, what: str, remedy: str) -> Iterator[None]:
    """timm asserts the input size of models with fixed position tables."""
    try:
        yield
    except AssertionError as error:
        raise ConfigurationError(
            f"The {what} {name} does not take images of {x.shape[-1]} × {x.shape[-2]} pixels: "
            f"{str(error).rstrip('.')}. {remedy}"
        ) from error


def _check_outputs(
    model: nn.Module,
    found: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    path: str | Path,
    what: str,
    num_labels: int,
) -> None:
    heads = {
        key: value.shape[0]
        for key in _head_weights(model)
        if (value := found.get(key)) is not None and value.shape[:1] != expected[key].shape[:1]
    }
    if heads:
        key, outputs = next(iter(heads.items()))
        raise WeightsError(
            f"The {what}'s checkpoint {path} has {outputs} outputs ({key}) and the configuration asks for "
            f"{num_labels} labels. Set num_labels to {outputs} and give the label schema it was trained with, or train "
            f"a {what} for these {num_labels} labels."
        )


def _without_prefix(
    stored: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: str | Path, what: str
) -> dict[str, Tensor]:
    """The part of the file that holds the model: under the prefix where most of the expected names are found."""
    hits: dict[str, int] = {}
    for key in stored:
        parts = key.split(".")
        for depth in range(len(parts)):
            if ".".join(parts[depth:]) in expected:
                prefix = "".join(f"{part}." for part in parts[:depth])
                hits[prefix] = hits.get(prefix, 0) + 1
    if not hits:
        raise WeightsError(
            f"The {what}'s checkpoint {path} has none of the model's weights. Looked for {name_keys(expected)} after "
            f"any prefix; found {name_keys(stored)}. Check the {what}'s name."
        )
    most = max(hits.values())
    best = [prefix for prefix, count in hits.items() if count == most]
    if len(best) > 1 and most > 1:
        raise WeightsError(
            f"The {what}'s checkpoint {path} holds several such models, under {', '.join(repr(p) for p in best)}. "
            "Save the state dict of the one you mean alone."
        )
    prefix = best[0]
    return {key[len(prefix) :]: value for key, value in stored.items() if key.startswith(prefix)}


def _head_weights(model: nn.Module) -> list[str]:
    """Names of the weight of the last layer (of both, in distilled models)."""
    classifier = model.get_classifier()  # type: ignore[operator]
    heads = classifier if isinstance(classifier, tuple) else (classifier,)
    modules = {id(module): name for name, module in model.named_modules()}
    return [f"{modules[id(head)]}.weight" for head in heads if isinstance(head, nn.Linear) and id(head) in modules]


def _head_parts(model: nn.Module) -> set[str]:
    """First part of the names of the last layer, as timm states it: ``fc``, ``head`` (of ``head.fc``)."""
    pretrained_cfg: Any = getattr(model, "pretrained_cfg", None) or {}
    stated = pretrained_cfg.get("classifier") or ()
    names = (stated,) if isinstance(stated, str) else stated
    return {name.split(".")[0] for name in names}

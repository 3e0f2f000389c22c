"""Watches layers of a model while it runs, and reduces what they compute at once."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from layerscope.errors import ConfigurationError, listed
from layerscope.probes.hooks import ForwardHooks, Watch, refuse_compiled
from layerscope.probes.outputs import tensor_of
from layerscope.probes.selection import LayerChoice, choose_layers


class Probe:
    """Calls ``reduce`` with the activations of chosen layers inside their forward hooks, and keeps what it returns.

    ::

        with Probe(vae, lambda name, tensor: tensor.square().mean(), ["decoder.up_blocks.*.resnets.*"]) as probe:
            for batch in batches:
                vae.decode(vae.encode(batch).latent_dist.mean)
                means = probe.take()

    The hooks are gone when the block is left, however it is left. It does not matter by which methods the model runs,
    as long as they call its modules. The probe holds no reference to the model, and no activation but those in
    ``keep`` and those that ``reduce`` returns.

    The first call of a layer has its name, a later one since the last ``take`` its name and number: ``name:2``.

    Args:
        root: the module whose ``named_modules`` are the layers' names.
        reduce: (name of the call, activation) to any result; runs on the activation's device, without gradient and
            without autocast. The activation may be overwritten by the next layer: return a copy, never a view.
        layers: what to watch (``choose_layers``); None is every module with a ``forward``.
        exclude: what not to watch after all.
        keep: names of watched layers (as in ``names``) whose activations are copied, on their device.
        byte_budget: most bytes that these copies may take at a time.

    Attributes:
        names: the watched layers, in the order of ``root.named_modules()``.
        classes: name to the name of the layer's class.
        silent: the layers that were not called before the last ``take``.

    Raises:
        ConfigurationError: layers that cannot be chosen, compiled modules (here and in ``attach``), or ``keep`` names
            a layer that is not watched. Inside the model's run: an output with no or several tensors, or copies beyond
            ``byte_budget``.
    """

    def __init__(
        self,
        root: nn.Module,
        reduce: Callable[[str, Tensor], Any],
        layers: Sequence[LayerChoice] | None = None,
        exclude: Sequence[LayerChoice] = (),
        keep: Sequence[str] = (),
        byte_budget: int = 256 * 2**20,
    ) -> None:
        refuse_compiled(root)
        chosen = choose_layers(root, layers, exclude)
        self.names: tuple[str, ...] = tuple(chosen)
        self.classes: dict[str, str] = {name: type(layer.module).__name__ for name, layer in chosen.items()}
        self.silent: tuple[str, ...] = ()
        if unknown := [name for name in keep if name not in chosen]:
            raise ConfigurationError(
                f"keep names {listed(unknown)}, which is not watched. Watched are {listed(self.names)}; add it to "
                "layers, or remove it from keep."
            )
        self._root = weakref.ref(root)
        self._layers = {name: (weakref.ref(layer.module), layer.path) for name, layer in chosen.items()}
        self._reduce = reduce
        self._keep = frozenset(keep)
        self._byte_budget = byte_budget
        self._hooks: ForwardHooks | None = None
        self._results: dict[str, Any] = {}
        self._calls: dict[str, int] = {}
        self._kept: dict[str, Tensor] = {}

    def attach(self) -> None:
        """Adds the hooks and forgets earlier results; does nothing where they are there already.

        Raises:
            ConfigurationError: a compiled module, or the model is gone.
        """
        if self._hooks is not None:
            return
        root = self._root()
        if root is None:
            raise ConfigurationError("The probe's model is gone: a probe does not keep it alive. Keep a reference.")
        refuse_compiled(root, (name.removesuffix(f"@{path}") for name, (_, path) in self._layers.items()))
        self._results, self._calls, self._kept = {}, {}, {}
        self._hooks = ForwardHooks(
            (module, self._watch(name, path))
            for name, (reference, path) in self._layers.items()
            if (module := reference()) is not None
        )

    def detach(self) -> None:
        """Removes the hooks; results stay until they are taken."""
        if self._hooks is not None:
            self._hooks.remove()
            self._hooks = None

    def __enter__(self) -> Probe:
        self.attach()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.detach()

    def take(self, require_all: bool = True) -> dict[str, Any]:
        """Results of the calls since the last ``take``, in the order in which the calls ended; their numbers restart.

        Args:
            require_all: whether a layer that was not called is an error; either way it is in ``silent``.

        Raises:
            ConfigurationError: layers that were not called; the results can still be taken with ``require_all=False``.
        """
        self.silent = tuple(name for name in self.names if name not in self._calls)
        if self.silent and require_all:
            raise ConfigurationError(
                f"{len(self.silent)} of {len(self.names)} watched layers were not called: {listed(self.silent)}. "
                + (
                    "Either the model did not run while it was watched, or its modules are compiled: probe the "
                    "uncompiled model (compile: false)."
                    if len(self.silent) == len(self.names)
                    else "They are no part of this computation (an encoder where only the decoder runs), or a fused or "
                    "compiled module computes them without calling them. Leave them out with exclude."
                )
            )
        results, self._results, self._calls = self._results, {}, {}
        return results

    def kept(self) -> dict[str, Tensor]:
        """Hands over the activations of ``keep`` since they were last asked for; of calls of equal name the last."""
        kept, self._kept = self._kept, {}
        return kept

    def _watch(self, name: str, path: str | None) -> Watch:
        @torch.no_grad()
        def watch(output: Any) -> None:
            tensor = tensor_of(output, path, name).detach()
            number = self._calls.get(name, 0) + 1
            self._calls[name] = number
            call = name if number == 1 else f"{name}:{number}"
            if name in self._keep:
                self._keep_copy(call, tensor)
            with _no_autocast(tensor.device.type):
                try:
                    self._results[call] = self._reduce(call, tensor)
                except Exception as error:
                    _tell_layer(error, call)
                    raise

        return watch

    def _keep_copy(self, call: str, tensor: Tensor) -> None:
        """A copy, because a later layer may write into the activation (``ReLU(inplace=True)``)."""
        self._kept.pop(call, None)
        wanted = tensor.numel() * tensor.element_size()
        held = sum(one.numel() * one.element_size() for one in self._kept.values())
        if held + wanted > self._byte_budget:
            raise ConfigurationError(
                f"The activation of {call} takes {wanted:,} bytes; with the {held:,} bytes kept already that is beyond "
                f"the budget of {self._byte_budget:,} bytes. Keep fewer layers, use smaller batches, or raise "
                "byte_budget."
            )
        self._kept[call] = tensor.clone()


def _no_autocast(device: str) -> contextlib.AbstractContextManager[Any]:
    """A matrix product in a reduction must not become one of bfloat16; entering nothing is faster."""
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return contextlib.nullcontext()


def _tell_layer(error: Exception, call: str) -> None:
    """Puts the layer in front of the message; the error stays of its own type."""
    told = f"Reducing the activation of {call}:"
    if error.args and isinstance(error.args[0], str):
        error.args = (f"{told} {error.args[0]}", *error.args[1:])
    else:
        error.args = (told, *error.args)

"""Every layer of a model that can be named, and what it gives in one run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from layerscope.probes.hooks import ForwardHooks, Watch, refuse_compiled
from layerscope.probes.outputs import tensors_in
from layerscope.probes.selection import has_forward


@dataclass(frozen=True)
class LayerRecord:
    """One layer in one run.

    name: as ``choose_layers`` takes it. module_class: name of its class.
    shapes: path in the output ("" for an output that is a tensor) to the shapes of the floating-point tensor there,
        batch first, different ones in the order of the calls; empty where it was not called or gives none.
    parameters: numbers in it and in the modules inside it.
    calls: how often it was called.
    selectable: whether it can be watched in such a run: it was called and gave a floating-point tensor. Where there is
        more than one path, one must be said.
    """

    name: str
    module_class: str
    shapes: dict[str, tuple[tuple[int, ...], ...]]
    parameters: int
    calls: int
    selectable: bool


@torch.no_grad()
def list_layers(root: nn.Module, run: Callable[[], object]) -> list[LayerRecord]:
    """The modules inside ``root`` that have a ``forward``, in the order of ``root.named_modules()``.

    Args:
        root: the module whose ``named_modules`` are the names.
        run: makes the model run once, for instance on one image; without gradient, on any device.

    Raises:
        ConfigurationError: a compiled module.
    """
    modules = {name: module for name, module in root.named_modules() if module is not root and has_forward(module)}
    refuse_compiled(root, modules)
    calls = dict.fromkeys(modules, 0)
    shapes: dict[str, dict[str, dict[tuple[int, ...], None]]] = {name: {} for name in modules}

    def watch(name: str) -> Watch:
        def record(output: Any) -> None:
            calls[name] += 1
            for path, tensor in tensors_in(output):
                shapes[name].setdefault(path, {})[tuple(tensor.shape)] = None

        return record

    with ForwardHooks((module, watch(name)) for name, module in modules.items()):
        run()
    return [
        LayerRecord(
            name=name,
            module_class=type(module).__name__,
            shapes={path: tuple(seen) for path, seen in shapes[name].items()},
            parameters=sum(parameter.numel() for parameter in module.parameters()),
            calls=calls[name],
            selectable=bool(shapes[name]),
        )
        for name, module in modules.items()
    ]

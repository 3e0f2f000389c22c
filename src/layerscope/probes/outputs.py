"""The tensors in what a layer gives back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

from layerscope.errors import ConfigurationError, listed


def tensors_in(output: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every floating-point tensor of an output with its path, in order; others, None and non-tensors are passed over.

    Tuples, lists, mappings (the named outputs of transformers and diffusers are such) and dataclasses are looked into.
    A path is dotted: ``hidden_states.2``, ``0``; that of an output that is a tensor itself is "".
    """
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield path, output
        return
    for key, value in _entries(output):
        yield from tensors_in(value, f"{path}.{key}" if path else str(key))


def tensor_of(output: Any, path: str | None, layer: str) -> Tensor:
    """The one tensor of a layer's output that is meant.

    Args:
        output: what the layer gave back.
        path: where in the output it is; may end above the tensor, where only one is below. None where the output has
            one floating-point tensor only.
        layer: the layer's name, for messages.

    Raises:
        ConfigurationError: several tensors (with their paths), no such path (with those there are), or none at all.
    """
    if path is None and isinstance(output, Tensor) and output.is_floating_point():
        return output
    found = list(tensors_in(output))
    if not found:
        raise ConfigurationError(
            f"The layer {layer} gives {_kind(output)}, in which there is no floating-point tensor. Leave it out with "
            "exclude, or choose a layer before or after it."
        )
    meant = [(at, one) for at, one in found if path is None or at == path or at.startswith(f"{path}.")]
    name = layer.removesuffix(f"@{path}")
    if len(meant) == 1:
        return meant[0][1]
    if meant:
        raise ConfigurationError(
            f"The layer {layer} gives {_kind(output)} with {len(meant)} tensors, and it was not said which is meant. "
            f"Write one of {listed([f'{name}@{at}' for at, _ in meant])} in layers, or leave it out with exclude."
        )
    existing = [f"{name}@{at}" if at else f"{name} (it gives a single tensor)" for at, _ in found]
    raise ConfigurationError(
        f"The layer {name} gives {_kind(output)}, in which there is nothing at {path!r}. Write {listed(existing)}."
    )


def _entries(output: Any) -> Iterable[tuple[object, Any]]:
    match output:
        case Mapping():
            return output.items()
        case tuple() if hasattr(output, "_fields"):
            return zip(output._fields, output)
        case tuple() | list():
            return enumerate(output)
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return [(entry.name, getattr(output, entry.name)) for entry in dataclasses.fields(output)]
    return ()


def _kind(output: Any) -> str:
    return f"a tensor of {output.dtype}" if isinstance(output, Tensor) else f"a {type(output).__name__}"

"""Hashes that tell whether two runs used the same weights and the same view of the images, and an order by hash."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def rows_by_hash(ids: Sequence[str]) -> list[int]:
    """The rows of ``ids`` in the order of a hash of the ids: unrelated to their names, and to the rows' own order."""
    return sorted(range(len(ids)), key=lambda row: (hashlib.blake2b(ids[row].encode(), digest_size=8).digest(), row))


def weights_hash(module: nn.Module) -> str:
    """SHA-256 over the names, types, shapes and bytes of a module's parameters and buffers."""
    return tensors_hash(module.state_dict())


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, types, shapes and bytes of tensors; their order does not matter."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def definition_hash(module: nn.Module) -> str:
    """SHA-256 over all of a module that can be seen: weights, every buffer, and what no weight tells.

    The latter are the classes of its submodules, what they print of themselves, and their attributes of plain values:
    a scaling factor, tiling, an activation. Whatever prints an address in memory is left out.
    """
    parts = [weights_hash(module), tensors_hash(dict(module.named_buffers()))]
    machinery = vars(nn.Module())
    for name, one in module.named_modules():
        kind = type(one)
        parts.append(f"{name} {kind.__module__}.{kind.__qualname__} {one.extra_repr()}")
        plain = {key: repr(value) for key, value in vars(one).items() if key not in machinery}
        parts += [f"{key}={value}" for key, value in sorted(plain.items()) if " at 0x" not in value]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def teacher_hash(teacher: nn.Module, data: Any) -> str:
    """SHA-256 over a teacher's weights and over how images reach them.

    How ``data`` cuts and resizes, how the teacher resizes and normalises: its ``input_size`` and ``resize_filter``, and
    the buffers that are no part of its weights, where layerscope's teachers keep mean and std.
    """
    view = [getattr(data, name, None) for name in ("image_size", "center_crop_size", "resize_filter")]
    view += [getattr(teacher, name, None) for name in ("input_size", "resize_filter")]
    stored = set(teacher.state_dict())
    view += [(name, value.tolist()) for name, value in teacher.named_buffers() if name not in stored]
    return hashlib.sha256(f"{weights_hash(teacher)} {view}".encode()).hexdigest()

"""Hashes that tell whether two runs used the same weights and the same view of the images."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import nn


def weights_hash(module: nn.Module) -> str:
    """SHA-256 over the names, types, shapes and bytes of a module's parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def teacher_hash(teacher: nn.Module, data: Any) -> str:
    """SHA-256 over a teacher's weights and over how ``data`` cuts and resizes images before it sees them."""
    view = [getattr(data, name, None) for name in ("image_size", "center_crop_size", "resize_filter")]
    return hashlib.sha256(f"{weights_hash(teacher)} {view}".encode()).hexdigest()

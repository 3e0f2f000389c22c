"""What every process knows, on every process."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Trainer


def gather_objects(trainer: Trainer, value: Any) -> list[Any]:
    """The value of every process, in the order of ranks; a collective operation, so all processes must come along."""
    if trainer.world_size == 1:
        return [value]
    parts: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(parts, value)
    return parts

"""What every process knows, on every process."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Trainer

from layerscope.errors import LayerscopeError


def gather_objects(trainer: Trainer, value: Any) -> list[Any]:
    """The value of every process, in the order of ranks; a collective operation, so all processes must come along.

    Raises:
        LayerscopeError: on the first process, where another has ended; the others end with status 1 and without a word
            where the first has, which told why.
    """
    if trainer.world_size == 1:
        return [value]
    parts: list[Any] = [None] * trainer.world_size
    try:
        torch.distributed.all_gather_object(parts, value)
    except RuntimeError as error:
        if not trainer.is_global_zero:
            raise SystemExit(LayerscopeError.exit_status) from error
        raise LayerscopeError(
            f"One of the {trainer.world_size} processes ended before the figures of all could be brought together. Its "
            "own message says why; without one it was killed, as for want of memory."
        ) from error
    return parts

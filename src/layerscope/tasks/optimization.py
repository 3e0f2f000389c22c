"""An optimizer and the course of its learning rate."""

from __future__ import annotations

from typing import Any, Literal

from lightning.pytorch import Trainer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from layerscope.errors import ConfigurationError
from layerscope.functional.schedules import warmup_cosine

LearningRateSchedule = Literal["cosine", "constant"]


def with_schedule(
    optimizer: Optimizer, trainer: Trainer, schedule: LearningRateSchedule, warmup_fraction: float
) -> Any:
    """What ``configure_optimizers`` returns: a linear rise, then half a cosine to zero or a constant rate, by step."""
    if schedule not in ("cosine", "constant"):
        raise ConfigurationError(f"lr_schedule is {schedule!r}: expected cosine or constant.")
    if schedule == "constant" and warmup_fraction == 0:
        return optimizer
    steps = int(trainer.estimated_stepping_batches)
    factor = warmup_cosine(steps, warmup_fraction, decay=schedule == "cosine")
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}

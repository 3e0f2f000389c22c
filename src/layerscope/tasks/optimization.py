"""An optimizer and the course of its learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LRSchedulerCallable, ReduceLROnPlateau
from lightning.pytorch.utilities import rank_zero_warn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from layerscope.errors import ConfigurationError
from layerscope.functional.schedules import warmup_cosine

LearningRateSchedule = Literal["cosine", "constant"]
Interval = Literal["step", "epoch"]


def with_schedule(
    optimizer: Optimizer,
    trainer: Trainer,
    schedule: LearningRateSchedule | LRSchedulerCallable,
    warmup_fraction: float,
    interval: Interval = "epoch",
) -> Any:
    """What ``configure_optimizers`` returns.

    schedule: after a linear rise over ``warmup_fraction`` of all steps, half a ``cosine`` to zero or a ``constant``
        rate; or a function from the optimizer to a torch scheduler, which takes the place of both.
    interval: whether a torch scheduler advances after every optimizer step or every epoch.
    """
    if callable(schedule):
        if interval not in ("step", "epoch"):
            raise ConfigurationError(f"lr_interval is {interval!r}: expected step or epoch.")
        scheduler: Any = schedule(optimizer)
        entry: dict[str, Any] = {"scheduler": scheduler, "interval": interval}
        if isinstance(scheduler, ReduceLROnPlateau):
            entry["monitor"] = scheduler.monitor
        return {"optimizer": optimizer, "lr_scheduler": entry}
    if schedule not in ("cosine", "constant"):
        raise ConfigurationError(
            f"lr_schedule is {schedule!r}: expected cosine, constant or a torch scheduler by class_path."
        )
    if schedule == "constant" and warmup_fraction == 0:
        return optimizer
    steps = int(trainer.estimated_stepping_batches)
    factor = warmup_cosine(steps, warmup_fraction, decay=schedule == "cosine")
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}


def warn_of_half_precision(parameters: Sequence[torch.nn.Parameter]) -> None:
    """Master weights belong in float32: what is added to a half-precision weight must reach half its spacing."""
    half = {parameter.dtype for parameter in parameters} & {torch.bfloat16, torch.float16}
    if half:
        names = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in half))
        rank_zero_warn(
            f"The trained weights are {names}: most steps of a small learning rate round away, and training stands "
            "still. Use trainer.precision bf16-mixed, which computes in bfloat16 and keeps the weights in float32."
        )

"""An optimizer and the course of its learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn
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


def warn_of_half_precision(parameters: Sequence[torch.nn.Parameter]) -> None:
    """Master weights belong in float32: what is added to a half-precision weight must reach half its spacing."""
    half = {parameter.dtype for parameter in parameters} & {torch.bfloat16, torch.float16}
    if half:
        names = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in half))
        rank_zero_warn(
            f"The trained weights are {names}: most steps of a small learning rate round away, and training stands "
            "still. Use trainer.precision bf16-mixed, which computes in bfloat16 and keeps the weights in float32."
        )

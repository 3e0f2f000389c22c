"""An optimizer and the course of its learning rate."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LRSchedulerCallable, ReduceLROnPlateau
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
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
    interval: whether a torch scheduler advances after every optimizer step or every epoch. A ``ReduceLROnPlateau``
        looks at every validation instead, see ``step_plateaus``.

    Raises:
        ConfigurationError: no such schedule, or one over all steps of a training without end.
    """
    if callable(schedule):
        if interval not in ("step", "epoch"):
            raise ConfigurationError(f"lr_interval is {interval!r}: expected step or epoch.")
        scheduler: Any = schedule(optimizer)
        entry: dict[str, Any] = {"scheduler": scheduler, "interval": interval}
        if isinstance(scheduler, ReduceLROnPlateau):
            # Lightning stores its state and never steps it, since it forgets to after a resume: step_plateaus does.
            entry |= {"monitor": scheduler.monitor, "frequency": sys.maxsize}
        return {"optimizer": optimizer, "lr_scheduler": entry}
    if schedule not in ("cosine", "constant"):
        raise ConfigurationError(
            f"lr_schedule is {schedule!r}: expected cosine, constant or a torch scheduler by class_path."
        )
    if schedule == "constant" and warmup_fraction == 0:
        return optimizer
    steps = trainer.estimated_stepping_batches
    if math.isinf(steps):
        raise ConfigurationError(
            "The training has no end that could be counted in steps, which lr_schedule and warmup_fraction need: set "
            "trainer.max_epochs or trainer.max_steps, or take lr_schedule: constant with warmup_fraction: 0."
        )
    steps = int(steps)
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


def step_plateaus(trainer: Trainer, figures: Mapping[str, float]) -> None:
    """Shows the figures of a validation to every ``ReduceLROnPlateau``, before checkpoints of it are written.

    Lightning would step them after those checkpoints, and not at all in an epoch that was resumed: each resume would
    lose a step.

    Raises:
        ConfigurationError: the monitored figure is none of this validation's.
    """
    for config in trainer.lr_scheduler_configs:
        if not isinstance(config.scheduler, ReduceLROnPlateau):
            continue
        if config.monitor is None or config.monitor not in figures:
            raise ConfigurationError(
                f"ReduceLROnPlateau monitors {config.monitor!r}, which validation does not measure: "
                f"{', '.join(sorted(figures))}."
            )
        config.scheduler.step(figures[config.monitor])


def clip_gradients(
    parameters: Sequence[nn.Parameter], norm: Tensor, limit: float | None, algorithm: str | None
) -> None:
    """Clips as a Trainer's ``gradient_clip_val`` and ``gradient_clip_algorithm`` would, with a norm that is known."""
    if not limit:
        return
    if algorithm == "value":
        torch.nn.utils.clip_grad_value_(parameters, limit)
    else:
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)

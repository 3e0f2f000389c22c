"""A progress bar that names what a diagnosis is judging."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

from layerscope.types import Condition

REDRAWN_AFTER = 0.1
"""Seconds."""


class ConditionProgressBar(TQDMProgressBar):
    """Lightning's bar, and during a diagnosis the condition at work and the images judged per second.

    A batch of a diagnosis is dozens of decoder calls, so the plain bar would stand still for long. In training the bar
    is drawn at most ten times a second and at the last batch: drawing it takes part of a millisecond.
    """

    def __init__(self, refresh_rate: int = 1) -> None:
        super().__init__(refresh_rate=refresh_rate)
        self._judged = 0
        self._started = 0.0
        self._shown = 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.monotonic()
        due = (batch_idx + 1) % max(self.refresh_rate, 1) == 0 and now - self._shown >= REDRAWN_AFTER
        if due or trainer.is_last_batch or trainer.global_step == trainer.max_steps:
            self._shown = now
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_test_start(trainer, pl_module)
        listeners: Any = getattr(pl_module, "condition_listeners", None)
        if listeners is not None and self._show not in listeners:
            listeners.append(self._show)
        self._judged, self._started = 0, time.monotonic()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._let_go(pl_module)
        super().on_test_end(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Lightning calls no ``on_test_end`` when a step raises."""
        self._let_go(pl_module)
        super().on_exception(trainer, pl_module, exception)

    def _let_go(self, pl_module: LightningModule) -> None:
        listeners: Any = getattr(pl_module, "condition_listeners", [])
        if self._show in listeners:
            listeners.remove(self._show)

    def _show(self, condition: Condition, images: int) -> None:
        self._judged += images
        now = time.monotonic()
        if self.is_disabled or not hasattr(self, "_test_progress_bar") or now - self._shown < 0.2:
            return
        self._shown = now
        name = condition.name if condition.draw is None else f"{condition.name} draw {condition.draw + 1}"
        rate = self._judged / max(now - self._started, 1e-9)
        self.test_progress_bar.set_postfix_str(f"{name}, {rate:.0f} judged/s", refresh=True)

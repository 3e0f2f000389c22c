"""Averaged weights that are exact where nothing moves."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor


class EMA(EMAWeightAveraging):
    """Lightning's exponential moving average of the weights, computed as average + (1 − decay)·(weight − average).

    Lightning's decay·average + (1 − decay)·weight rounds differently: the average of a weight that never moves drifts
    from it, by up to 1.3e-5 of its value in 2,000 steps, and a training of the decoder alone would export another
    encoder than it began with. Counters among the buffers are taken over as they are.

    In the beginning the n-th update keeps (1 + n) / (10 + n) of the average, as far as that is less than ``decay``
    (TensorFlow's rule, and diffusers'): otherwise a run of a few hundred steps would be judged by weights that are
    mostly its first.

    The average is used in validation, stored in checkpoints beside the current weights, and left in the model at the
    end; it is of the task, so all trained parameters are in it.

    Args:
        decay: share of the average that stays at each update, in the end.
        update_every_n_steps: optimizer steps between updates.
        update_starting_at_step: the first step that updates it; before, it stays at the starting weights.
        device: where the copy is kept; None keeps it beside the model, ``cpu`` saves memory of the GPU.
    """

    def __init__(
        self,
        decay: float = 0.999,
        update_every_n_steps: int = 1,
        update_starting_at_step: int | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__(
            device=device,
            decay=decay,
            update_every_n_steps=update_every_n_steps,
            update_starting_at_step=update_starting_at_step,
        )

        self._decay = self._decay_now = decay
        self._kwargs["avg_fn"] = self._interpolated

    def _interpolated(self, average: Tensor, current: Tensor, updates: Tensor | int) -> Tensor:
        current = current.to(average.device)
        return torch.lerp(average, current, 1 - self._decay_now) if average.is_floating_point() else current

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *arguments: Any) -> None:
        assert self._average_model is not None
        updates = int(self._average_model.n_averaged)
        self._decay_now = min(self._decay, (1 + updates) / (10 + updates))
        super().on_train_batch_end(trainer, pl_module, *arguments)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning copies the model in setup, before it moves it to its device.
        if self._device is None and self._average_model is not None:
            self._average_model.to(pl_module.device)

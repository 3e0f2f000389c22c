"""The history of a training, written anew after every epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from layerscope.artifacts import HISTORY_JSON, RunDirectory, read_history, write_history
from layerscope.callbacks.run_folder import run_folder
from layerscope.errors import ConfigurationError
from layerscope.report.figure_style import png
from layerscope.report.figures_training import training_curves_figure

Row = dict[str, Any]


class TrainingHistory(Callback):
    """One row per epoch in ``training_history.json`` and ``.csv``, and ``training_curves.png`` drawn from them.

    A row has the number of finished ``epoch``s, the ``batches`` each process has trained on since the beginning,
    ``seconds`` of the whole epoch and ``train_seconds`` without validation, ``images_per_second`` over the latter on
    all processes together, the learning rate(s) of the last step, and every metric that was logged in this epoch.
    (Lightning keeps the metrics of the latest validation; they are left out of an epoch without one.) What the task's
    ``training_step`` returns as ``values`` (name to scalar) is averaged over the epoch's images of the first process;
    a metric that is only logged has its last value.

    One group of parameters has its learning rate in ``lr``; else ``lr/<optimizer>/<group>``, both counted from 0.

    The rows travel in the checkpoint, so that a resumed run continues the table, in another directory too. A
    checkpoint that was saved when validation ended, before the epoch did, holds the row of that epoch without the
    means over its training steps; where the file in the run directory has the full row, that is taken. Of an epoch
    that was resumed in the middle, seconds and images per second tell the part after resuming.

    Args:
        curves_every_n_epochs: how often the figure is drawn besides at the end.
    """

    def __init__(self, curves_every_n_epochs: int = 10) -> None:
        if curves_every_n_epochs < 1:
            raise ConfigurationError(f"curves_every_n_epochs is {curves_every_n_epochs}: expected 1 or more.")
        self.curves_every_n_epochs = curves_every_n_epochs
        self._rows: list[Row] = []
        self._open_row: Row | None = None
        self._before: dict[str, Any] = {}
        self._rates: dict[str, Any] = {}
        self._images = 0
        self._sums: dict[tuple[str, ...], tuple[Tensor | int, int]] = {}
        self._started = self._validating_since = time.monotonic()
        self._validation_seconds = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self._rows, "open_row": self._open_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._rows = [dict(row) for row in state_dict["rows"]]
        self._open_row = state_dict["open_row"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            run_folder(trainer)  # a missing run directory is an error now, not after the first epoch

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._open_row is not None:
            self._enter(self._full_row(trainer, self._open_row))
            self._open_row = None
        self._start_epoch({})

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start_epoch(dict(trainer.callback_metrics))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        # Here, because Lightning steps the schedulers before on_train_batch_end.
        self._rates = _learning_rates(trainer)
        self._images += len(batch["index"])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        values = outputs.get("values", {}) if isinstance(outputs, Mapping) else {}
        if values:
            # Summed on the device: nothing waits for it before the epoch ends. Terms may set in later, under new names.
            images = len(batch["index"])
            total, count = self._sums.get(tuple(values), (0, 0))
            weighted = images * torch.stack([value.double() for value in values.values()])
            self._sums[tuple(values)] = (total + weighted, count + images)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validating_since = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        self._validation_seconds += time.monotonic() - self._validating_since
        if self._rates:
            # ModelCheckpoint saves after this hook and before the epoch ends.
            self._open_row = self._row(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._open_row = None
        # A run resumed from a checkpoint of the epoch's last moments ends that epoch again, without a step: its row
        # is there already.
        if self._rates or not self._rows or self._rows[-1]["epoch"] <= trainer.current_epoch:
            self._enter(self._row(trainer, pl_module))
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._write(trainer, curves=self._rows[-1]["epoch"] % self.curves_every_n_epochs == 0)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and not trainer.fast_dev_run and self._rows:  # type: ignore[attr-defined]
            self._write(trainer, curves=True)

    def _start_epoch(self, known: dict[str, Any]) -> None:
        self._before, self._rates, self._images, self._validation_seconds = known, {}, 0, 0.0
        self._sums = {}
        self._started = time.monotonic()

    def _row(self, trainer: Trainer, pl_module: LightningModule) -> Row:
        """The row as far as it is known; a collective operation, because it counts the images of all processes."""
        seconds = time.monotonic() - self._started
        train_seconds = seconds - self._validation_seconds
        seen = torch.tensor(self._images, dtype=torch.int64, device=pl_module.device)
        images = int(trainer.strategy.reduce(seen, reduce_op="sum"))
        # A metric that was logged again is another object than before, whatever its value.
        logged = {k: float(v) for k, v in trainer.callback_metrics.items() if v is not self._before.get(k)}
        logged |= self._means()
        own = {
            "epoch": trainer.current_epoch + 1,
            "batches": trainer.fit_loop.total_batch_idx + 1,
            "seconds": seconds,
            "train_seconds": train_seconds,
            "images_per_second": images / train_seconds if train_seconds > 0 else math.nan,
            **{name: float(rate) for name, rate in self._rates.items()},
        }
        return own | {name: value for name, value in logged.items() if name not in own}

    def _means(self) -> dict[str, float]:
        """Of what the steps returned, over the images of those that returned it."""
        totals: dict[str, tuple[float, int]] = {}
        for names, (sums, images) in self._sums.items():
            for name, value in zip(names, torch.as_tensor(sums).tolist()):
                total, count = totals.get(name, (0.0, 0))
                totals[name] = (total + value, count + images)
        return {name: total / count for name, (total, count) in totals.items()}

    def _enter(self, row: Row) -> None:
        """Adds a row, or replaces that of the same epoch and drops later ones, which are being trained again."""
        self._rows = [*(one for one in self._rows if one["epoch"] < row["epoch"]), row]

    def _full_row(self, trainer: Trainer, open_row: Row) -> Row:
        directory = _directory(trainer)
        if directory is None or not (directory.path / HISTORY_JSON).is_file():
            return open_row
        same = [row for row in read_history(directory.path) if row["epoch"] == open_row["epoch"]]
        return same[0] if same and same[0]["batches"] == open_row["batches"] else open_row

    def _write(self, trainer: Trainer, curves: bool) -> None:
        directory = run_folder(trainer).directory
        assert directory is not None
        figure = training_curves_figure(self._rows) if curves else None
        with directory.staged() as stage:
            write_history(stage, self._rows)
            if figure is not None:
                stage.write_bytes("training_curves.png", png(figure))


def _directory(trainer: Trainer) -> RunDirectory | None:
    """The run directory; None on other processes than the first, and in a dry run."""
    if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return None
    return run_folder(trainer).directory


def _learning_rates(trainer: Trainer) -> dict[str, Any]:
    groups = {
        f"lr/{i}/{j}": group["lr"]
        for i, optimizer in enumerate(trainer.optimizers)
        for j, group in enumerate(optimizer.param_groups)
    }
    return {"lr": next(iter(groups.values()))} if len(groups) == 1 else groups

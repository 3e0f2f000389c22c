"""The table that ``layerscope predict`` writes for a teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from layerscope.artifacts import write_table
from layerscope.data.labelled import labelled_data
from layerscope.errors import ConfigurationError
from layerscope.metrics.table import IndexedTable


class PredictionTable(Callback):
    """``predictions_<split>.csv`` in the run directory: id, and one column of probabilities per label.

    Rows are in the order of the split, each image once on any number of processes. The table may stand beside the
    results of a finished evaluation, which it leaves alone; an existing table is never replaced.
    """

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data: Any = labelled_data(trainer)
        self._path = Path(trainer.default_root_dir) / f"predictions_{data.eval_split}.csv"
        if self._path.exists():
            raise ConfigurationError(f"{self._path} exists already. Move it away, or choose another --experiment_name.")
        loader: Any = trainer.predict_dataloaders
        self._ids = list(loader.dataset.ids)
        columns: dict[str, tuple[int, ...]] = {"probability": (len(data.labels),)}
        self._table = IndexedTable(len(self._ids), columns).to(pl_module.device)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._table.update(batch["index"], {"probability": outputs["probability"]})

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        probability = self._table.compute()["probability"].tolist()
        if not trainer.is_global_zero:
            return
        names = labelled_data(trainer).labels.names
        rows = [{"id": name, **dict(zip(names, row))} for name, row in zip(self._ids, probability)]
        write_table(self._path, rows, ("id", *names))
        print(f"\nPredictions: {self._path}")

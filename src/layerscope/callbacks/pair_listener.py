"""What every callback does that reads the measurements of pairs batch by batch."""

from __future__ import annotations

from typing import Any, cast

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from layerscope.callbacks.layer_differences import LayerDifferences
from layerscope.errors import ConfigurationError
from layerscope.types import PairOutput


class PairListener(Callback):
    """Calls ``on_pairs`` for each measured batch of pairs; the floor's are left out.

    Attributes:
        measuring: the trainer's LayerDifferences, set when the test starts.
        not_measured: what it could not do, and why, for the summary.
    """

    measuring: LayerDifferences
    not_measured: list[dict[str, str]]

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.measuring = measuring_callback(trainer, self)
        self.not_measured = []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        output = cast(PairOutput, outputs)
        if output.role == "pair" and output.id:
            self.on_pairs(output)

    def on_pairs(self, output: PairOutput) -> None:
        """``measuring.seen`` and ``measuring.values`` are those of ``output``."""


def measuring_callback(trainer: Trainer, reader: Callback | None = None) -> LayerDifferences:
    """The trainer's LayerDifferences; it must stand before ``reader``, which reads it batch by batch."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if isinstance(callback, LayerDifferences):
            if reader is None or callbacks.index(callback) < callbacks.index(reader):
                return callback
            raise ConfigurationError(
                f"{type(reader).__name__} stands before LayerDifferences among the trainer's callbacks, and would read "
                "what was measured of the batch before. Put LayerDifferences first, as configs/pairs/folder.yaml does."
            )
    raise ConfigurationError(
        "Nothing measures the layers: put layerscope.callbacks.layer_differences.LayerDifferences first among the "
        "trainer's callbacks, as configs/pairs/folder.yaml does."
    )

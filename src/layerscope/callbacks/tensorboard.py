"""Figures, pictures, headline figures and hyperparameters of a result in TensorBoard."""

from __future__ import annotations

import math
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure

from layerscope.callbacks.worst_samples import WorstSamples


def log_result(trainer: Trainer, figures: dict[str, Figure], scalars: dict[str, float]) -> None:
    """Logs a finished result to every TensorBoard logger of the trainer; the files stay the source of truth."""
    for logger in trainer.loggers:
        if not isinstance(logger, TensorBoardLogger):
            continue
        finite = {name: value for name, value in scalars.items() if math.isfinite(value)}
        logger.log_hyperparams(_hyperparameters(trainer), metrics=finite)
        writer = logger.experiment
        for name, figure in figures.items():
            writer.add_figure(name.removesuffix(".png"), figure, close=False)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, WorstSamples):
                for sample, picture in callback.pictures:
                    writer.add_image(f"worst_samples/{sample}", picture, dataformats="HWC")
        writer.flush()


def _hyperparameters(trainer: Trainer) -> dict[str, Any]:
    """Plain values that tell runs apart in the hparams view."""
    module: Any = trainer.lightning_module
    described: dict[str, Any] = module.describe() if hasattr(module, "describe") else {}
    plain = {key: value for key, value in described.items() if isinstance(value, (str, int, float, bool))}
    for name in ("autoencoder", "teacher"):
        if hasattr(module, name):
            plain[name] = str(getattr(getattr(module, name), "source_name", type(getattr(module, name)).__name__))
    return plain

"""Checkpoints that are kept while training goes on."""

from __future__ import annotations

from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor


class EpochCheckpoint(ModelCheckpoint):
    """Keeps ``epoch_<n>.ckpt`` after every so many epochs, beside the best and the last of other callbacks.

    n counts finished epochs, as in ``recon_epoch_<n>.png``; Lightning's own ``{epoch}`` counts from 0.

    Args:
        every_n_epochs: how often.
    """

    def __init__(self, every_n_epochs: int = 10) -> None:
        super().__init__(
            filename="epoch_{epoch}",
            auto_insert_metric_name=False,
            every_n_epochs=every_n_epochs,
            save_top_k=-1,
            # Where validation comes within an epoch, the epoch is not finished yet.
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )

    def format_checkpoint_name(
        self,
        metrics: dict[str, Tensor],
        filename: str | None = None,
        ver: int | None = None,
        prefix: str | None = None,
    ) -> str:
        if "epoch" in metrics:
            metrics = {**metrics, "epoch": metrics["epoch"] + 1}
        return super().format_checkpoint_name(metrics, filename, ver, prefix)

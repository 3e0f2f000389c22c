"""Checkpoints of VAE training, written by Lightning itself from a small task that keeps the contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader

from layerscope.models.autoencoders import DiffusersAutoencoder
from layerscope.models.trained_checkpoint import RECORD


class Reconstruct(LightningModule):
    """Trains a ``DiffusersAutoencoder`` on random images and describes it in its checkpoints."""

    def __init__(self, autoencoder: nn.Module, record: dict[str, Any]) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.record = record

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return (self.autoencoder.decode(self.autoencoder.encode(batch).mean) - batch).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[RECORD] = self.record


class KeepCurrent(Callback):
    """The weights after the last step, before an averaging callback replaces them."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.weights = {key: value.clone() for key, value in pl_module.state_dict().items()}
        trainer.save_checkpoint(Path(trainer.default_root_dir) / "last.ckpt")


def train(folder: Path, autoencoder: DiffusersAutoencoder, record: dict[str, Any], *callbacks: Callback) -> KeepCurrent:
    """Three steps; leaves ``folder/last.ckpt``, saved by Lightning after the last of them."""
    keep = KeepCurrent()
    data = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(4)) * 2 - 1
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_steps=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*callbacks, keep],
    )
    trainer.fit(Reconstruct(autoencoder, record), DataLoader(data, batch_size=2))
    return keep

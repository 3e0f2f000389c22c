"""A VAE with two parameters, and a few images: enough for real trainers in tests of callbacks and metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from layerscope.artifacts import open_run_directory
from layerscope.callbacks.run_folder import RunFolder
from layerscope.data.sampler import UnrepeatedDistributedSampler, rank_and_world
from layerscope.metrics.reconstruction import ReconstructionQuality
from layerscope.types import ReconstructionOutput

SIDE = 32


class Images(Dataset[dict[str, Any]]):
    """Smooth random images of 32 pixels; row −1 is the first image as a stand-in."""

    def __init__(self, n: int, name: str) -> None:
        coarse = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(n)) * 2 - 1
        self.image = F.interpolate(coarse, size=(SIDE, SIDE), mode="bilinear")
        self.name = name

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"image": self.image[row], "id": f"{self.name}{row}", "index": row}


class TinyVAE(LightningModule):
    """Means over 4 × 4 pixels, times a learned factor, and back; the posterior's std is ½."""

    def __init__(self, lr: float = 0.1, val_images: int = 7, batch_size: int = 3, train_images: int = 8) -> None:
        super().__init__()
        self.factor, self.shade = nn.Parameter(torch.tensor(0.2)), nn.Parameter(torch.tensor(0.3))
        self.lr, self.batch_size = lr, batch_size
        self.train_set, self.val_set = Images(train_images, "train"), Images(val_images, "val")

    def output(self, batch: dict[str, Any]) -> ReconstructionOutput:
        image = batch["image"]
        mean = F.avg_pool2d(image, 4)
        recon = F.interpolate(mean, scale_factor=4.0) * self.factor + self.shade
        return ReconstructionOutput(
            batch["id"], batch["index"], image, recon.clamp(-1, 1), mean, torch.full_like(mean, 0.5)
        )

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        loss = (self.output(batch).recon - batch["image"]).square().mean()
        self.log("train/loss", loss, on_step=True, on_epoch=True, batch_size=len(batch["index"]), sync_dist=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        self.quality = ReconstructionQuality(len(self.val_set))

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> ReconstructionOutput:
        output = self.output(batch)
        self.quality.update(output)
        return output

    def on_validation_epoch_end(self) -> None:
        if not self.trainer.sanity_checking:
            self.log_dict({f"val/{name}": value for name, value in self.quality.compute().items()})

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5), "interval": "epoch"},
        }

    def train_dataloader(self) -> Any:
        rank, world = rank_and_world()
        return DataLoader(
            self.train_set, self.batch_size, sampler=DistributedSampler(self.train_set, world, rank, shuffle=False)
        )

    def val_dataloader(self) -> Any:
        return DataLoader(self.val_set, self.batch_size, sampler=UnrepeatedDistributedSampler(self.val_set))


def tiny_trainer(run: Path, callbacks: list[Callback], epochs: int = 1, **options: Any) -> Trainer:
    """A trainer on the CPU that writes into the run directory and to TensorBoard."""
    return Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=[*callbacks, RunFolder(open_run_directory(run))],
        logger=TensorBoardLogger(run, "tensorboard", version=""),
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        log_every_n_steps=1,
        **options,
    )

"""Training an image autoencoder on reconstruction and KL."""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from layerscope.errors import ConfigurationError, NumericalError
from layerscope.functional.reconstruction import kl_divergence, psnr
from layerscope.functional.schedules import warmup_cosine
from layerscope.metrics.table import IndexedTable
from layerscope.protocols import Autoencoder
from layerscope.types import Batch


class AutoencoderTraining(LightningModule):
    """Minimises mean(|x̂ − x| or (x̂ − x)²) + kl_weight · (KL summed over the latent, mean over images).

    That is the unit of MONAI's latent-diffusion tutorial; original LDM's weight is the same number times the pixels
    and channels of an image. ``rec_mean`` per element and ``kl_per_image`` in nats are always logged.

    Args:
        autoencoder: a module that satisfies ``layerscope.protocols.Autoencoder``.
        reconstruction: ``l1`` or ``mse``.
        kl_weight: the weight in the unit above.
        crop_size: train on random square crops of this side; whole images by default.
        optimizer: called with the parameters, ``torch.optim.AdamW`` by default.
        warmup_fraction: share of the training steps with linearly rising learning rate; cosine to zero after.
    """

    def __init__(
        self,
        autoencoder: nn.Module,
        reconstruction: Literal["l1", "mse"] = "l1",
        kl_weight: float = 1e-6,
        crop_size: int | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        warmup_fraction: float = 0.05,
    ) -> None:
        super().__init__()
        if not isinstance(autoencoder, Autoencoder):
            raise ConfigurationError(f"{type(autoencoder).__name__} is no layerscope.protocols.Autoencoder.")
        self.autoencoder = autoencoder
        self.reconstruction = reconstruction
        self.kl_weight = kl_weight
        self.crop_size = crop_size
        self.optimizer = optimizer
        self.warmup_fraction = warmup_fraction

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        image = self._crop(batch["image"])
        posterior = self.autoencoder.encode(image)
        mean, std = posterior.mean, posterior.std
        recon = self.autoencoder.decode(mean + std * torch.randn_like(mean))
        match self.reconstruction:
            case "l1":
                rec = (recon.float() - image).abs().mean()
            case "mse":
                rec = (recon.float() - image).square().mean()
            case _:
                raise ConfigurationError(f"reconstruction is {self.reconstruction!r}: expected l1 or mse.")
        kl = kl_divergence(mean, std).mean()
        loss = rec + self.kl_weight * kl
        if not torch.isfinite(loss):
            raise NumericalError(
                f"The training loss is {float(loss)} at step {self.global_step} (images "
                f"{', '.join(batch['id'][:4])}, …). Lower the learning rate or check these images."
            )
        self.log_dict({"train/rec_mean": rec, "train/kl_per_image": kl}, batch_size=len(image))
        self.log("train/loss", loss, prog_bar=True, batch_size=len(image))
        return loss

    def on_validation_epoch_start(self) -> None:
        loader: Any = self.trainer.val_dataloaders
        self._table = IndexedTable(len(loader.dataset), {"psnr": (), "rec_mean": ()}).to(self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        image = batch["image"]
        recon = self.autoencoder.decode(self.autoencoder.encode(image).mean).float().clamp(-1, 1)
        error = (recon - image).abs().mean(dim=(1, 2, 3))
        self._table.update(batch["index"], {"psnr": psnr(recon, image), "rec_mean": error})

    def on_validation_epoch_end(self) -> None:
        if self.trainer.sanity_checking:
            return
        for name, column in self._table.compute().items():
            self.log(f"val/{name}", column.mean(), prog_bar=name == "psnr")

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(p for p in self.autoencoder.parameters() if p.requires_grad)
        factor = warmup_cosine(int(self.trainer.estimated_stepping_batches), self.warmup_fraction)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"},
        }

    def _crop(self, image: Tensor) -> Tensor:
        """Random crops, one position per image, from torch's own generator."""
        side = self.crop_size
        if side is None or side >= min(image.shape[-2:]):
            return image
        tops = torch.randint(0, image.shape[-2] - side + 1, (len(image),)).tolist()
        lefts = torch.randint(0, image.shape[-1] - side + 1, (len(image),)).tolist()
        return torch.stack([one[:, top : top + side, left : left + side] for one, top, left in zip(image, tops, lefts)])

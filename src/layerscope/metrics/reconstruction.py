"""How well an autoencoder reconstructs a split, and what its latent channels carry."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics.wrappers.abstract import WrapperMetric

from layerscope.errors import ConfigurationError, LayerscopeError
from layerscope.functional.frequency import OCTAVES, band_error
from layerscope.functional.reconstruction import dead_channels, kl_per_channel, psnr, ssim
from layerscope.metrics.latents import LatentStatistics
from layerscope.metrics.perceptual import ANOTHER_PROCESS, LpipsBackbone, OptionalLpips
from layerscope.metrics.table import IndexedTable
from layerscope.types import ReconstructionOutput


class ReconstructionQuality(WrapperMetric):
    """Reconstruction figures of a split: each image first, then the mean over images.

    ``update`` takes the output of a validation step; row −1 is a stand-in and is left out. Everything is computed in
    float32 whatever autocast says. ``compute`` returns a flat dictionary of floats, C latent channels counted from 0:

    - ``psnr`` dB, ``ssim`` (higher is better); ``l1``, ``mse`` per element (lower); ``band_1_2`` to ``band_64_up``,
      the squared error by wavelength in pixels, whose sum is ``mse`` (``functional.frequency``); ``lpips`` where its
      weights are there (lower);
    - ``kl_per_image`` and ``kl_per_latent_element`` in nats, infinite where σ is zero; ``kl_channel_<c>``, nats per
      image, which sum to ``kl_per_image``; ``dead_channels``, how many (``functional.reconstruction.dead_channels``);
    - ``latent_mean_<c>``, ``latent_std_<c>``: of the posterior's mean over images and positions;
      ``posterior_std_<c>``: root mean square of σ. The std of a drawn latent is the root of both squares' sum.

    The same on any number of processes and for any batch size, to rounding. ``compute`` synchronises and belongs where
    every process comes along (``on_validation_epoch_end``). A validation that did not see each row exactly once is an
    error. All images have one size.

    Args:
        rows: N, images in the split.
        lpips_backbone: network of LPIPS, ``alex`` by default; None leaves LPIPS out.
    """

    full_state_update = False
    higher_is_better = None

    def __init__(self, rows: int, lpips_backbone: LpipsBackbone | None = "alex", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rows = rows
        self._lpips = OptionalLpips(lpips_backbone)
        # Made with the first batch, which tells channels and sizes. Every process has one: an idle one gets a stand-in.
        self.table: IndexedTable | None = None
        self.latents: LatentStatistics | None = None
        self._size: tuple[int, ...] = ()

    def update(self, output: ReconstructionOutput) -> None:
        """Adds a batch."""
        table, latents = self._made_for(output)
        with torch.autocast(output.image.device.type, enabled=False):
            table.update(output.index, self._per_image(output))
            latents.update(output.mean.float()[output.index >= 0])

    def compute(self) -> dict[str, float]:
        """The figures of the whole split."""
        if self.table is None or self.latents is None:
            raise LayerscopeError(
                "No image was validated, so there are no reconstruction figures. Check the val split."
            )
        columns = {name: column.double() for name, column in self.table.compute().items()}
        statistics = self.latents.compute()
        found = {name: float(columns[name].mean()) for name in ("psnr", "ssim", "l1", "mse")}
        if bool(columns["lpips"].isfinite().all()):
            found["lpips"] = float(columns["lpips"].mean())
        elif self._lpips.obstacle_for(self._size[1:3]) is None:
            self._lpips.obstacle = ANOTHER_PROCESS
        found |= _numbered([band.name for band in OCTAVES], columns["band"].mean(dim=0))
        kl, noise = columns["kl"].mean(dim=0), columns["posterior_variance"].mean(dim=0)
        channels, height, width = self._size[-3:]
        elements = height * width
        mean, std = statistics["mean"], statistics["std"]
        dead = dead_channels(kl / elements, std.square(), noise.to(std), mean.square() + std.square())
        found["kl_per_image"] = float(kl.sum())
        found["kl_per_latent_element"] = float(kl.sum()) / (channels * elements)
        found["dead_channels"] = float(dead.sum())
        for name, values in (("kl_channel", kl), ("latent_mean", mean), ("latent_std", std)):
            found |= _numbered([f"{name}_{c}" for c in range(channels)], values)
        return found | _numbered([f"posterior_std_{c}" for c in range(channels)], noise.sqrt())

    def not_measured(self) -> list[dict[str, str]]:
        """Records ``what`` and ``reason`` of figures that the latest ``compute`` left out."""
        reason = self._lpips.obstacle_for(self._size[1:3])
        return [] if reason is None else [{"what": "LPIPS", "reason": reason}]

    def reset(self) -> None:
        """Forgets all images; the next may have another size."""
        super().reset()
        self.table = self.latents = None
        self._size = ()

    def _made_for(self, output: ReconstructionOutput) -> tuple[IndexedTable, LatentStatistics]:
        size = (*output.image.shape[1:], *output.mean.shape[1:])
        if self.table is None or self.latents is None:
            channels = (output.mean.shape[1],)
            columns: dict[str, tuple[int, ...]] = dict.fromkeys(("psnr", "ssim", "l1", "mse", "lpips"), ())
            columns |= {"band": (len(OCTAVES),), "kl": channels, "posterior_variance": channels}
            self._size = size
            self.table = IndexedTable(self.rows, columns).to(output.index.device)
            self.latents = LatentStatistics(*output.mean.shape[1:]).to(output.mean.device)
        if size != self._size:
            raise ConfigurationError(
                f"Validation met images of different sizes: {self._size[1:3]} and then {size[1:3]} (height, width; ids "
                f"{', '.join(output.id[:4])}). Latent statistics and frequency bands need one size: set image_size or "
                "center_crop_size of the data."
            )
        return self.table, self.latents

    def _per_image(self, output: ReconstructionOutput) -> dict[str, Tensor]:
        recon, image, std = output.recon.float(), output.image.float(), output.std.float()
        error = recon - image
        return {
            "psnr": psnr(recon, image),
            "ssim": ssim(recon, image),
            "l1": error.abs().mean(dim=(1, 2, 3)),
            "mse": error.square().mean(dim=(1, 2, 3)),
            "lpips": self._lpips(recon, image),
            "band": band_error(recon, image),
            "kl": kl_per_channel(output.mean, std),
            "posterior_variance": std.square().mean(dim=(2, 3)),
        }


def _numbered(names: list[str], values: Tensor) -> dict[str, float]:
    return dict(zip(names, values.tolist()))

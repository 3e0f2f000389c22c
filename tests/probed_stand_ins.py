"""Tasks that watch layers, as small as they come."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn

from layerscope.protocols import Autoencoder


class Looking(LightningModule):
    """Looks at images through an autoencoder of diffusers."""

    subject: Autoencoder

    def __init__(self, subject: nn.Module, layers: list[str] | None = None, exclude: Sequence[str] = ()) -> None:
        super().__init__()
        self.subject = subject.eval()  # type: ignore[assignment]
        self.layers = layers
        self.exclude = list(exclude)

    @torch.no_grad()
    def look(self, images: Tensor) -> dict[str, Tensor]:
        latent = self.subject.encode(images).mean
        return {"input": images, "latent": latent, "reconstruction": self.subject.decode(latent)}

    def watched_layers(self) -> tuple[nn.Module, Sequence[str] | None, Sequence[str]]:
        return self.subject.model, self.layers, self.exclude  # type: ignore[attr-defined]


class Deciding(Looking):
    """Asks for a number on the way, which the meta device does not have."""

    def look(self, images: Tensor) -> dict[str, Tensor]:
        found = super().look(images)
        assert float(found["reconstruction"].abs().max()) > 0
        return found


class Bound(Looking):
    """Looks with a function of its first model, whatever becomes of the task."""

    def __init__(self, subject: nn.Module) -> None:
        super().__init__(subject)

        def convolve(images: Tensor) -> Tensor:
            return subject.model.encoder.conv_in(images)  # type: ignore[union-attr, operator]

        self.convolve = convolve

    def look(self, images: Tensor) -> dict[str, Tensor]:
        return {"convolved": self.convolve(images)}


class Unreadable(LightningDataModule):
    """Data that is not there."""

    def __init__(self, image_size: int | list[int] = 16) -> None:
        super().__init__()
        raise AssertionError("A dry run needs no data.")

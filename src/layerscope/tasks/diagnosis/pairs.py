"""Pairs of images, with a finding and without, through a vision model whose layers are watched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from layerscope.errors import ConfigurationError, LayerscopeError
from layerscope.functional.positions import default_grid
from layerscope.protocols import Autoencoder, GridLayers, NamedLayers
from layerscope.tasks.diagnosis.latent_space import chosen_latent
from layerscope.types import PairBatch, PairOutput, PositionGrid


class PairDiagnosis(LightningModule):
    """Runs both images of a pair through one model, as one batch; callbacks watch its layers.

    ``layerscope.callbacks.layer_differences.LayerDifferences`` measures what the two images make of each layer. An
    autoencoder encodes and decodes; any other module is called with the images.

    Args:
        subject: a module that satisfies ``layerscope.protocols.Autoencoder``, or one that takes images (B, 3, H, W) in
            [-1, 1]. ``protocols.NamedLayers`` and ``GridLayers`` tell more of it.
        layers: patterns of the layers to watch (``layerscope.probes``). None: the subject's own choice, of an
            autoencoder the decoder's blocks; of a module that names none, every layer.
        exclude: patterns of layers to leave out.
        posterior: ``mode`` decodes the posterior's mode; ``sample`` a draw, with the same noise for both images of a
            pair, so that what differs are the images. On the floor the noise differs too.
        noise_seed: of the draws.

    Attributes:
        point_listeners: called with the name and the activation (2B, ...) of each point that is no module's output
            ("input", "latent", "reconstruction"), when the computation reaches it.
    """

    subject: nn.Module

    def __init__(
        self,
        subject: nn.Module,
        layers: list[str] | None = None,
        exclude: list[str] | None = None,
        posterior: Literal["mode", "sample"] = "mode",
        noise_seed: int = 0,
    ) -> None:
        super().__init__()
        if posterior not in ("mode", "sample"):
            raise ConfigurationError(f"posterior is {posterior!r}: expected mode or sample.")
        self.subject = subject.requires_grad_(False).eval()
        self.layers = layers
        self.exclude = exclude or []
        self.posterior: Literal["mode", "sample"] = posterior
        self.noise_seed = noise_seed
        self.point_listeners: list[Callable[[str, Tensor], None]] = []

    def watched_layers(self) -> tuple[nn.Module, list[str] | None, list[str]]:
        """The module in which layers have their names, patterns of the watched ones (None: all), and the excluded."""
        if not isinstance(self.subject, NamedLayers):
            return self.subject, self.layers, self.exclude
        layers = list(self.subject.default_layers) if self.layers is None else self.layers
        return self.subject.layer_root, layers, self.exclude

    def position_grid(self, shape: tuple[int, ...], image_size: tuple[int, int]) -> PositionGrid | None:
        """Where the positions of an activation of ``shape`` (B, ...) are; None where it has none."""
        if isinstance(self.subject, GridLayers):
            return self.subject.position_grid(shape, image_size)
        return default_grid(shape)

    def describe(self) -> dict[str, Any]:
        """Plain values for the summary."""
        inner = self.watched_layers()[0]
        described: dict[str, Any] = {
            "subject": type(self.subject).__name__,
            "model": type(inner).__name__,
            "source": getattr(self.subject, "source_name", None),
            "layers": self.watched_layers()[1],
            "exclude": self.exclude,
        }
        if isinstance(self.subject, Autoencoder):
            described["posterior"] = self.posterior
        if self.posterior == "sample":
            described["noise_seed"] = self.noise_seed
        return described

    @torch.no_grad()
    def look(self, images: Tensor, draws: list[str] | None = None) -> dict[str, Tensor]:
        """The subject on images (B, 3, H, W) in [-1, 1]; returns the points by name.

        draws: of each image, what its noise belongs to where the posterior is sampled.
        """
        points = {"input": images}
        self._announce("input", images)
        if not isinstance(self.subject, Autoencoder):
            self.subject(images)
            return points
        posterior = self.subject.encode(images)
        names = draws if draws is not None else [str(row) for row in range(len(images))]
        points["latent"] = chosen_latent(posterior, names, self.posterior, self.noise_seed)
        self._announce("latent", points["latent"])
        points["reconstruction"] = self.subject.decode(points["latent"])
        self._announce("reconstruction", points["reconstruction"])
        return points

    def test_step(  # type: ignore[override]
        self, batch: PairBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> PairOutput:
        points: dict[str, Tensor] = {}
        ids = batch["id"]
        if ids:
            second = ids if batch["role"] == "pair" else [f"{name}\tsecond" for name in ids]
            with _memory_explained(batch):
                points = self.look(torch.cat([batch["positive"], batch["negative"]]), [*ids, *second])
        return PairOutput(
            batch["role"],
            ids,
            batch["index"],
            batch["positive"],
            batch["negative"],
            batch["mask"],
            batch["has_mask"],
            points,
            batch["skipped"],
        )

    def _announce(self, name: str, activation: Tensor) -> None:
        for listener in self.point_listeners:
            listener(name, activation)


@contextmanager
def _memory_explained(batch: PairBatch) -> Iterator[None]:
    """A device out of memory is told with its remedies."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        pairs, (height, width) = len(batch["id"]), cast(Any, batch["positive"].shape[-2:])
        smaller = "data.init_args.batch_size" if pairs > 1 else ""
        raise LayerscopeError(
            f"The device ran out of memory on {pairs} pairs ({2 * pairs} images) of {width} × {height} pixels. Lower "
            + (f"{smaller}, or " if smaller else "")
            + "data.init_args.image_size (--image_size of `layerscope pair`); halve the activations with "
            "--trainer.precision=bf16-mixed; or run on the CPU (--trainer.accelerator=cpu, --device cpu of `pair`). "
            f"The device said: {str(error).splitlines()[0]}"
        ) from error

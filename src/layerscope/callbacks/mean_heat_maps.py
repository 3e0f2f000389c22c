"""Where each layer differs, on average over pairs: for images that are taken alike, such as fundus photographs."""

from __future__ import annotations

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from layerscope.artifacts import Stage
from layerscope.callbacks.gather import gather_objects
from layerscope.callbacks.pair_listener import PairListener
from layerscope.metrics.moments import MeanAndStd, RunningMoments
from layerscope.report.figure_style import png
from layerscope.report.heat_maps import HeatMap, heat_map_sheet
from layerscope.types import PairOutput

IMAGES = ("positive", "negative")


class MeanHeatMaps(PairListener):
    """``figures/mean_heat_maps.png`` and ``mean_heat_maps.npz``.

    A pair's map of a layer is its density, D(p) over the mean of D: 1 everywhere would be a difference without a place,
    and every pair counts alike. Maps are averaged to at most ``side`` × ``side`` positions; mean and standard deviation
    over pairs are merged by Chan's formula over batches and processes, so nothing grows with the number of pairs.
    Images of different sizes have no common place, and get no such maps.

    Args:
        side: most positions along a side.
    """

    def __init__(self, side: int = 64) -> None:
        self.side = side
        self._found: dict[str, MeanAndStd] = {}

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_test_start(trainer, pl_module)
        self._moments: dict[str, RunningMoments] = {}
        self._image_size: tuple[int, int] | None = None
        self._mixed = False
        self._found = {}

    def on_pairs(self, output: PairOutput) -> None:
        real = output.index >= 0
        if not bool(real.any()):
            return
        size = (int(output.positive.shape[-2]), int(output.positive.shape[-1]))
        self._image_size = self._image_size or size
        self._mixed |= size != self._image_size
        if self._mixed:
            return
        for name, seen in self.measuring.seen.items():
            if seen.distance is not None:
                mean = seen.distance.mean(dim=(1, 2), keepdim=True)
                # Where nothing differs there is no place: NaN, which the moments leave out.
                density = torch.where(mean > 0, seen.distance / mean, torch.nan)
                self._update(name, self._small(density[:, None])[real, 0])
        for name, images in zip(IMAGES, (output.positive, output.negative)):
            self._update(name, self._small(images.float())[real])

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Brings the processes' shares together."""
        shapes = {name: tuple(moments.moments.shape[1:]) for name, moments in self._moments.items()}
        everyone = gather_objects(trainer, (shapes, self._image_size, self._mixed))
        sizes = {size for _, size, _ in everyone if size is not None}
        if len(sizes) > 1 or any(mixed for *_, mixed in everyone):
            reason = "the images are of different sizes: set data.init_args.image_size"
            self.not_measured = [{"what": "mean heat maps", "reason": reason}]
            return
        known: dict[str, tuple[int, ...]] = next((found for found, *_ in everyone if found), {})
        for name, shape in known.items():
            moments = self._moments.get(name) or RunningMoments(shape).to(pl_module.device)
            self._found[name] = moments.compute()

    def write_results(self, stage: Stage) -> None:
        """Both files; nothing where no pair has maps."""
        layers = [name for name in self._found if name not in IMAGES]
        if not layers:
            return
        scores = self.measuring.scores
        maps = [HeatMap(name, self._found[name].mean) for name in scores.layer if name in layers]
        pairs = int(self._found["positive"].n.max())
        note = "mean over pairs of ‖A − B‖₂ over its own mean (1: no place)"
        positive, negative = (_picture(self._found[name].mean) for name in IMAGES)
        sheet = heat_map_sheet(f"mean of {pairs} pairs", positive, negative, None, maps, note)
        stage.write_bytes("figures/mean_heat_maps.png", png(sheet))
        arrays = {
            f"{figure} {name}": getattr(found, figure)
            for name, found in self._found.items()
            for figure in found._fields
        }
        stage.write_npz("mean_heat_maps.npz", arrays)

    def _small(self, maps: Tensor) -> Tensor:
        """(B, C, h, w) averaged to at most ``side`` positions along each side."""
        height, width = (min(int(length), self.side) for length in maps.shape[-2:])
        return adaptive_avg_pool2d(maps, (height, width))

    def _update(self, name: str, values: Tensor) -> None:
        if name not in self._moments:
            self._moments[name] = RunningMoments(tuple(values.shape[1:])).to(values.device)
        self._moments[name].update(values)


def _picture(image: NDArray[np.float64]) -> NDArray[np.uint8]:
    """(3, h, w) in [-1, 1] to uint8 (h, w, 3)."""
    return np.asarray(((image.transpose(1, 2, 0).clip(-1, 1) + 1) * 127.5).round().astype(np.uint8))

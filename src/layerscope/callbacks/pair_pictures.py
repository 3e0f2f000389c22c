"""Keeps what the pictures of a few pairs need: the first by name, and those that differ most."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor

from layerscope.artifacts.layer_scores import DIFFERENCES, POINTS
from layerscope.callbacks.gather import gather_objects
from layerscope.callbacks.pair_listener import PairListener
from layerscope.callbacks.staging_folder import StagingCallback, StagingFolder
from layerscope.errors import ConfigurationError
from layerscope.functional.controls import to_uint8
from layerscope.types import PairOutput

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class KeptPair:
    """What pictures are drawn from.

    positive, negative: uint8 (H, W, 3). recon_positive, recon_negative: the same, None without an autoencoder.
    mask: bool (H, W), None where there is none. distance: layer to float (h, w), ‖a−b‖₂ over channels.
    """

    id: str
    positive: Picture
    negative: Picture
    recon_positive: Picture | None
    recon_negative: Picture | None
    mask: NDArray[np.bool_] | None
    distance: dict[str, NDArray[np.float32]]


class PairPictures(PairListener, StagingCallback):
    """Keeps images and distance maps of the first pairs by name and of those that differ most.

    How much a pair differs is the mean of relative_l2 over the watched layers. Candidates wait on the disk in the run
    directory, so memory does not grow with ``first`` and ``top``. Stands behind ``LayerDifferences`` in the list of
    callbacks.

    Args:
        first: how many pairs, in the order of their ids. top: how many of those that differ most. 0 keeps none.
    """

    def __init__(self, first: int = 20, top: int = 20) -> None:
        if first < 0 or top < 0:
            raise ConfigurationError(f"PairPictures: first is {first} and top is {top}; both must be 0 or more.")
        self.first = first
        self.top = top

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_test_start(trainer, pl_module)
        self._folder = StagingFolder(trainer, "pairs")
        loaders: Any = trainer.test_dataloaders
        ids = (loaders[0] if isinstance(loaders, list) else loaders).dataset.ids
        self._first = set(sorted(range(len(ids)), key=ids.__getitem__)[: self.first])
        self._heap: list[tuple[float, int, str]] = []  # (difference, −row, id): the least first
        self.chosen: list[int] = []

    def on_pairs(self, output: PairOutput) -> None:
        layers = [place for place, name in enumerate(self.measuring.seen) if name not in POINTS]
        relative = self.measuring.values[:, layers, DIFFERENCES.index("relative_l2")].mean(dim=1)
        for place, (row, difference) in enumerate(zip(output.index.tolist(), relative.tolist())):
            if row >= 0 and self._wanted(row, difference, output.id[place]):
                self._save(output, place, row)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Chooses among all processes."""
        offered = [entry for part in gather_objects(trainer, self._heap) for entry in part]
        top = sorted(offered, reverse=True)[: self.top]
        first = [row for part in gather_objects(trainer, sorted(self._first)) for row in part]
        self.chosen = list(dict.fromkeys([*(-entry[1] for entry in top), *first]))

    def kept(self) -> Iterator[KeptPair]:
        """The chosen pairs, one at a time; on rank zero. A pair kept on a disk that it does not see is left out."""
        assert self._folder is not None
        for row in self.chosen:
            path = self._path(row)
            if path.exists():
                yield _read(path)

    # -- parts -----------------------------------------------------------------------------------------------------

    def _wanted(self, row: int, difference: float, name: str) -> bool:
        entry = (difference, -row, name)
        if self.top and (len(self._heap) < self.top or entry > self._heap[0]):
            if len(self._heap) == self.top:
                fallen = -heapq.heapreplace(self._heap, entry)[1]
                if fallen not in self._first:
                    self._path(fallen).unlink(missing_ok=True)
            else:
                heapq.heappush(self._heap, entry)
            return True
        return row in self._first

    def _path(self, row: int) -> Path:
        assert self._folder is not None
        return self._folder.path / f"{row}.npz"

    def _save(self, output: PairOutput, place: int, row: int) -> None:
        arrays = {"id": np.array(output.id[place])}
        arrays |= {"positive": _picture(output.positive[place]), "negative": _picture(output.negative[place])}
        if (recon := output.points.get("reconstruction")) is not None:
            pairs = len(output.id)
            arrays |= {
                "recon_positive": _picture(recon[place]),
                "recon_negative": _picture(recon[pairs + place]),
            }
        if bool(output.has_mask[place]):
            arrays["mask"] = output.mask[place].cpu().numpy()
        for name, seen in self.measuring.seen.items():
            if seen.distance is not None:
                # Half precision of the share of the largest: a picture shows no more.
                distance = seen.distance[place].float().cpu().numpy()
                largest = np.float32(distance.max(initial=0))
                arrays[f"largest {name}"] = largest
                arrays[f"distance {name}"] = (distance / max(largest, np.float32(1e-30))).astype(np.float16)
        assert self._folder is not None
        with self._folder.written():
            np.savez(self._path(row), **cast(Any, arrays))


def _picture(image: Tensor) -> Picture:
    return to_uint8(image).permute(1, 2, 0).cpu().numpy()


def _read(path: Path) -> KeptPair:
    with np.load(path, allow_pickle=False) as file:
        distance = {
            name.removeprefix("distance "): file[name].astype(np.float32)
            * file[f"largest {name.removeprefix('distance ')}"]
            for name in file.files
            if name.startswith("distance ")
        }
        optional = {name: file[name] if name in file.files else None for name in ("recon_positive", "recon_negative")}
        mask = file["mask"] if "mask" in file.files else None
        return KeptPair(str(file["id"]), file["positive"], file["negative"], mask=mask, distance=distance, **optional)

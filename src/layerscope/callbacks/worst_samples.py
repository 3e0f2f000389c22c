"""The samples that suffer most from the autoencoder, with pictures."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray
from torch import Tensor

from layerscope.artifacts import Stage, safe_file_name
from layerscope.callbacks.gather import gather_objects
from layerscope.data.labelled import labelled_data
from layerscope.functional.controls import to_uint8
from layerscope.report.pictures import crop_comparison, signed_difference, signed_difference_scale, write_png
from layerscope.types import DiagnosisOutput

CRITERIA = ("mean_abs_delta_p", "negative_flips", "largest_true_logit_fall")
COLUMNS = (
    "criterion", "rank", "id", "index", "score", "label", "logit_real", "logit_recon", "diff_scale",
    "orig", "recon_t0", "recon_noise", "diff", "crop",
)  # fmt: skip


@dataclass(order=True)
class _Entry:
    """A candidate; equal scores are ordered by the row in the split, the same on any number of processes."""

    score: float
    minus_index: int
    id: str = field(compare=False)
    label: int = field(compare=False)
    logits: tuple[float, float] = field(compare=False)
    images: dict[str, NDArray[np.uint8]] = field(compare=False, repr=False)


class WorstSamples(Callback):
    """Keeps the top K samples by each criterion while the diagnosis runs, and writes their pictures.

    Criteria, all of the clean reconstruction against the original: the mean over labels of |Δp|; the number of
    correct decisions that turned wrong; the largest fall of a true label's logit. At most 3·K samples are held, as
    8-bit images on the CPU, so memory does not grow with the data: 9·K images of 3 bytes a pixel at most, 1.8 GB for
    K = 64 at 1024 × 1024. The pictured noisy image is the first draw that
    was scored.

    Args:
        top_k: K; 0 keeps none.
    """

    def __init__(self, top_k: int = 16) -> None:
        self.top_k = top_k
        self._heaps: dict[str, list[_Entry]] = {}
        self.pictures: list[tuple[str, NDArray[np.uint8]]] = []

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._heaps = {name: [] for name in CRITERIA}
        labels = labelled_data(trainer).labels
        self._label_names = labels.names
        self._evaluated = torch.tensor(labels.evaluated, device=pl_module.device)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not isinstance(outputs, DiagnosisOutput) or self.top_k == 0:
            return
        thresholds: Any = pl_module.thresholds
        scores = _criteria(outputs, self._evaluated, thresholds.global_logit)
        for name, (score, label) in scores.items():
            for row, value in enumerate(score.tolist()):
                if int(outputs.index[row]) >= 0:  # not the stand-in of a process without samples
                    self._offer(self._heaps[name], outputs, row, value, int(label[row]))

    def _offer(self, heap: list[_Entry], outputs: DiagnosisOutput, row: int, score: float, label: int) -> None:
        minus_index = -int(outputs.index[row])
        if score <= 0 or (len(heap) == self.top_k and (score, minus_index) <= (heap[0].score, heap[0].minus_index)):
            return
        images = {name: to_uint8(image[row]).permute(1, 2, 0).cpu().numpy() for name, image in outputs.images.items()}
        logits = (float(outputs.logits[row, 0, label]), float(outputs.logits[row, 1, label]))
        entry = _Entry(score, minus_index, outputs.id[row], label, logits, images)
        (heapq.heappush if len(heap) < self.top_k else heapq.heappushpop)(heap, entry)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Merges the processes' heaps: first the scores, then only the winners' pictures."""
        for name, heap in self._heaps.items():
            keys = gather_objects(trainer, [(entry.score, entry.minus_index) for entry in heap])
            winners = set(sorted((key for part in keys for key in part), reverse=True)[: self.top_k])
            parts = gather_objects(trainer, [entry for entry in heap if (entry.score, entry.minus_index) in winners])
            self._heaps[name] = sorted((entry for part in parts for entry in part), reverse=True)

    def write_results(self, stage: Stage) -> None:
        """``worst_samples/*.png`` and ``worst_samples.csv``."""
        entries = {entry.id: entry for heap in self._heaps.values() for entry in heap}
        scale = signed_difference_scale([(e.images["real"], e.images["recon"]) for e in entries.values()])
        files = {name: self._write_pictures(stage, entry, scale) for name, entry in entries.items()}
        rows = [
            {
                "criterion": criterion,
                "rank": rank,
                "id": entry.id,
                "index": -entry.minus_index,
                "score": entry.score,
                "label": self._label_names[entry.label],
                "logit_real": entry.logits[0],
                "logit_recon": entry.logits[1],
                "diff_scale": scale,
                **files[entry.id],
            }
            for criterion, heap in self._heaps.items()
            for rank, entry in enumerate(heap, start=1)
        ]
        stage.write_csv("worst_samples.csv", rows, COLUMNS)
        ordered = self._heaps["mean_abs_delta_p"] if self._heaps else []
        self.pictures = [(e.id, crop_comparison(e.images, scale)) for e in ordered[:8]]

    def _write_pictures(self, stage: Stage, entry: _Entry, scale: float) -> dict[str, str]:
        stem = f"worst_samples/{safe_file_name(entry.id)}"
        noisy = [name for name in entry.images if name not in ("real", "recon")]
        pictures = {
            "orig": (f"{stem}_orig.png", entry.images["real"]),
            "recon_t0": (f"{stem}_recon_t0.png", entry.images["recon"]),
            "diff": (f"{stem}_diff.png", signed_difference(entry.images["real"], entry.images["recon"], scale)),
            "crop": (f"{stem}_crop.png", crop_comparison(entry.images, scale)),
        }
        for name in noisy:
            pictures[name] = (f"{stem}_recon_{name}.png", entry.images[name])
        for name, image in pictures.values():
            write_png(stage.path(name), image)
        files = {column: pictures[column][0] for column in ("orig", "recon_t0", "diff", "crop")}
        return {**files, "recon_noise": " ".join(pictures[name][0] for name in noisy)}


def _criteria(outputs: DiagnosisOutput, evaluated: Tensor, threshold: float) -> dict[str, tuple[Tensor, Tensor]]:
    """Criterion to (score (B,), the label that contributes most (B,))."""
    # In float64, as the tables compare: a float32 threshold may round onto a score.
    original, recon = outputs.logits[:, 0].double(), outputs.logits[:, 1].double()
    known = outputs.known.bool() & evaluated
    delta = (torch.sigmoid(recon) - torch.sigmoid(original)).abs() * evaluated
    positive = outputs.target > 0.5
    flips = ((original >= threshold) == positive) & ((recon >= threshold) != positive) & known
    fall = torch.where(positive & known, original - recon, torch.full_like(recon, -torch.inf))
    return {
        "mean_abs_delta_p": (delta.sum(dim=1) / evaluated.sum().clamp_min(1), delta.argmax(dim=1)),
        "negative_flips": (flips.sum(dim=1), (delta * flips).argmax(dim=1)),
        "largest_true_logit_fall": (fall.amax(dim=1), fall.argmax(dim=1)),
    }

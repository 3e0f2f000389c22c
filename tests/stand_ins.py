"""Small models that plug in by class_path, and the configuration of a small diagnosis."""

from __future__ import annotations

import csv
import ctypes
import os
import signal
import threading
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from oracles import BlockMean
from torch import Tensor, nn

LABELS = 5


class Pooled(nn.Module):
    """A fixed linear map of the image averaged to 4 × 4: a teacher that costs nothing."""

    def __init__(self, num_labels: int = LABELS) -> None:
        super().__init__()
        self.num_labels = num_labels
        weight = torch.randn(num_labels, 48, generator=torch.Generator().manual_seed(num_labels))
        self.register_buffer("weight", weight)

    def forward(self, image: Tensor) -> Tensor:
        return F.linear(F.adaptive_avg_pool2d(image, 4).flatten(1), self.weight)


class PooledDistance(Pooled):
    """Distance of the answers to two batches of images, one per image: a network for LPIPS without weights to fetch."""

    def forward(self, image: Tensor, original: Tensor) -> Tensor:  # type: ignore[override]
        return (super().forward(image) - super().forward(original)).square().mean(dim=1)


class FailingPooled(Pooled):
    """Judges well ``after`` times, then gives NaN, raises, or is interrupted.

    how: ``nan``, ``raise``, ``ctrl_c`` or ``sigint``, which sends the signal that Ctrl-C sends.
    """

    def __init__(self, how: str, after: int = 0, num_labels: int = LABELS) -> None:
        super().__init__(num_labels)
        self.how = how
        self.left = after

    def forward(self, image: Tensor) -> Tensor:
        self.left -= 1
        if self.left >= 0:
            return super().forward(image)
        match self.how:
            case "nan":
                return super().forward(image) * torch.nan
            case "ctrl_c":
                raise KeyboardInterrupt
            case "sigint":
                os.kill(os.getpid(), signal.SIGINT)
                return super().forward(image)
            case _:
                raise RuntimeError("the teacher broke")


class FailingDecoder(BlockMean):
    """Block means that fail when an image is decoded."""

    def __init__(self) -> None:
        super().__init__(2)

    def decode(self, z: Tensor) -> Tensor:
        raise RuntimeError("the decoder broke")


class CountingBlockMean(BlockMean):
    """Block means that count the images they encode."""

    encoded = 0

    def encode(self, x: Tensor) -> Any:
        CountingBlockMean.encoded += len(x)
        return super().encode(x)


class SignalsItself(Callback):
    """Sends its own process a signal, once.

    number: of the signal.
    step: after how many optimizer steps.
    place: in the ``training`` step's batch after those, in the first batch of the ``validation`` after them, or
        ``stuck``: in a training batch that then never ends, whatever its handlers say, and gets the signal once more.
    rank: of the process that does so.
    """

    def __init__(self, number: int, step: int, place: str = "training", rank: int = 0) -> None:
        self.number, self.step, self.place, self.rank = number, step, place, rank

    def on_train_batch_start(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step != self.step or trainer.global_rank != self.rank or self.place == "validation":
            return
        os.kill(os.getpid(), self.number)
        if self.place == "stuck":
            threading.Timer(1.5, os.kill, (os.getpid(), self.number)).start()
            mutex, library = ctypes.create_string_buffer(64), ctypes.CDLL(None)
            for _again in range(2):
                library.pthread_mutex_lock(mutex)

    def on_validation_batch_start(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step == self.step and self.place == "validation":
            self.place = "done"
            os.kill(os.getpid(), self.number)


class Witness(Callback):
    """Keeps the task for a test to look at after the run."""

    task: LightningModule

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        Witness.task = pl_module


def diagnosis(root: Path, path: Path, **noise: Any) -> Path:
    """Writes a configuration: the diagnosis of 2 × 2 block means by ``Pooled`` on the phantom in ``root``."""
    config = {
        "seed_everything": 1,
        "trainer": {
            "accelerator": "cpu",
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": [
                {
                    "class_path": "layerscope.callbacks.bottleneck_report.BottleneckReport",
                    "init_args": {"n_bootstrap": 20},
                },
                {"class_path": "layerscope.callbacks.worst_samples.WorstSamples", "init_args": {"top_k": 2}},
            ],
        },
        "model": {
            "class_path": "layerscope.tasks.diagnosis.bottleneck.BottleneckDiagnosis",
            "init_args": {
                "autoencoder": {"class_path": "oracles.BlockMean", "init_args": {"k": 2}},
                "teacher": {"class_path": "stand_ins.Pooled"},
                "noise": {"timesteps": [0], "draws": 1, **noise},
            },
        },
        "data": {
            "class_path": "layerscope.data.multilabel.MultilabelImages",
            "init_args": {
                "root": str(root),
                "table": "labels.csv",
                "schema": "schema.yaml",
                "batch_size": 4,
                "eval_split": "test",
            },
        },
    }
    path.write_text(yaml.safe_dump(config))
    return path


def read_rows(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def write_rows(table: Path, rows: list[dict[str, str]]) -> None:
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)

"""Short trainings of a small teacher with reconstructions mixed in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from small_autoencoder import SmallAutoencoder
from torch import Tensor, nn

from layerscope.data.multilabel import MultilabelImages
from layerscope.tasks.mixing import Mixing
from layerscope.tasks.teacher import Augmentation, TeacherTraining


class Onlooker(nn.Module):
    """A small teacher that keeps the images it is trained on."""

    num_labels = 5

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 6, 5, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 5)
        )
        self.trained_on: list[Tensor] = []

    def forward(self, image: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            self.trained_on.append(image.detach().clone())
        return self.layers(image)


def data(root: Path, batch_size: int = 3, kind: type[MultilabelImages] = MultilabelImages, **more: Any) -> Any:
    return kind(str(root), "schema.yaml", "labels.csv", batch_size=batch_size, **{"eval_split": "test", **more})


class Run:
    """A short training and what it left."""

    def __init__(
        self,
        root: Path | MultilabelImages,
        mixing: Mixing | None,
        *callbacks: Callback,
        epochs: int = 2,
        flip: bool = False,
        resume: Path | None = None,
        sanity: int = 0,
        precision: Any = "32-true",
    ) -> None:
        seed_everything(3)
        self.teacher = Onlooker()
        self.task = TeacherTraining(self.teacher, augmentation=Augmentation(flip=flip), mixing=mixing)
        self.data = data(root) if isinstance(root, Path) else root
        checkpoints = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
        self.trainer = Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=checkpoints,
            use_distributed_sampler=False,
            num_sanity_val_steps=sanity,
            precision=precision,
            callbacks=list(callbacks),
        )
        self.trainer.fit(self.task, datamodule=self.data, ckpt_path=None if resume is None else str(resume))

    @property
    def seen(self) -> Tensor:
        return torch.cat(self.teacher.trained_on)

    def figure(self, name: str) -> float:
        return float(self.trainer.callback_metrics[f"train/{name}"])


def same(one: Run, other: Run) -> bool:
    """Bit for bit: images trained on, and weights."""
    pairs = zip(one.teacher.state_dict().values(), other.teacher.state_dict().values(), strict=True)
    return torch.equal(one.seen, other.seen) and all(torch.equal(a, b) for a, b in pairs)


def half(cache: Path | None = None, **changes: Any) -> Mixing:
    settings: dict[str, Any] = {"mix": 0.5, "noisy": 0.5, "timesteps": [52, 153], "draws": 2}
    settings |= {"autoencoder": SmallAutoencoder(), "cache": None if cache is None else str(cache)}
    return Mixing(**settings | changes)

"""Small networks and a loss term as a user would write them, and inputs for terms."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layerscope.losses import LossInputs
from layerscope.types import TeacherFeatures

LABELS = 3


class TinyTeacher(nn.Module):
    """Two stages, with a BatchNorm and a dropout that would show in training mode."""

    num_labels = LABELS

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first = nn.Conv2d(3, 4, 3, stride=2)
            self.norm = nn.BatchNorm2d(4)
            self.second = nn.Conv2d(4, 5, 3, stride=2)
            self.dropout = nn.Dropout(0.5)
            self.head = nn.Linear(5, LABELS)

    def features(self, image: Tensor) -> TeacherFeatures:
        shallow = self.norm(self.first(image))
        deep = self.second(self.dropout(F.gelu(shallow)))
        embedding = deep.mean(dim=(2, 3))
        return TeacherFeatures(self.head(embedding), embedding, {"shallow": shallow, "deep": deep})

    def forward(self, image: Tensor) -> Tensor:
        return self.features(image).logits


class Maps(nn.Module):
    """Gives its two maps as a tensor (the first alone), a list, a tuple or a dict."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.teacher = TinyTeacher()

    def forward(self, image: Tensor) -> Any:
        stages = self.teacher.features(image).stages
        maps = list(stages.values())
        return {"tensor": maps[0], "list": maps, "tuple": tuple(maps), "dict": stages}[self.form]


class MeanColour(nn.Module):
    """A user's own loss term, with no base class of layerscope: the error of the mean colour."""

    name = "mean_colour"
    needs_noisy_recon = False
    needs_labels = False

    def __init__(self, weight: float = 2.0) -> None:
        super().__init__()
        self.weight = weight

    def current_weight(self, batches: int) -> float:
        return self.weight / (1 + batches)

    def forward(self, inputs: LossInputs) -> Tensor:
        return (inputs.recon.mean(dim=(2, 3)) - inputs.image.mean(dim=(2, 3))).square().mean()


def upsample(z: Tensor) -> Tensor:
    """A decoder of four latent channels: the first three, each position as 4 × 4 pixels."""
    return F.interpolate(z[:, :3], scale_factor=4, mode="nearest")


def loss_inputs(batch: int = 2, side: int = 16, seed: int = 0) -> LossInputs:
    """Random inputs whose recon, noisy_recon, mean, std and latent are leaves with gradients."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    image = normal(batch, 3, side, side).mul(0.4).clamp(-1, 1)
    latent = (batch, 4, side // 4, side // 4)
    inputs = LossInputs(
        image=image,
        recon=image + 0.3 * normal(*image.shape),
        mean=normal(*latent),
        std=normal(*latent).exp(),
        noisy_recon=image + 0.6 * normal(*image.shape),
        target=(normal(batch, LABELS) > 0).float(),
        known=torch.tensor([[True, True, False], [True, False, False]]).repeat(batch, 1)[:batch],
        batches=10,
        id=[f"image{n}" for n in range(batch)],
        decode=upsample,
        latent=normal(*latent),
    )
    for leaf in (inputs.recon, inputs.noisy_recon, inputs.mean, inputs.std, inputs.latent):
        assert leaf is not None
        leaf.requires_grad_()
    return inputs

"""LPIPS, where its weights are already on this machine: measuring never starts a download."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from layerscope.errors import WeightsError

LpipsBackbone = Literal["alex", "vgg", "squeeze"]

SMALLEST_SIDE = 32
"""Pixels that every backbone's pooling leaves something of."""

ANOTHER_PROCESS = "another process of this run lacks the weights"
"""Why there is no LPIPS of a whole split although this process has what it needs."""


def lpips(recon: Tensor, image: Tensor, backbone: LpipsBackbone = "alex") -> Tensor:
    """Learned perceptual image patch similarity of each image, (B, 3, H, W) in [-1, 1] twice to (B,); lower is better.

    Zhang et al. 2018, version 0.1, as torchmetrics computes it; AlexNet is what the paper recommends for measuring.
    The network is loaded once per process, kept out of every module (so out of checkpoints), always in eval mode.

    Raises:
        WeightsError: ``lpips_obstacle`` names a reason.
    """
    if reason := lpips_obstacle(backbone):
        raise WeightsError(f"LPIPS cannot be computed: {reason}")
    network = _network(backbone).to(image.device)
    return network(recon.float(), image.float()).flatten()


def lpips_obstacle(backbone: LpipsBackbone = "alex") -> str | None:
    """Why LPIPS cannot be computed here; None if it can."""
    weights = _weights_file(backbone)
    if not weights.is_file():
        return (
            f"the weights of its {backbone} network are not at {weights}. Copy {weights.name} from "
            "download.pytorch.org/models to that place, or set TORCH_HOME to a folder that has hub/checkpoints"
        )
    try:
        _network(backbone)
    except Exception as error:  # damaged files raise nearly anything
        return f"{weights} cannot be loaded ({type(error).__name__}): copy the file again"
    return None


class OptionalLpips:
    """LPIPS of each image where it can be computed; NaN elsewhere, so that all processes have the same columns.

    Args:
        backbone: network of LPIPS; None switches it off.

    Attributes:
        obstacle: why this process computes none, whatever the images; None where it does.
    """

    def __init__(self, backbone: LpipsBackbone | None = "alex") -> None:
        self.backbone = backbone
        self.obstacle = "it was switched off" if backbone is None else lpips_obstacle(backbone)

    def __call__(self, recon: Tensor, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] twice to float32 (B,)."""
        if self.backbone is None or self.obstacle_for(image.shape[-2:]) is not None:
            return torch.full((len(image),), torch.nan, device=image.device)
        return lpips(recon, image, self.backbone)

    def obstacle_for(self, size: Sequence[int]) -> str | None:
        """Why there is none of images of ``size`` (H, W) pixels, empty where it is not known; None if there is."""
        if self.obstacle is None and min(size, default=SMALLEST_SIDE) < SMALLEST_SIDE:
            return f"the images are smaller than {SMALLEST_SIDE} pixels"
        return self.obstacle


def _weights_file(backbone: LpipsBackbone) -> Path:
    """Where torch.hub would keep the backbone's ImageNet weights."""
    from torchvision import models

    weights: Any = {
        "alex": models.AlexNet_Weights.DEFAULT,
        "vgg": models.VGG16_Weights.DEFAULT,
        "squeeze": models.SqueezeNet1_1_Weights.DEFAULT,
    }[backbone]
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name


@cache
def _network(backbone: LpipsBackbone) -> nn.Module:
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    return LearnedPerceptualImagePatchSimilarity(net_type=backbone).net.requires_grad_(False)

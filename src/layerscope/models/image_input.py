"""What a vision model is given: images resized and normalised as it expects them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from layerscope.errors import ConfigurationError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Size = tuple[int, int]


class InputSize(NamedTuple):
    """The size (H, W) in which a model takes images.

    fixed: the only one; None for a model that takes any.
    step: of the patches, of which any other size is made a multiple; (1, 1) leaves it as it is.
    """

    fixed: Size | None = None
    step: Size = (1, 1)

    def of(self, image_size: Size) -> Size:
        """The size to which images of ``image_size`` (H, W) are brought: the nearest, at least one patch."""
        if self.fixed is not None:
            return self.fixed
        height, width = (max(1, (side + step // 2) // step) * step for side, step in zip(image_size, self.step))
        return height, width


def standardise(
    image: Tensor,
    mean: Tensor,
    std: Tensor,
    size: Size | None = None,
    resize_filter: Literal["bicubic", "bilinear"] = "bilinear",
) -> Tensor:
    """Images in [-1, 1] to float32 of another size, with mean and standard deviation removed.

    Args:
        image: (B, 3, H, W) in [-1, 1].
        mean, std: (1, 3, 1, 1), of the channels in [0, 1].
        size: (H', W'), reached with antialiasing; None leaves the size.
        resize_filter: how.

    Raises:
        ConfigurationError: the images are of another shape.
    """
    if image.ndim != 4 or image.shape[1] != 3:
        raise ConfigurationError(f"The model takes images (B, 3, H, W) and was given {tuple(image.shape)}.")
    x = image.float()
    if size is not None and tuple(x.shape[-2:]) != tuple(size):
        x = F.interpolate(x, size=size, mode=resize_filter, align_corners=False, antialias=True)
    return ((x + 1) / 2 - mean.float()) / std.float()


def channel_values(values: Sequence[float], what: str) -> Tensor:
    """Three numbers of a configuration as (1, 3, 1, 1); ``what`` names them in the error: mean or std."""
    if len(values) != 3 or (what == "std" and min(values) <= 0):
        raise ConfigurationError(
            f"The model's {what} is {list(values)}: expected three numbers{', positive' * (what == 'std')}."
        )
    return torch.tensor([float(value) for value in values]).view(1, 3, 1, 1)


def as_size(value: Any) -> Size:
    """A side or (H, W), as configurations give either, to (H, W)."""
    height, width = value if isinstance(value, (tuple, list)) else (value, value)
    return int(height), int(width)

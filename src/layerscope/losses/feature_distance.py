"""How far two sets of feature maps of a frozen network are apart."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from layerscope.errors import ConfigurationError

FeatureDistance = Literal["l1", "mse", "cosine"]
_EPS = 1e-8


def channel_normalised(features: Tensor) -> Tensor:
    """Each position's channels divided by their root mean square, in float32: (B, C, ...) to the same shape.

    A unit vector times √C, so that distances do not depend on the number of channels.
    """
    features = features.float()
    return features * torch.rsqrt(features.square().mean(dim=1, keepdim=True) + _EPS)


def feature_distance(a: Tensor, b: Tensor, distance: FeatureDistance, normalise: bool = True) -> Tensor:
    """Distance of feature maps (B, C, h, w) or vectors (B, C), averaged over all elements: a scalar.

    On channel-normalised maps ``mse`` is 2·(1 − cos) and ``cosine`` is 1 − cos across channels, averaged over
    positions. ``cosine`` is computed as half that ``mse``: it is 0, with a finite gradient, where both are zero.

    Args:
        a, b: features of the same shape; channels along dimension 1.
        distance: ``l1``, ``mse`` or ``cosine``.
        normalise: for ``l1`` and ``mse``; ``cosine`` always normalises.
    """
    if normalise or distance == "cosine":
        a, b = channel_normalised(a), channel_normalised(b)
    difference = a.float() - b.float()
    match distance:
        case "l1":
            return difference.abs().mean()
        case "mse":
            return difference.square().mean()
        case "cosine":
            return 0.5 * difference.square().mean()
        case _:
            raise ConfigurationError(f"distance is {distance!r}: expected l1, mse or cosine.")

"""Norms of tokens, and which of them stand out."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from layerscope.errors import ConfigurationError

HIGH_NORM_RATIO = 3.0
"""A patch token counts as high-norm above so many times the median of its image's."""


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """In which tokens of this type are computed: float64 stays, all others become float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@torch.no_grad()
def token_norms(tokens: Tensor) -> Tensor:
    """Euclidean norm of each token: (B, ..., D) to (B, ...), float32 (float64 for float64 tokens)."""
    return torch.linalg.vector_norm(tokens, dim=-1, dtype=wide_dtype(tokens.dtype))


def high_norm(norms: Tensor, ratio: float = HIGH_NORM_RATIO, cutoff: float | None = None) -> Tensor:
    """Which patch tokens stand out by their norm: bool (B, R, C).

    Large vision transformers put a few tokens of much higher norm on patches of little content and use them to hold
    something about the whole image (Darcet et al. 2024, "Vision Transformers Need Registers", arXiv 2309.16588). The
    paper reads a cut-off of 150 off the histogram of DINOv2-g; norms differ between models and layers, so here it is a
    multiple of the image's own median unless an absolute one is given.

    Args:
        norms: (B, R, C) of the patches, without CLS and registers.
        ratio: a token is high above ``ratio`` times the median of its image's patches (the mean of the two middle ones
            of an even number). None is high where the median is 0: there is nothing to be a multiple of.
        cutoff: norm above which a token is high; ``ratio`` is not used then.

    Raises:
        ConfigurationError: ``ratio`` is not a positive number, or ``cutoff`` is negative or no number.
    """
    if not (ratio > 0 and math.isfinite(ratio)):
        raise ConfigurationError(
            f"The ratio of high-norm tokens to the median is {ratio}, which marks none or all. Give a positive number, "
            f"{HIGH_NORM_RATIO:g} unless you know better."
        )
    if cutoff is not None:
        if not cutoff >= 0:
            raise ConfigurationError(
                f"The cut-off of high-norm tokens is {cutoff}. Give a norm of at least 0, or None."
            )
        return norms > cutoff
    middle = image_median(norms)[:, None, None]
    return (norms > ratio * middle) & (middle > 0)


def image_median(values: Tensor) -> Tensor:
    """The median of (B, R, C) of each image, (B,); the mean of the two middle values of an even number."""
    ordered = values.flatten(1).sort(dim=1).values
    count = ordered.shape[1]
    return 0.5 * (ordered[:, (count - 1) // 2] + ordered[:, count // 2])

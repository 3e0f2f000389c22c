"""Batches of images for token diagnosis, without a datamodule."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from layerscope.types import TokenBatch


def batch_of(image: Tensor, other: Tensor | None = None, mask: Tensor | None = None) -> TokenBatch:
    """Images (B, 3, H, W) that are shown whole; a mask (B, H, W) for each, or for none."""
    images, (height, width) = len(image), image.shape[-2:]
    return TokenBatch(
        image=image,
        other=other,
        other_id=None,
        other_mask=None,
        other_shown=None,
        mask=torch.zeros(images, height, width, dtype=torch.bool) if mask is None else mask,
        has_mask=torch.full((images,), mask is not None),
        shown=np.array([[0.0, 0.0, width, height]] * images),
        id=[f"image {number}" for number in range(images)],
        index=torch.arange(images),
        skipped=[],
    )

"""Whether a difference is where the lesion is, and the same figures for a lesion elsewhere."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from layerscope.errors import ConfigurationError
from layerscope.functional.memory_blocks import sum_dtype

MOST_OVERLAP = 0.1
"""Share of its own area that a mask and its shifted copy may have in common; beyond it the copy is not elsewhere."""

HALF_SHIFTS = ((2, 0), (0, 2), (2, 2))
"""Down and to the right, in quarters of height and width."""

QUARTER_SHIFTS = ((1, 0), (3, 0), (0, 1), (0, 3), (1, 1), (1, 3), (3, 1), (3, 3))
"""What is tried for a mask that overlaps all its half shifts."""

AUROC = 3
"""Place of the AUROC among the five figures of ``localisation``."""


class MaskPixels(NamedTuple):
    """Where the masks of B images are, prepared once for all layers.

    size: (H, W). pixels: for each image int64 (1 + S, K), row-major numbers of the K pixels of its mask and, in the
    other rows, of its S valid shifted copies.
    """

    size: tuple[int, int]
    pixels: list[Tensor]


def mask_pixels(mask: Tensor, shifted: bool = True) -> MaskPixels:
    """Of bool (B, H, W); without shifted copies S is 0."""
    found = []
    for one in mask:
        masks = one[None]
        if shifted:  # image by image: all copies of a large batch would fill memory
            copies, valid = shifted_masks(masks)
            masks = torch.cat([masks, copies[valid[:, 0], 0]])
        found.append(masks.flatten(1).nonzero()[:, 1].view(len(masks), -1))
    return MaskPixels((mask.shape[1], mask.shape[2]), found)


def shifted_masks(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Copies of a mask elsewhere in the image: bool (B, H, W) to (S, B, H, W), and which count, bool (S, B).

    A copy is rolled around the border, so that it keeps area and shape. It counts unless it has more than
    ``MOST_OVERLAP`` of the mask's area in common with it. The first three are rolled by half the height, half the
    width and both; the others by quarters, which only count where none of the three does. An empty mask has no copy.
    """
    _, height, width = mask.shape
    shifts = [(height * rows // 4, width * columns // 4) for rows, columns in HALF_SHIFTS + QUARTER_SHIFTS]
    copies = torch.stack([mask.roll(shift, dims=(1, 2)) for shift in shifts])
    area = mask.sum(dim=(1, 2))
    valid = ((copies & mask).sum(dim=(2, 3)) <= MOST_OVERLAP * area) & (area > 0)
    halves = len(HALF_SHIFTS)
    valid[halves:] &= ~valid[:halves].any(dim=0)
    return copies, valid


def localisation(distance: Tensor, mask: Tensor) -> Tensor:
    """Five figures of where a difference is: float64 (B, 5), each per image, higher is better (float32 on MPS).

    D is the distance brought to the resolution of the mask by bilinear interpolation (``align_corners=False``: pixels
    are areas, not points; no smoothing where it has to shrink). S are the lesion's pixels, a share α of the image.

    - Energy in mask: Σ_S D / ΣD, in [0, 1]. Chance is α.
    - Lift: that over α, in [0, 1/α]. Chance is 1.
    - Pointing: 1 where the largest D is in S, else 0 (the pointing game of Zhang et al. 2018, arXiv 1608.00507, without
      its margin of 15 pixels). Of several equally large, the share that is in S. Chance is α.
    - AUROC of D as a score for S, in [0, 1]; ties count half. Chance is ½.
    - Average precision, Σ (R_k − R_{k−1})·P_k over the thresholds from above, equal values in one step, as
      scikit-learn has it; in [0, 1]. Chance is about α.

    All five are NaN where there is nothing to find, or nothing that could miss it: an empty mask (excluded, never a
    hit), a mask of the whole image, a D that is 0 everywhere (identical activations) or not finite.

    Args:
        distance: (B, h, w), not negative, at any resolution (``positions.grid_distance``).
        mask: bool (B, H, W).

    Raises:
        ConfigurationError: distance and mask are not of as many images.
    """
    return _of_mask_and_copies(distance, mask_pixels(mask, shifted=False))[0]


def localisation_with_control(distance: Tensor, mask: Tensor | MaskPixels) -> tuple[Tensor, Tensor]:
    """``localisation`` for the mask and its mean over the valid ``shifted_masks``: twice float64 (B, 5).

    The control shows what the layer would score for a lesion elsewhere; NaN where no shifted mask is valid. For
    several layers of the same images give ``mask_pixels(mask)``: searching the masks takes a host synchronisation.
    """
    return _of_mask_and_copies(distance, mask_pixels(mask) if isinstance(mask, Tensor) else mask)


def _of_mask_and_copies(distance: Tensor, mask: MaskPixels) -> tuple[Tensor, Tensor]:
    if len(distance) != len(mask.pixels):
        raise ConfigurationError(
            f"A distance map of {len(distance)} images was to be compared with masks of {len(mask.pixels)}. Give both "
            "of the same images, in the same order."
        )
    distance = distance.detach().float()
    if distance.shape[1:] != mask.size:
        distance = interpolate(distance[:, None], size=mask.size, mode="bilinear", align_corners=False)[:, 0]
    found = [_figures(one, pixels) for one, pixels in zip(distance.flatten(1), mask.pixels)]
    nothing = distance.new_zeros((0, 5), dtype=sum_dtype(distance.device))
    return (
        torch.stack([one[0] for one in found]) if found else nothing,
        torch.stack([one[1:].mean(dim=0) for one in found]) if found else nothing,
    )


def _figures(distance: Tensor, pixels: Tensor) -> Tensor:
    """``localisation`` of one map (N,) for R masks of K pixels each, int64 (R, K): float64 (R, 5).

    All pixels are sorted once for all masks. The AUROC follows from the sum of the mask's ranks among them (Mann and
    Whitney), and the precision at the value of a mask's pixel from its ranks among all and within the mask.
    """
    n, k = len(distance), pixels.shape[1]
    dtype = sum_dtype(distance.device)
    undefined = torch.full((len(pixels), 5), torch.nan, dtype=dtype, device=distance.device)
    if k in (0, n):
        return undefined
    total = distance.sum(dtype=dtype)
    energy = distance[pixels].sum(dim=1, dtype=dtype) / total
    # The bits of floats that are not negative are in the order of the floats, and torch sorts integers on a CPU in a
    # seventh of the time (radix sort).
    keys = distance.abs().view(torch.int32)
    ordered = keys.sort().values
    inside = torch.stack([keys[one].sort().values for one in pixels])
    below, up_to = torch.searchsorted(ordered, inside), torch.searchsorted(ordered, inside, right=True)
    largest = ordered[-1:]
    pointing = (inside == largest).sum(dim=1) / (n - torch.searchsorted(ordered, largest)).to(dtype)
    ranks = 0.5 * (below + up_to + 1).sum(dim=1).to(dtype)
    auroc = (ranks - 0.5 * k * (k + 1)) / (k * (n - k))
    precision = (k - torch.searchsorted(inside, inside)) / (n - below).to(dtype)
    figures = torch.stack([energy, energy * (n / k), pointing, auroc, precision.mean(dim=1)], dim=1)
    return figures.where(total.isfinite() & (total > 0), undefined)

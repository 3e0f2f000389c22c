"""Which patches a box or a mask of the image is on, and their mean token."""

from __future__ import annotations

import torch
from torch import Tensor

from layerscope.errors import ConfigurationError
from layerscope.functional.memory_blocks import sum_dtype
from layerscope.functional.token_norms import wide_dtype


def box_seen(shown: Tensor, box: Tensor) -> Tensor:
    """Whether any of the box is in what the model sees, bool (B,); arguments as in ``patches_in_box``."""
    part = _shown_part(shown, box)
    return (part[:, 0] < part[:, 2]) & (part[:, 1] < part[:, 3])


def patches_in_box(shown: Tensor, box: Tensor, rows: int, columns: int) -> Tensor:
    """The patches whose centre lies in a box of the file's picture: bool (B, rows, columns), at least one an image.

    A box holds its left and upper edge and not its right and lower one. Where no row of patches has its centre in it,
    the row that holds the middle of the part of the box that is shown counts, and so of columns: a box of one pixel is
    the patch there, and a strip thinner than a patch a row of them.

    Args:
        shown: (B, 4), left, top, right and bottom of the part of each picture that the model sees, in pixels of the
            file.
        box: (4,), the same of the box.
        rows: of patches, which divide the part shown evenly. columns: the same.

    Raises:
        ConfigurationError: the box has no area, or none of it is shown of some image; the message names the first such
            image by its row in ``shown`` (``box_seen`` tells which rows those are, for a caller who skips them).
    """
    left, top, right, bottom = box.tolist()
    if not (left < right and top < bottom):
        raise ConfigurationError(
            f"The box {_written(box)} (left, top, right, bottom) has no area. Give left below right and top below "
            "bottom, in pixels of the picture in the file."
        )
    unseen = (~box_seen(shown, box)).nonzero()
    if len(unseen):
        row = int(unseen[0])
        raise ConfigurationError(
            f"The box {_written(box)} (left, top, right, bottom) lies outside what the model sees of the image in row "
            f"{row} of the batch, {_written(shown[row])}, in pixels of the picture in the file. Give a box inside it, "
            "or resize without a crop."
        )
    shown = shown.to(sum_dtype(shown.device))
    box = box.to(shown)
    inside = []
    part = _shown_part(shown, box)
    for near, far, count in ((1, 3, rows), (0, 2, columns)):
        start, size = shown[:, near], (shown[:, far] - shown[:, near]) / count
        centres = start[:, None] + size[:, None] * (torch.arange(count, device=shown.device).to(shown) + 0.5)
        within = (centres >= box[near]) & (centres < box[far])
        index = ((part[:, near] + part[:, far]) / 2 - start).div(size).floor().clamp(0, count - 1)
        nearest = torch.arange(count, device=shown.device) == index[:, None]
        inside.append(torch.where(within.any(dim=1, keepdim=True), within, nearest))
    return inside[0][:, :, None] & inside[1][:, None]


def patch_mask(mask: Tensor, rows: int, columns: int) -> Tensor:
    """The patches on the lesion: bool (B, H, W) to bool (B, rows, columns).

    A patch is on it if the mask covers at least half its area. Where it covers half of none, those patches are that it
    covers most, so that a lesion smaller than a patch stays visible; an empty mask stays empty. Areas are exact where
    patches cut pixels.
    """
    height, width = mask.shape[1:]
    dtype = sum_dtype(mask.device)
    # Areas in units of 1/rows × 1/columns pixels are whole numbers, so that a half is a half.
    down, across = (_overlap(size, count, mask.device).to(dtype) for size, count in ((height, rows), (width, columns)))
    covered = down @ mask.to(dtype) @ across.mT
    most = covered.amax(dim=(1, 2), keepdim=True)
    half = 2 * covered >= height * width
    return torch.where(half.any(dim=2).any(dim=1)[:, None, None], half, (covered == most) & (most > 0))


@torch.no_grad()
def region_mean(grid: Tensor, inside: Tensor) -> Tensor:
    """The mean token of a region: (B, R, C, D) and bool (B, R, C) to (B, D), NaN where the region is empty.

    Of float32, or float64 where the tokens are.
    """
    dtype = wide_dtype(grid.dtype)
    tokens = torch.where(inside[..., None], grid.to(dtype), torch.zeros((), dtype=dtype, device=grid.device))
    return tokens.sum(dim=(1, 2)) / inside.sum(dim=(1, 2)).to(dtype)[:, None]


def _shown_part(shown: Tensor, box: Tensor) -> Tensor:
    """The part of a box that is shown, (B, 4); it has no area where there is none."""
    box = box.to(shown)
    return torch.cat([torch.maximum(shown[:, :2], box[:2]), torch.minimum(shown[:, 2:], box[2:])], dim=1)


def _overlap(size: int, count: int, device: torch.device) -> Tensor:
    """How much of each of ``size`` pixels each of ``count`` patches covers, in 1/count pixels: int64 (count, size)."""
    pixel, patch = torch.arange(size, device=device) * count, torch.arange(count, device=device)[:, None] * size
    return (torch.minimum(pixel + count, patch + size) - torch.maximum(pixel, patch)).clamp_min_(0)


def _written(box: Tensor) -> str:
    return "(" + ", ".join(f"{value:g}" for value in box.tolist()) + ")"

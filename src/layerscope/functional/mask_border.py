"""Whether neighbouring tokens are less alike across the border of a lesion than elsewhere."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from layerscope.functional.localisation import shifted_masks
from layerscope.functional.memory_blocks import sum_dtype
from layerscope.functional.token_similarity import neighbours
from layerscope.types import NEIGHBOUR_PAIRS

BORDER_FIGURES = (
    "border_similarity",
    "inside_similarity",
    "outside_similarity",
    "border_drop",
    "shifted_border_drop",
)
"""Names of what ``border_figures`` gives."""


def border_figures(maps: Mapping[str, Tensor], inside: Tensor) -> dict[str, Tensor]:
    """Mean similarity of horizontal and vertical neighbours by their place to a lesion, each float64 (B,).

    - ``border_similarity``: of pairs that cross its border, one patch inside and one outside.
    - ``inside_similarity``, ``outside_similarity``: of pairs with both patches inside, and both outside.
    - ``border_drop``: mean over all pairs that do not cross, less ``border_similarity``. Positive where the model
      sees an edge at the border.
    - ``shifted_border_drop``: mean of ``border_drop`` over copies of the lesion elsewhere in the grid
      (``localisation.shifted_masks``), over the pairs that do not cross the lesion's own border: what a border that
      means nothing would show. A copy that is rolled over the image's edge keeps its area, not its length of border.

    NaN where there is no such pair, and for the last where no copy counts. float32 on MPS.

    Args:
        maps: with ``horizontal_right`` (B, R, C−1) and ``vertical_down`` (B, R−1, C), of
            ``token_similarity.neighbour_maps``.
        inside: bool (B, R, C), the patches on the lesion (``token_regions.patch_mask``).
    """
    similarity = torch.cat([maps[name].flatten(1) for name in NEIGHBOUR_PAIRS], dim=1).to(sum_dtype(inside.device))
    first, second = _sides(inside)
    crossing = first ^ second
    border = _mean(similarity, crossing)
    copies, valid = shifted_masks(inside)
    one, other = (side.unflatten(0, copies.shape[:2]) for side in _sides(copies.flatten(0, 1)))
    moved = one ^ other
    # The lesion's own border would make the rest less alike and the copies' borders more, or the other way round.
    drops = _mean(similarity, ~moved & ~crossing) - _mean(similarity, moved & ~crossing)
    return {
        "border_similarity": border,
        "inside_similarity": _mean(similarity, first & second),
        "outside_similarity": _mean(similarity, ~(first | second)),
        "border_drop": _mean(similarity, ~crossing) - border,
        "shifted_border_drop": drops.masked_fill(~valid, torch.nan).nanmean(dim=0),
    }


def _sides(inside: Tensor) -> tuple[Tensor, Tensor]:
    """Both patches of each horizontal, then vertical pair: bool (B, R, C) to twice (B, pairs)."""
    pairs = [neighbours(inside, name) for name in NEIGHBOUR_PAIRS]
    first, second = (torch.cat([pair[side].flatten(1) for pair in pairs], dim=1) for side in (0, 1))
    return first, second


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean over the last dimension of those chosen, bool of a shape that ``values`` expand to; NaN where none is."""
    return torch.where(chosen, values, torch.zeros_like(values)).sum(dim=-1) / chosen.sum(dim=-1)

"""What the token maps of an image come to, one number each."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from layerscope.errors import ConfigurationError
from layerscope.functional.memory_blocks import sum_dtype
from layerscope.functional.token_norms import image_median
from layerscope.types import NEIGHBOUR_PAIRS, PATCH_REFERENCES


def map_figures(maps: Mapping[str, Tensor], norms: Tensor, high: Tensor) -> dict[str, Tensor]:
    """Figures of one layer, each float64 (B,) (float32 on MPS).

    - ``neighbour_similarity``: mean over all horizontal and vertical pairs, each once; NaN for a single patch.
    - ``cls_similarity``, ``seed_similarity``, ``box_similarity``, ``text_similarity``: mean over patches; left out
      where there is no such map.
    - ``norm_median``, ``norm_max``: of the patches.
    - ``high_norm_share``: share of patches that stand out, in [0, 1].

    Args:
        maps: of ``types.LayerTokens``; ``horizontal_right`` and ``vertical_down`` must be among them.
        norms: (B, R, C), ``token_norms.token_norms``.
        high: bool (B, R, C), ``token_norms.high_norm``.
    """
    dtype = sum_dtype(norms.device)
    figures = {"neighbour_similarity": _pairs(maps).mean(dim=1)}
    for name in PATCH_REFERENCES:
        if name in maps:
            figures[name] = maps[name].to(dtype).flatten(1).mean(dim=1)
    return figures | {
        "norm_median": image_median(norms.to(dtype)),
        "norm_max": norms.to(dtype).flatten(1).amax(dim=1),
        "high_norm_share": high.to(dtype).flatten(1).mean(dim=1),
    }


def map_correlation(first_maps: Mapping[str, Tensor], second_maps: Mapping[str, Tensor]) -> Tensor:
    """Pearson correlation of two views' neighbour similarities over an image's pairs: float64 (B,), in [-1, 1].

    Over the horizontal and vertical values together; 1 where both views have their edges in the same places. NaN where
    either view's values are all equal.

    Raises:
        ConfigurationError: the views have different grids.
    """
    for name in NEIGHBOUR_PAIRS:
        if first_maps[name].shape != second_maps[name].shape:
            raise ConfigurationError(
                f"Maps {name} of two views differ in shape, {tuple(first_maps[name].shape)} and "
                f"{tuple(second_maps[name].shape)}, so they cannot be compared pair by pair. Show both views to models "
                "of one patch grid."
            )
    first, second = _pairs(first_maps), _pairs(second_maps)
    if first.shape[1] == 0:
        return first.new_full((len(first),), torch.nan)
    constant = [(x == x[:, :1]).all(dim=1) for x in (first, second)]
    first, second = (x - x.mean(dim=1, keepdim=True) for x in (first, second))
    scale = torch.linalg.vector_norm(first, dim=1) * torch.linalg.vector_norm(second, dim=1)
    correlation = ((first * second).sum(dim=1) / scale).clamp(-1, 1)
    return correlation.masked_fill(constant[0] | constant[1], torch.nan)


def _pairs(maps: Mapping[str, Tensor]) -> Tensor:
    """All horizontal, then all vertical similarities: (B, pairs)."""
    values = torch.cat([maps[name].flatten(1) for name in NEIGHBOUR_PAIRS], dim=1)
    return values.to(sum_dtype(values.device))

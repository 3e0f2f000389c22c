"""Similarity across a lesion's border, by a loop over pairs of patches."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from layerscope.functional.localisation import shifted_masks
from layerscope.functional.mask_border import border_figures
from layerscope.functional.token_similarity import neighbour_maps


def maps_of(samples: int, rows: int, columns: int, seed: int = 0) -> dict[str, Tensor]:
    grid = torch.randn(samples, rows, columns, 12, generator=torch.Generator().manual_seed(seed))
    return neighbour_maps(grid, "cosine", diagonals=True)


def looped(maps: dict[str, Tensor], b: int, inside: Tensor, without: Tensor | None = None) -> dict[str, float]:
    """without: pairs that cross the border of this mask are left out."""
    rows, columns = inside.shape
    groups: dict[int, list[float]] = {0: [], 1: [], 2: []}
    for r in range(rows):
        for c in range(columns):
            for name, below, right in (("horizontal_right", 0, 1), ("vertical_down", 1, 0)):
                other = (r + below, c + right)
                if other[0] == rows or other[1] == columns:
                    continue
                if without is None or without[r, c] == without[other]:
                    groups[int(inside[r, c]) + int(inside[other])].append(float(maps[name][b, r, c]))

    def mean(values: list[float]) -> float:
        return math.fsum(values) / len(values) if values else math.nan

    return {
        "border_similarity": mean(groups[1]),
        "inside_similarity": mean(groups[2]),
        "outside_similarity": mean(groups[0]),
        "border_drop": mean(groups[0] + groups[2]) - mean(groups[1]),
    }


def lesions(rows: int, columns: int) -> Tensor:
    inside = torch.zeros(6, rows, columns, dtype=torch.bool)
    inside[0, : max(1, rows // 3), : max(1, columns // 3)] = True
    inside[1, rows // 2, columns // 2] = True
    inside[2] = torch.rand(rows, columns, generator=torch.Generator().manual_seed(1)) < 0.2
    inside[3] = True
    inside[4] = (torch.arange(rows)[:, None] + torch.arange(columns)) % 2 == 0  # every pair crosses
    return inside  # the last is empty


@pytest.mark.parametrize("size", [(9, 9), (6, 11), (1, 7), (8, 1), (1, 1)])
def test_figures_equal_a_loop_over_pairs(size: tuple[int, int]) -> None:
    maps, inside = maps_of(6, *size), lesions(*size)
    figures = border_figures(maps, inside)
    copies, valid = shifted_masks(inside)
    for b in range(6):
        expected = looped(maps, b, inside[b])
        drops = [looped(maps, b, copy[b], inside[b])["border_drop"] for copy, counts in zip(copies, valid) if counts[b]]
        drops = [drop for drop in drops if not math.isnan(drop)]
        expected["shifted_border_drop"] = float(np.mean(drops)) if drops else math.nan
        assert {name: float(values[b]) for name, values in figures.items()} == pytest.approx(
            expected, rel=1e-9, abs=1e-12, nan_ok=True
        )
    assert all(values.dtype == torch.float64 for values in figures.values())
    if min(size) > 1:  # there was something to compare
        assert figures["shifted_border_drop"][:3].isfinite().all()


def test_an_edge_at_the_border_shows_there_and_not_at_its_shifted_copies() -> None:
    inside = torch.zeros(1, 12, 12, dtype=torch.bool)
    inside[0, 2:5, 3:6] = True
    grid = torch.where(inside[..., None], torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0]))
    figures = {name: float(value) for name, value in border_figures(neighbour_maps(grid, "cosine"), inside).items()}
    assert figures["border_similarity"] == 0
    assert figures["inside_similarity"] == figures["outside_similarity"] == figures["border_drop"] == 1
    # The only edge of the image is the lesion's own, which the copies do not count.
    assert figures["shifted_border_drop"] == 0


def test_without_a_lesion_or_without_anything_else_there_is_no_border() -> None:
    figures = border_figures(maps_of(2, 4, 4), torch.stack([torch.zeros(4, 4), torch.ones(4, 4)]).bool())
    for name in ("border_similarity", "border_drop", "shifted_border_drop"):
        assert figures[name].isnan().all()
    assert figures["inside_similarity"].isnan().tolist() == [True, False]
    assert figures["outside_similarity"].isnan().tolist() == [False, True]

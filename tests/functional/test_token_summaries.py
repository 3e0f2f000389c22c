"""An image's figures and the correlation of two views, against NumPy and SciPy over listed pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr
from torch import Tensor

from layerscope.errors import ConfigurationError
from layerscope.functional.token_norms import high_norm, token_norms
from layerscope.functional.token_similarity import neighbour_maps, similarity_to
from layerscope.functional.token_summaries import map_correlation, map_figures


def grid_of(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) + 0.5


def pairs(maps: dict[str, Tensor], b: int) -> list[float]:
    return [*maps["horizontal_right"][b].flatten().tolist(), *maps["vertical_down"][b].flatten().tolist()]


@pytest.mark.parametrize("size", [(5, 6), (4, 4), (1, 5)])
def test_figures_are_means_over_pairs_and_patches(size: tuple[int, int]) -> None:
    grid = grid_of(3, *size, 10)
    grid[1, 0, 0] *= 20
    norms = token_norms(grid)
    high = high_norm(norms)
    maps = neighbour_maps(grid, "cosine", diagonals=True)
    assert "cls_similarity" not in map_figures(maps, norms, high)
    maps["cls_similarity"] = similarity_to(grid, grid[:, 0, 1], "cosine")
    figures = map_figures(maps, norms, high)
    assert all(values.dtype == torch.float64 for values in figures.values())
    for b in range(3):
        expected = {
            "neighbour_similarity": np.mean(pairs(maps, b)),
            "cls_similarity": maps["cls_similarity"][b].double().mean().item(),
            "norm_median": np.median(norms[b].numpy().astype(float)),
            "norm_max": norms[b].max().item(),
            "high_norm_share": (1 if b == 1 else 0) / (size[0] * size[1]),
        }
        assert {name: float(values[b]) for name, values in figures.items()} == pytest.approx(expected, rel=1e-12)


def test_a_single_patch_has_no_neighbours() -> None:
    grid = grid_of(2, 1, 1, 4)
    norms = token_norms(grid)
    figures = map_figures(neighbour_maps(grid, "cosine"), norms, high_norm(norms))
    assert figures["neighbour_similarity"].isnan().all()
    assert torch.equal(figures["norm_max"], norms[:, 0, 0].double())
    assert map_correlation(neighbour_maps(grid, "cosine"), neighbour_maps(grid, "cosine")).isnan().all()


def test_correlation_is_pearsons_over_all_pairs() -> None:
    first = neighbour_maps(grid_of(3, 5, 4, 10), "cosine")
    second = neighbour_maps(grid_of(3, 5, 4, 10) + 0.3 * grid_of(3, 5, 4, 10, seed=1), "dot_product")
    expected = [pearsonr(pairs(first, b), pairs(second, b))[0] for b in range(3)]
    assert map_correlation(first, second).tolist() == pytest.approx(expected, rel=1e-9)
    opposite = {name: 2 - 3 * values for name, values in first.items()}
    assert map_correlation(first, first).tolist() == pytest.approx([1] * 3, abs=1e-12)
    assert map_correlation(first, opposite).tolist() == pytest.approx([-1] * 3, abs=1e-6)


def test_correlation_with_a_constant_view_is_undefined() -> None:
    first = neighbour_maps(grid_of(2, 3, 3, 10), "cosine")
    second = neighbour_maps(torch.cat([torch.zeros(1, 3, 3, 10), grid_of(1, 3, 3, 10, seed=2)]), "cosine")
    for found in (map_correlation(first, second), map_correlation(second, first)):
        assert found.isnan().tolist() == [True, False]
    values = {name: torch.rand(9, 3, 3, dtype=torch.float64) for name in first}
    tenths = torch.arange(1, 10, dtype=torch.float64)[:, None, None] / 10
    same = {name: tenths.expand(9, 3, 3) for name in first}  # most of their means are off by a rounding
    assert map_correlation(values, same).isnan().all()
    assert map_correlation(same, values).isnan().all()


def test_views_of_different_grids_are_refused() -> None:
    first, second = (neighbour_maps(torch.ones(1, 3, width, 2), "cosine") for width in (3, 4))
    with pytest.raises(ConfigurationError, match="one patch grid"):
        map_correlation(first, second)

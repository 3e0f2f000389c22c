"""Positions of activations on the grid of the image."""

import pytest
import torch

from layerscope.errors import ConfigurationError
from layerscope.functional.positions import default_grid, grid_distance
from layerscope.types import PositionGrid


def test_prefix_is_dropped_and_rows_come_first() -> None:
    distance = torch.arange(2 * 8.0).view(2, 8)
    grid = grid_distance(distance, PositionGrid(channel_dim=2, prefix=2, rows=2, columns=3))
    assert grid is not None
    assert grid.tolist() == [[[2, 3, 4], [5, 6, 7]], [[10, 11, 12], [13, 14, 15]]]


def test_feature_maps_keep_their_grid_and_others_have_none() -> None:
    distance = torch.rand(2, 3, 5)
    grid = grid_distance(distance, default_grid((2, 7, 3, 5)))
    assert grid is not None
    assert torch.equal(grid, distance)
    assert default_grid((2, 197, 768)) is None
    assert grid_distance(distance, None) is None


def test_a_grid_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="9 positions, but its grid has 2 × 3 behind a prefix of 1"):
        grid_distance(torch.rand(2, 9), PositionGrid(channel_dim=2, prefix=1, rows=2, columns=3))

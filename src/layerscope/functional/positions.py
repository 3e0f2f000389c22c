"""From an activation's positions to the grid of the image they stand for."""

from __future__ import annotations

from torch import Tensor

from layerscope.errors import ConfigurationError
from layerscope.types import PositionGrid


def default_grid(shape: tuple[int, ...]) -> PositionGrid | None:
    """The grid of an activation (B, C, h, w); None for any other number of dimensions, which only its model knows.

    >>> default_grid((2, 128, 32, 64))
    PositionGrid(channel_dim=1, prefix=0, rows=32, columns=64)
    """
    return PositionGrid(1, 0, shape[2], shape[3]) if len(shape) == 4 else None


def grid_distance(distance: Tensor, grid: PositionGrid | None) -> Tensor | None:
    """A distance a position, (B, N) or (B, h, w), to a map (B, rows, columns) without prefix positions.

    None where there is no grid. The distance comes from ``layer_energies.pair_energies`` with the grid's channel_dim.

    Raises:
        ConfigurationError: N is not prefix + rows·columns.
    """
    if grid is None:
        return None
    flat = distance.flatten(1)
    if flat.shape[1] != grid.prefix + grid.rows * grid.columns:
        raise ConfigurationError(
            f"A layer has {flat.shape[1]} positions, but its grid has {grid.rows} × {grid.columns} behind a prefix of "
            f"{grid.prefix}. Mend position_grid of the model (layerscope.protocols.GridLayers), or let it give None."
        )
    return flat[:, grid.prefix :].unflatten(1, (grid.rows, grid.columns))

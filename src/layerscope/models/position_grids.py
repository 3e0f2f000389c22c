"""Where the image positions of an activation are, told from its shape and the size of the model's input."""

from __future__ import annotations

from collections.abc import Iterable

from layerscope.types import PositionGrid

# Pixels per position in convolutional networks.
POWERS_OF_TWO = tuple(2**k for k in range(8))


def map_grid(
    shape: tuple[int, ...],
    input_size: tuple[int, int],
    steps: Iterable[int | tuple[int, int]],
    channels_last: bool = False,
    any_map: bool = False,
) -> PositionGrid | None:
    """The grid of a four-dimensional activation, (B, C, h, w) or (B, h, w, C).

    Both layouts occur in one model (ConvNeXt's linear layers, SANA's norms), so the one whose h and w are those of the
    input divided by a step is taken.

    Args:
        shape: of the activation.
        input_size: (H, W) of what the model was given.
        steps: pixels per position that occur, or such pairs.
        channels_last: the layout to try first.
        any_map: take that layout also where neither has a known step; otherwise such an activation has no positions.
    """
    layouts = [PositionGrid(1, 0, shape[2], shape[3]), PositionGrid(3, 0, shape[1], shape[2])]
    if channels_last:
        layouts.reverse()
    pairs = [step if isinstance(step, tuple) else (step, step) for step in steps]
    for layout in layouts:
        sides = tuple(zip((layout.rows, layout.columns), input_size))
        # Convolutions round down or up.
        if any(
            all(side in (pixels // step, -(-pixels // step)) for (side, pixels), step in zip(sides, pair))
            for pair in pairs
        ):
            return layout
    return layouts[0] if any_map else None


def token_grid(shape: tuple[int, ...], grids: Iterable[tuple[int, int]], prefix: int) -> PositionGrid | None:
    """The grid of tokens (B, N, C): the first whose rows · columns are N, or N less the prefix; None if none is.

    Patch embeddings come before the prefix is added, so the same model gives both.
    """
    for rows, columns in grids:
        for skipped in (prefix, 0):
            if shape[1] - skipped == rows * columns:
                return PositionGrid(2, skipped, rows, columns)
    return None

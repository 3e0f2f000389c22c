"""Checks of what every datamodule of image files is given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from layerscope.errors import ConfigurationError, DataError


def check_counts(counts: Mapping[str, int | None], num_workers: int) -> None:
    """Each of ``counts`` that is given must be at least 1, ``num_workers`` at least 0; else ConfigurationError."""
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ConfigurationError(f"data.init_args.{name} is {value}; it must be at least 1.")
    if num_workers < 0:
        raise ConfigurationError(f"data.init_args.num_workers is {num_workers}; it must be 0 or more.")


def check_side(name: str, side: int | None, size_multiple: int) -> None:
    """The option ``name`` must be a multiple of the model's downsampling; else ConfigurationError."""
    if side is not None and side % size_multiple:
        below, above = side // size_multiple * size_multiple, (side // size_multiple + 1) * size_multiple
        raise ConfigurationError(
            f"data.init_args.{name} is {side}, which size_multiple {size_multiple} (the downsampling of the model) "
            f"does not divide. Use {f'{below} or ' if below else ''}{above}."
        )


def existing_root(root: str) -> Path:
    """The data directory; DataError where there is none."""
    path = Path(root)
    if not path.is_dir():
        raise DataError(f"data.init_args.root is {root}, which is no directory (seen from {Path.cwd()}).")
    return path

"""Which files of folders belong together, by their names."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from layerscope.data.files import relative_stem
from layerscope.data.images import SUFFIXES
from layerscope.data.records import check_id
from layerscope.errors import DataError

_MASK = re.compile(r"(.+)_mask(?:_\d+)?", re.DOTALL)


def all_of(names: Iterable[str]) -> str:
    """All names in a message, however many: whoever repairs a folder needs them at once."""
    return ", ".join(map(repr, names))


def images_by_stem(folder: Path, files: Sequence[Path]) -> dict[str, Path]:
    """Each of ``files`` below ``folder`` by its relative path without suffix, which becomes an id.

    Raises:
        DataError: there are none, two have the same stem (all are listed), or a stem cannot be an id.
    """
    if not files:
        raise DataError(
            f"No images were found below {folder}. Put images there, or correct data.init_args.root; images end in "
            f"{', '.join(SUFFIXES)}."
        )
    by_stem = files_by_stem(folder, files)
    for stem, path in by_stem.items():
        check_id(stem, str(path))
    return by_stem


def files_by_stem(folder: Path, files: Sequence[Path]) -> dict[str, Path]:
    """Each of ``files`` below ``folder`` by its relative path without suffix.

    Raises:
        DataError: two have the same stem; all are listed.
    """
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        by_stem[relative_stem(folder, path)].append(path)
    twins = [path.relative_to(folder).as_posix() for paths in by_stem.values() if len(paths) > 1 for path in paths]
    if twins:
        raise DataError(
            f"Files below {folder} differ only in their suffix, so which one is meant is not known: {all_of(twins)}. "
            "Keep one of each."
        )
    return {stem: path for stem, (path,) in by_stem.items()}


def image_of_mask(stem: str) -> str | None:
    """The stem of the image that a mask file belongs to by ``_mask`` or ``_mask_1`` at its end; None without it."""
    match = _MASK.fullmatch(stem)
    return match.group(1) if match else None


def masks_by_image(
    folder: Path, files: Sequence[Path], images: Mapping[str, Path]
) -> tuple[dict[str, tuple[Path, ...]], list[str]]:
    """The mask files of each image, by the image's stem, and the files that belong to none.

    A mask has the stem of its image, or that and ``_mask``, ``_mask_1``, ...
    """
    masks: dict[str, list[Path]] = defaultdict(list)
    strangers: list[str] = []
    for path in files:
        stem = relative_stem(folder, path)
        image = stem if stem in images else image_of_mask(stem)
        if image is not None and image in images:
            masks[image].append(path)
        else:
            strangers.append(path.relative_to(folder).as_posix())
    return {image: tuple(paths) for image, paths in masks.items()}, strangers

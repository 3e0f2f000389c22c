"""Which image files lie below folders, and their names."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from layerscope.data.images import SUFFIXES
from layerscope.data.records import check_id
from layerscope.errors import DataError


def image_files(*folders: Path) -> list[list[Path]]:
    """Every image file below each of ``folders`` by its suffix, sorted by path; none where there is no such folder.

    Names that begin with a dot are left out (macOS and thumbnailers put such files beside images). Links to folders
    are followed.

    Raises:
        DataError: a folder cannot be read, or is reached twice by links, which would count its images twice.
    """
    seen: dict[tuple[int, int], Path] = {}
    return [sorted(_below(folder, seen)) if folder.is_dir() else [] for folder in folders]


def relative_stem(root: Path, path: Path) -> str:
    """The path of an image below ``root`` without its suffix, with ``/`` on every system."""
    return path.relative_to(root).with_suffix("").as_posix()


def files_by_id(root: Path, files: Sequence[Path], respell: Callable[[str], str] = str) -> dict[str, Path]:
    """Each file below ``root`` by its id, in the given order.

    An id is the path below ``root`` without suffix, with it where two files differ in nothing else. ``respell`` may
    change what an id must not hold.

    Raises:
        DataError: a path cannot be an id, or two become the same.
    """
    stems = Counter(relative_stem(root, path) for path in files)
    found: dict[str, Path] = {}
    for path in files:
        stem = relative_stem(root, path)
        name = respell(stem if stems[stem] == 1 else path.relative_to(root).as_posix())
        check_id(name, str(path))
        if name in found:
            raise DataError(f"{path} and {found[name]} both get the id {name!r}. Rename one of them.")
        found[name] = path
    return found


def _below(folder: Path, seen: dict[tuple[int, int], Path]) -> Iterator[Path]:
    try:
        status = folder.stat()
        first = seen.setdefault((status.st_dev, status.st_ino), folder)
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(
            f"The folder {folder} cannot be read ({error.strerror or error}). Give yourself the right to read it, or "
            "take it out of the data directory."
        ) from error
    if first is not folder:
        raise DataError(
            f"The folders {first} and {folder} are the same, by a link: their images would count twice. Take the link "
            "out of the data directory."
        )
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _below(Path(entry.path), seen)
        elif Path(entry.name).suffix.lower() in SUFFIXES and entry.is_file():
            yield Path(entry.path)

"""The image files that a user names: one by one, by folders, by patterns such as ``images/*.jpg``, or by a mix."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from layerscope.data.files import image_files
from layerscope.data.images import SUFFIXES
from layerscope.data.schema import did_you_mean
from layerscope.errors import ConfigurationError, DataError


@dataclass(frozen=True)
class NamedFiles:
    """The files found, absolute and sorted.

    root: the folder that was named or searched, of several the deepest that holds all; of a file, the one it is in.
    one_by_one: whether each file was named itself.
    """

    files: tuple[Path, ...]
    root: Path
    one_by_one: bool

    def without(self, others: NamedFiles | None) -> NamedFiles:
        """Those that are not among ``others``."""
        if others is None:
            return self
        taken = {os.path.realpath(path) for path in others.files}
        kept = tuple(path for path in self.files if os.path.realpath(path) not in taken)
        return NamedFiles(kept, self.root, self.one_by_one)


def find_named_files(entries: str | Path | Sequence[str | Path], option: str) -> NamedFiles:
    """The image files that ``entries`` name; a file that is reached in two ways, links included, counts once.

    An entry is a file, a folder (all images below it), or a pattern (``glob.glob``, ``**`` for folders of any depth). A
    file or folder of that very name comes before a pattern, also within the path. Names that begin with a dot are found
    only where they are written out. ``option`` is what messages call the entries: ``data.init_args.path``.

    Raises:
        ConfigurationError: there are no entries, or an empty one.
        DataError: a file does not exist or is no image by its suffix, a folder holds no images, or a pattern matches
            none.
    """
    named = [entries] if isinstance(entries, str | Path) else list(entries)
    if not named or not all(str(entry) for entry in named):
        raise ConfigurationError(
            f"{option} is {entries!r}, which names nothing. Name an image file, several, a folder, or a pattern such "
            "as images/*.jpg."
        )
    found: dict[str, Path] = {}
    roots: list[Path] = []
    one_by_one = True
    for entry in named:
        path = _absolute(Path(entry))
        # Unlike pathlib's, these take what must not be looked at, or has too long a name, for missing.
        if os.path.isfile(path):
            _check_suffix(path, option)
            files, root = [path], path.parent
        elif os.path.isdir(path):
            files, root, one_by_one = _in_folder(path, option), path, False
        elif glob.has_magic(str(entry)):
            (files, root), one_by_one = _matching(path, str(entry), option), False
        else:
            raise DataError(_missing(path, option))
        roots.append(root)
        for file in files:
            same = os.path.realpath(file)
            found[same] = min(found.get(same, file), file)
    return NamedFiles(tuple(sorted(found.values())), common_folder(roots), one_by_one)


def common_folder(folders: Sequence[Path]) -> Path:
    """The deepest folder that is, or holds, each of ``folders``, which are absolute."""
    try:
        return Path(os.path.commonpath(folders))
    except ValueError as error:
        raise DataError(
            f"{folders[0]} and others are on different drives, so that images have no names below one folder. Put them "
            "on one drive."
        ) from error


def _absolute(path: Path) -> Path:
    # Behind a link, "link/.." is where the link leads and not where it lies.
    if path.name == "..":
        return Path(os.path.realpath(path))
    return Path(os.path.realpath(path.parent), path.name) if ".." in path.parts else Path(os.path.abspath(path))


def _check_suffix(path: Path, option: str) -> None:
    """A name without any suffix claims nothing: reading tells."""
    if path.suffix and path.suffix.lower() not in SUFFIXES:
        raise DataError(
            f"{option} names {path}, whose suffix {path.suffix} is not that of an image. Images end in "
            f"{', '.join(SUFFIXES)}: convert the file, or take it out."
        )


def _missing(path: Path, option: str) -> str:
    folder = path.parent
    try:
        names = [name for name in os.listdir(folder) if not name.startswith(".")]
    except FileNotFoundError:
        return f"{option} names {path}, but there is no folder {folder}. Correct the path."
    except OSError as error:
        return f"{option} names {path}, but {folder} cannot be read ({error.strerror or error}). Correct the path."
    near = did_you_mean(path.name, names)
    return f"{option} names {path}, which does not exist{near}. Correct the path."


def _in_folder(folder: Path, option: str) -> list[Path]:
    (files,) = image_files(folder)
    if not files:
        raise DataError(
            f"{option} names the folder {folder}, but no images were found below it ({_contents(folder)}). Images end "
            f"in {', '.join(SUFFIXES)}: put some there, or correct the path."
        )
    return files


def _matching(path: Path, entry: str, option: str) -> tuple[list[Path], Path]:
    """The images that a pattern matches, and the folder in which it begins: the last that exists by its very name."""
    folder, parts = Path(path.anchor), list(path.parts[1:])
    while parts and (folder / parts[0]).is_dir():
        folder /= parts.pop(0)
    pattern = os.path.join(*parts)
    files: list[Path] = []
    for match in glob.glob(pattern, root_dir=folder, recursive=True):
        place = folder / match
        if place.is_dir():
            # Unquoted, a shell would name these folders one by one. "**" has their files already.
            files += [] if parts[-1] == "**" else image_files(place)[0]
        elif place.suffix.lower() in SUFFIXES and place.is_file():
            files.append(place)
    if not files:
        missing = "" if glob.has_magic(parts[0]) else f" There is no {folder / parts[0]}."
        raise DataError(
            f"{option} is {entry}, but no image below {folder} matches {pattern} ({_contents(folder)}).{missing} "
            f"Correct the pattern; images end in {', '.join(SUFFIXES)}."
        )
    return files, folder


def _contents(folder: Path) -> str:
    """What lies in a folder, by suffix: ``it holds 3 .png, 1 .txt, 2 folders``."""
    try:
        entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"
    folders = sum(entry.is_dir() for entry in entries)
    suffixes = Counter(Path(entry.name).suffix or "without suffix" for entry in entries if not entry.is_dir())
    told = [
        f"{suffixes[suffix]} {suffix}" for suffix in sorted(suffixes, key=lambda suffix: (-suffixes[suffix], suffix))
    ]
    told += [f"{folders} folder{'s' * (folders > 1)}"] if folders else []
    return f"it holds {', '.join(told)}" if told else "it is empty"

"""File names made from sample ids, which may hold anything."""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePosixPath

from layerscope.errors import ArtifactError

_MAX_LENGTH = 80


def safe_file_name(identifier: str) -> str:
    """A file name for a sample id: letters, digits, ``.``, ``_`` and ``-`` only, not hidden, at most 89 characters.

    An id that had to be changed gets a short hash of the original, so that two ids never share a name.

    >>> safe_file_name("patient7_left")
    'patient7_left'
    >>> safe_file_name("../7/left")
    'x.._7_left-e4ae3a6d'
    """
    name = re.sub(r"[^A-Za-z0-9._-]", "_", identifier)[:_MAX_LENGTH]
    if not name or name[0] in ".-":
        name = f"x{name}"
    if name == identifier:
        return name
    return f"{name}-{hashlib.sha256(identifier.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def mirrored_file_name(identifier: str, suffix: str) -> str:
    """A relative path that repeats the folders of a sample id: ``identifier`` and ``suffix``.

    An id that could leave its folder, or holds characters that file systems refuse, becomes ``safe_file_name`` of it,
    in no folder.

    >>> mirrored_file_name("patient 7/left", ".png")
    'patient 7/left.png'
    >>> mirrored_file_name("../7/left", ".png")
    'x.._7_left-e4ae3a6d.png'
    """
    parts = identifier.split("/")
    plain = identifier.isprintable() and not re.search(r'[<>:"|?*\\]', identifier)
    if plain and all(part not in ("", ".", "..") for part in parts):
        return identifier + suffix
    return safe_file_name(identifier) + suffix


def check_member_name(name: str) -> str:
    """``name`` if it is a relative path that stays inside a run directory; ArtifactError otherwise."""
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name or path.parts[0].startswith("."):
        raise ArtifactError(
            f"A result file was to be written as {name!r}, which is not a plain relative name inside the run "
            "directory. Make file names from sample ids with layerscope.artifacts.safe_file_name."
        )
    return str(path)

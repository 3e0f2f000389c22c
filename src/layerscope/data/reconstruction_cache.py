"""Reconstructions kept on disk by what they are made of, up to a number of bytes."""

from __future__ import annotations

import io
import os
import tempfile
import warnings
import zlib
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray

from layerscope.errors import ConfigurationError

_CHECKSUM_BYTES = 4


class ReconstructionCache:
    """A folder of uint8 arrays, ``<first two digits of the key>/<key>.npy``, each with a checksum behind it.

    Several processes may share the folder: a file appears whole, under its name, or not at all. A file that is cut
    off or changed is not read; the next ``write`` of its key replaces it. When the bytes are used up nothing more is
    added, and nothing removed: an epoch meets each image equally often, so making room for one entry would only lose
    another that is wanted as soon. The same when the disk is full or cannot be written.

    ``numpy.load`` reads the files; the checksum is behind what it looks at.

    Args:
        folder: made where missing. What it holds already counts.
        gigabytes: upper bound of all files in ``folder`` together, in 10⁹ bytes.
        processes: that share the room left; each takes an equal part. Trainings that use one folder at the same time
            do not know of each other, and each may fill the room that it found.

    Raises:
        ConfigurationError: ``folder`` cannot be made or read.
    """

    def __init__(self, folder: str | Path, gigabytes: float, processes: int = 1) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            used = _bytes_in(self.folder)
        except OSError as error:
            raise ConfigurationError(
                f"The folder for reconstructions, {self.folder}, cannot be made or read: {error.strerror or error}. "
                "Set model.init_args.mixing.cache to a folder that can be written, or to null to keep none."
            ) from error
        self._bound = f"{gigabytes:g} GB"
        self._room = max(0, int(gigabytes * 1e9) - used) // processes
        self._closed = False

    def read(self, key: str, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
        """The array of ``shape`` under ``key``, read-only; None where it is missing, damaged or of another shape."""
        try:
            content = self._path(key).read_bytes()
        except OSError:
            return None
        header, end = _header(shape), len(content) - _CHECKSUM_BYTES
        size = int(np.prod(shape))
        if end != len(header) + size or not content.startswith(header):
            return None
        if zlib.crc32(memoryview(content)[:end]).to_bytes(_CHECKSUM_BYTES, "little") != content[end:]:
            return None
        return np.frombuffer(content, dtype=np.uint8, count=size, offset=len(header)).reshape(shape)

    def write(self, key: str, array: NDArray[np.uint8]) -> None:
        """Keeps ``array`` if there is room for it."""
        if self._closed:
            return
        content = _header(array.shape) + array.tobytes()
        content += zlib.crc32(content).to_bytes(_CHECKSUM_BYTES, "little")
        path = self._path(key)
        try:
            added = len(content) - (path.stat().st_size if path.exists() else 0)
            if added > self._room:
                self._closed = True
                rank_zero_info(
                    f"The reconstructions in {self.folder} fill the {self._bound} of cache_gigabytes (an equal part of "
                    "what was free for each process). No more are kept; those that are not there are made each time."
                )
                return
            _write_whole(path, content)
            self._room -= added
        except OSError as error:
            self._closed = True
            warnings.warn(
                f"A reconstruction could not be written to {self.folder} ({error.strerror or error}). Training goes on "
                "without keeping more of them.",
                stacklevel=2,
            )

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.npy"


def _write_whole(path: Path, content: bytes) -> None:
    """Unlike ``artifacts.write_file``: two processes may write one entry at once, and none waits for the disk.

    What a power cut leaves of a file is found out by its checksum and made again.
    """
    path.parent.mkdir(exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(partial)
        raise


@lru_cache(maxsize=16)
def _header(shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def _bytes_in(folder: Path) -> int:
    total = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                total += _bytes_in(Path(entry.path))
            else:
                # Another process may have renamed or removed it by now.
                with suppress(FileNotFoundError):
                    total += entry.stat(follow_symlinks=False).st_size
    return total

"""One command at a time works in a folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from layerscope.errors import ArtifactError, ConfigurationError


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Holds DIR/.lock and gives its descriptor, for the children to inherit.

    With them the lock outlives a killed parent: as long as its orphans work in the folder, nothing else starts there.
    (On NFS, where Linux keeps such locks by process, it ends with the parent.)

    Raises:
        ConfigurationError: another command, or a run that one left behind, works there.
        ArtifactError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise ArtifactError(
            f"The folder {folder} cannot be written: {error.strerror or error}. Choose another --output."
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigurationError(
                f"Runs are at work in {folder}: of another command with the same --output, or of one that was killed "
                f"and left them (their processes hold {folder / '.lock'}). Wait for them or end them, or choose "
                "another --output."
            ) from error
        except OSError as error:
            raise ArtifactError(
                f"{folder / '.lock'} cannot be locked: {error.strerror or error}. Choose an --output on a file system "
                "that knows locks."
            ) from error
        yield descriptor
    finally:
        os.close(descriptor)

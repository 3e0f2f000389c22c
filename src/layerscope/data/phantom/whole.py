"""Writing a phantom whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from layerscope.data.phantom.exact import RECORD
from layerscope.errors import DataError


@contextmanager
def written_whole(out: Path, overwrite: bool) -> Iterator[Path]:
    """A directory to write a phantom into, which becomes ``out`` when all went well and vanishes otherwise.

    Raises:
        DataError: ``out`` exists (an earlier phantom is replaced with ``overwrite``; whatever else is left alone), or
            cannot be written.
    """
    _check_free(out, overwrite)
    try:
        target = out.resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        workspace = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            stage = workspace / "new"
            stage.mkdir()
            yield stage
            if target.exists():
                target.rename(workspace / "old")
            stage.rename(target)
        finally:
            shutil.rmtree(workspace, ignore_errors=True)
    except OSError as error:
        raise DataError(
            f"The phantom could not be written to {out} ({error.strerror or error}). Nothing was left behind; free "
            "some space or choose another directory."
        ) from error


def _check_free(out: Path, overwrite: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / RECORD).is_file():
        raise DataError(f"{out} exists and is no phantom, so it is left alone. Choose another directory.")
    if not overwrite:
        raise DataError(f"{out} already holds a phantom. Pass --overwrite to replace it, or choose another directory.")

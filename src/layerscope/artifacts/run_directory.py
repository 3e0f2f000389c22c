"""The run directory: results appear whole or not at all, and finished ones are never overwritten silently.

::

    outputs/diagnostics/vae_bottleneck/<experiment_name>/
        UNFINISHED        while a run works here, and after one was killed; no summary.json then
        summary.json      written last: its presence means that the result is complete
        *.csv  *.npz  figures/  worst_samples/ ...
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from layerscope.artifacts.names import check_member_name
from layerscope.artifacts.tables import format_csv, write_rows
from layerscope.artifacts.versions import SCHEMA_VERSION
from layerscope.errors import ArtifactError, ConfigurationError

SUMMARY = "summary.json"
UNFINISHED = "UNFINISHED"
UNREPORTED_SCORES = "scores_unreported.npz"
"""The scores of a run whose statistics or figures failed."""
PARTIAL_SUFFIX = ".partial"
"""Of the hidden files that ``whole_file`` writes."""
_STAGING_PREFIX = ".staging-"
_PREVIOUS_PREFIX = ".previous-"

# Loggers, checkpoints and the command line put these into a directory before the first result exists.
_COMPANIONS = frozenset(
    {
        "tensorboard",
        "checkpoints",
        "lightning_logs",
        "config.yaml",
        "config_used.yaml",
        "hparams.yaml",
        UNFINISHED,
        UNREPORTED_SCORES,
    }
)


def open_run_directory(path: str | Path, overwrite: bool = False) -> RunDirectory:
    """Claims ``path`` for the results of one run and marks it unfinished.

    A directory that is missing, empty or unfinished is taken. One with a finished result is taken only with
    ``overwrite``, and then keeps the old result, whole, until the new one is complete.

    Raises:
        ConfigurationError: a finished result stands there and ``overwrite`` is false, or the directory holds other
            things than results, which no option makes layerscope touch.
        ArtifactError: the directory cannot be created or written.
    """
    path = Path(path)
    with _explained(path):
        if path.exists() and not path.is_dir():
            raise ConfigurationError(
                f"The results are to be written into the directory {path}, but that is a file. Choose another "
                "output directory or experiment_name."
            )
        path.mkdir(parents=True, exist_ok=True)
        finished = (path / SUMMARY).exists() and not (path / UNFINISHED).exists()
        if finished and not overwrite:
            raise ConfigurationError(
                f"The directory {path} already holds a finished result ({SUMMARY}), and results are never overwritten "
                "silently. Choose another directory (of a run by a new experiment_name), or pass --overwrite to "
                "replace the old result once the new one is complete."
            )
        _clear_leftovers(path)
        if not finished and not (path / UNFINISHED).exists():
            strangers = sorted(p.name for p in path.iterdir() if p.name not in _COMPANIONS and p.name[0] != ".")
            if strangers:
                raise ConfigurationError(
                    f"The directory {path} holds files that are no layerscope result ({', '.join(strangers[:5])}"
                    f"{', ...' if len(strangers) > 5 else ''}; neither {SUMMARY} nor {UNFINISHED} is there). They are "
                    "left alone: choose an empty or new directory, or another experiment_name."
                )
        if not finished:
            _write_durably(path / UNFINISHED, b"A run works here or was interrupted: there is no complete result.\n")
    return RunDirectory(path, _files_of_finished_run(path) if finished else ())


class RunDirectory:
    """A claimed directory; results are written through ``staged``. Made by ``open_run_directory``."""

    def __init__(self, path: Path, old_files: Sequence[str] = ()) -> None:
        self.path = path
        self._old_files = tuple(old_files)
        self._files: set[str] = set()

    @contextmanager
    def staged(self) -> Iterator[Stage]:
        """A stage for result files; they all appear in the directory when the block ends without an error.

        ``summary.json`` completes the result: it appears last, gets ``schema_version`` and ``files`` added, and the
        mark ``UNFINISHED`` goes. A block that writes none leaves the directory unfinished, for a later block.
        On any exception, a full disk or Ctrl-C included, nothing of the block becomes visible.

        Raises:
            ArtifactError: a file could not be written.
        """
        with _explained(self.path):
            folder = Path(tempfile.mkdtemp(prefix=_STAGING_PREFIX, dir=self.path))
            try:
                stage = Stage(folder)
                yield stage
                self._commit(stage)
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def _commit(self, stage: Stage) -> None:
        names = stage.names()
        finishes = stage.summary is not None
        if stage.summary is not None:
            files = sorted({*self._files, *names, SUMMARY})
            stage.write_json(f"{SUMMARY}.complete", {"schema_version": SCHEMA_VERSION, **stage.summary, "files": files})
            os.replace(stage.folder / f"{SUMMARY}.complete", stage.folder / SUMMARY)
            names.append(SUMMARY)
        for name in names:
            _sync(stage.folder / name)
        previous = Path(tempfile.mkdtemp(prefix=_PREVIOUS_PREFIX, dir=self.path))
        moves: list[tuple[Path, Path]] = []
        marked_before = (self.path / UNFINISHED).exists()
        try:
            # From here to the last rename, a killed process leaves a directory that says so.
            _write_durably(self.path / UNFINISHED, b"A run was interrupted while its results were put in place.\n")
            # The summary goes first, so that at no time it describes files that are not there.
            outgoing = [SUMMARY, *sorted({*self._old_files, *names} - {SUMMARY})]
            for name in outgoing:
                if (self.path / name).is_file():
                    _move(self.path / name, previous / name, moves)
            for name in names:
                _move(stage.folder / name, self.path / name, moves)
            if finishes:
                (self.path / UNFINISHED).unlink()
            _sync(self.path)
        except BaseException:
            for source, target in reversed(moves):
                if target.exists() and not source.exists():
                    os.replace(target, source)
            if marked_before:
                (self.path / UNFINISHED).touch()
            else:
                (self.path / UNFINISHED).unlink(missing_ok=True)
            shutil.rmtree(previous, ignore_errors=True)
            _remove_empty_folders(self.path, names)
            raise
        shutil.rmtree(previous, ignore_errors=True)
        _remove_empty_folders(self.path, self._old_files)
        self._old_files = ()
        self._files.update(names)


class Stage:
    """Where result files are written before they appear; names are relative, with folders (``figures/a.png``)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.summary: dict[str, Any] | None = None

    def path(self, name: str) -> Path:
        """Where to write ``name`` oneself; its folder exists. Raises ArtifactError for a name that leaves the run."""
        target = self.folder / check_member_name(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def adopt(self, folder: Path) -> None:
        """Moves every file below ``folder``, which is on the same disk, to its relative name here."""
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            os.replace(file, self.path(file.relative_to(folder).as_posix()))

    def write_bytes(self, name: str, data: bytes) -> None:
        _write_durably(self.path(name), data)

    def write_text(self, name: str, text: str) -> None:
        self.write_bytes(name, text.encode("utf-8"))

    def write_csv(self, name: str, rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
        """A table with a header; see ``tables.format_cell`` for what becomes of values. Only one row is in memory."""
        with self.path(name).open("w", encoding="utf-8", newline="") as file:
            write_rows(file, rows, columns)
            file.flush()
            os.fsync(file.fileno())

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """JSON with NaN and infinities as null, numpy values and dataclasses as plain ones."""
        plain = to_plain(value)
        if name == SUMMARY:
            self.summary = plain
            return
        self.write_text(name, json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    def write_npz(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Compressed arrays, as ``npz_bytes`` takes them."""
        self.write_bytes(name, npz_bytes(arrays))

    def names(self) -> list[str]:
        """Names written so far, without the summary."""
        return sorted(p.relative_to(self.folder).as_posix() for p in self.folder.rglob("*") if p.is_file())


def npz_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The content of a compressed npz file.

    Raises:
        ValueError: an array of Python objects, because reading it would execute pickles.
    """
    for key, array in arrays.items():
        if np.asarray(array).dtype.hasobject:
            raise ValueError(f"the array {key!r} holds Python objects; convert it to numbers or text")
    plain: dict[str, Any] = {key: np.asarray(array) for key, array in arrays.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **plain)
    return buffer.getvalue()


def read_summary(run_dir: str | Path) -> dict[str, Any]:
    """``summary.json`` of a finished run.

    Raises:
        ArtifactError: there is no such directory or no finished result in it, or a newer layerscope wrote it.
    """
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise ArtifactError(f"The run directory {run_dir} does not exist. Check the path, or run the diagnosis first.")
    if (run_dir / UNFINISHED).exists() or not (run_dir / SUMMARY).exists():
        if (run_dir / UNFINISHED).exists():
            raise ArtifactError(
                f"The run in {run_dir} is unfinished ({UNFINISHED} is there): it still works or was interrupted, so "
                "its results are not complete. Wait for it, or start the same command again."
            )
        raise ArtifactError(
            f"The directory {run_dir} holds no {SUMMARY}, so it is no run directory of layerscope, or its result was "
            "removed. Give the directory that the diagnosis names when it ends."
        )
    try:
        summary = json.loads((run_dir / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"The file {run_dir / SUMMARY} could not be read as JSON: {error}. It was changed or damaged after the "
            "run; run the diagnosis again."
        ) from error
    version = summary.get("schema_version") if isinstance(summary, dict) else None
    if not isinstance(version, int):
        raise ArtifactError(
            f"The file {run_dir / SUMMARY} has no schema_version, so layerscope did not write it or it was changed. "
            "Run the diagnosis again."
        )
    if version > SCHEMA_VERSION:
        raise ArtifactError(
            f"The results in {run_dir} have schema version {version}; this layerscope reads up to {SCHEMA_VERSION}. "
            "Update layerscope, or run the diagnosis again with this version."
        )
    return summary


def to_plain(value: Any) -> Any:
    """A value as JSON knows it: numpy and dataclasses made plain, NaN and infinities None."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case np.generic() | np.ndarray():
            return to_plain(value.tolist())
        case Mapping():
            return {str(key): to_plain(item) for key, item in value.items()}
        case Path():
            return str(value)
        case list() | tuple() | set() | frozenset():
            return [to_plain(item) for item in value]
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        case _:
            raise TypeError(f"{type(value).__name__} has no place in a JSON file: {value!r}")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turns an OSError into one paragraph."""
    try:
        yield
    except OSError as error:
        where = error.filename if error.filename is not None else path
        reason = error.strerror or str(error)
        raise ArtifactError(
            f"The results could not be written to {path}: {reason} ({where}). Nothing of this result was kept there; "
            "free disk space or choose a writable output directory, and start the command again."
        ) from error


def write_table(path: str | Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """A CSV by itself, whole or not at all; results of a task go through ``RunDirectory.staged``."""
    write_file(path, format_csv(rows, columns).encode("utf-8"))


def write_json_file(path: str | Path, value: Mapping[str, Any]) -> None:
    """JSON by itself, whole or not at all; values become plain as ``Stage.write_json`` makes them."""
    text = json.dumps(to_plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_file(path, text.encode("utf-8"))


def write_file(path: str | Path, data: bytes) -> None:
    """A file by itself, whole or not at all, its folder made where missing; it replaces an older one.

    Raises:
        ArtifactError: it could not be written.
    """
    with whole_file(path) as file:
        file.write(data)


@contextmanager
def whole_file(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write into, which appears as ``path`` when the block ends without an error, and then is on the disk.

    Until then it is a hidden one beside it, ``partial_file(path)``; one left there by a killed process is replaced.

    Raises:
        ArtifactError: it could not be written.
    """
    path = Path(path)
    partial = partial_file(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync(path.parent)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError):
            raise ArtifactError(
                f"{path} could not be written: {error.strerror or error}. Nothing of it was kept, and an older file of "
                "this name is as it was. Free disk space or choose a writable folder."
            ) from error
        raise


def partial_file(path: Path) -> Path:
    """Where ``whole_file`` writes."""
    return path.with_name(f".{path.name}{PARTIAL_SUFFIX}")


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    """Asks the disk to keep a file or a folder's entries; some network file systems refuse this for folders."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if path.is_dir():
            with suppress(OSError):
                os.fsync(descriptor)
        else:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _move(source: Path, target: Path, moves: list[tuple[Path, Path]]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # Noted first: if Ctrl-C falls between the two lines, undoing finds nothing to undo instead of missing a file.
    moves.append((source, target))
    os.replace(source, target)


def _remove_empty_folders(root: Path, names: Iterable[str]) -> None:
    folders = {folder for name in names for folder in (root / name).parents if root in folder.parents}
    for folder in sorted(folders, key=lambda f: len(f.parts), reverse=True):
        with suppress(OSError):
            folder.rmdir()


def _files_of_finished_run(path: Path) -> list[str]:
    """What the old result consists of, by its own list; nothing else is ever removed."""
    try:
        files = json.loads((path / SUMMARY).read_text(encoding="utf-8")).get("files", [])
        return [check_member_name(name) for name in files]
    except (ValueError, TypeError, AttributeError, ArtifactError):
        return []


def _clear_leftovers(path: Path) -> None:
    """Removes the hidden folders of a run that was killed before it could do so itself."""
    for folder in path.iterdir():
        if folder.name.startswith((_STAGING_PREFIX, _PREVIOUS_PREFIX)) and folder.is_dir():
            shutil.rmtree(folder, ignore_errors=True)

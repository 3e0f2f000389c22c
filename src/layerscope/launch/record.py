"""What a run was made with, so that none is taken for another: DIR/jobs/<name>.json, written before the run starts.

Not in it: what lies in folders (images), files that are named inside of configurations or lists, environment variables,
and the code. Records of earlier versions have no ``directory`` and no ``files``, which then make no difference.

::

    command      verb and arguments
    configs      each --config file and the SHA-256 of its content
    directory    the working directory, which relative paths start from
    files        each file outside of DIR that is an argument's value, and the SHA-256 of its content; of one above
                 64 MB its size and the time at which it was written
    needs        each run that it builds on and the SHA-256 of its mark
    starts_over  what lay in the run's directory was made with other settings and must not be gone on with
    replaces     SHA-256 of the mark of an older result that stays until the new one is complete, else empty
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from layerscope.artifacts import read_summary, write_json_file
from layerscope.errors import ArtifactError, ConfigurationError, listed
from layerscope.launch.job import Job
from layerscope.shipped import here_or_shipped

_HASHED_BYTES = 64 * 2**20
"""Files above it, weights mostly, would take seconds each."""


@dataclass(frozen=True)
class Record:
    """The file's content; see the module."""

    command: list[str]
    configs: dict[str, str]
    needs: dict[str, str] = field(default_factory=dict)
    starts_over: bool = False
    replaces: str = ""
    directory: str = ""
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Start:
    """A run that is to be started: the whole arguments behind its verb, and its record."""

    job: Job
    arguments: tuple[str, ...]
    record: Record

    @property
    def anew(self) -> bool:
        """Whether a complete result lies in its place and is replaced."""
        return bool(self.record.replaces)


def next_start(
    job: Job, folder: Path, needs: Mapping[str, Path | None] | None, overwrite: bool = False
) -> Start | None:
    """How a job is started, or None where it has finished with these very settings.

    A training goes on from its last checkpoint. A finished run whose needs were made anew is made anew.

    Args:
        needs: the marks of the job's needs, None for one that is yet to be made; None to leave them out of the
            comparison.
        overwrite: what was made with other settings is made anew.

    Raises:
        ConfigurationError: the run's directory holds what was made with other settings, and ``overwrite`` is false.
    """
    marks = None if needs is None else {name: sha256(mark) if mark else "" for name, mark in needs.items()}
    command = [job.verb, *job.arguments]
    files = named_files(job.arguments, folder)
    wanted = Record(command, config_hashes(job.arguments), marks or {}, directory=str(Path.cwd()), files=files)
    found = _read(record_file(job, folder))
    mark = sha256(job.mark) if is_complete(job) else ""
    finished = bool(mark) and (found is None or found.replaces != mark)
    if not mark and not _can_go_on(job):
        return _start(job, wanted)
    if (found is None or _differences(found, wanted)) and not overwrite:
        raise ConfigurationError(_refusal(job, found, wanted, finished))
    if found is None or _differences(found, wanted) or (marks is not None and found.needs != marks):
        return _start(job, wanted, starts_over=True, replaced=mark, go_on=False)
    if finished:
        return None
    go_on = not found.starts_over or _saved_since(job, record_file(job, folder))
    return _start(job, wanted, found.starts_over, mark, go_on)


def write_record(start: Start, folder: Path) -> None:
    """Before the run starts. One that says the same stays as it is, with the time at which it was written."""
    path = record_file(start.job, folder)
    if _read(path) != start.record:
        write_json_file(path, asdict(start.record))


def close_record(start: Start, folder: Path) -> None:
    """After the run finished: what it replaced is gone."""
    record = replace(start.record, starts_over=False, replaces="")
    if record != start.record:
        write_json_file(record_file(start.job, folder), asdict(record))


def record_file(job: Job, folder: Path) -> Path:
    """Where the record lies."""
    return folder / "jobs" / f"{job.name}.json"


def _start(job: Job, record: Record, starts_over: bool = False, replaced: str = "", go_on: bool = True) -> Start:
    more = []
    if not go_on and (saved := sorted(job.run.glob("hpc_ckpt_*.ckpt"))):
        # Lightning would load it unasked.
        raise ConfigurationError(
            f"{saved[-1]} is a checkpoint that SLURM's requeuing left, and was made with other settings than "
            f"{job.name} is to have now. Remove it, or choose another --output."
        )
    if starts_over and "--overwrite" not in job.arguments:
        more.append("--overwrite")
    if go_on and job.verb == "fit" and not _given(job.arguments, ("--ckpt_path",)):
        more.append("--ckpt_path=last")
    record = replace(record, starts_over=starts_over, replaces=replaced)
    return Start(job, (*job.arguments, *more), record)


def is_complete(job: Job) -> bool:
    """Whether a whole result that can be read stands there."""
    if job.verb == "phantom":
        return job.mark.exists()
    try:
        return bool(read_summary(job.run))
    except ArtifactError:
        return False


def _can_go_on(job: Job) -> bool:
    """Whether a training left checkpoints; every other run begins anew and takes nothing from what it finds."""
    return job.verb == "fit" and any((job.run / "checkpoints").glob("*.ckpt"))


def _saved_since(job: Job, record: Path) -> bool:
    """Whether a checkpoint to go on from was written after the record, thus with its settings."""
    saved = [path.stat().st_mtime_ns for path in (job.run / "checkpoints").glob("last*.ckpt")]
    return max(saved, default=0) > record.stat().st_mtime_ns


def config_hashes(arguments: Sequence[str]) -> dict[str, str]:
    """Shipped ones and the user's by the name that stands on the command line."""
    return {name: sha256(here_or_shipped(name)) for name in _given(arguments, ("--config", "-c"))}


def named_files(arguments: Sequence[str], folder: Path) -> dict[str, str]:
    """Files that are the whole value of an argument, and what tells their content; no configurations, nothing in DIR.

    What lies in DIR is made by its runs, which ``needs`` covers.
    """
    configs = _given(arguments, ("--config", "-c"))
    values = [argument.partition("=")[2] if argument.startswith("-") else argument for argument in arguments]
    found = {}
    for value in dict.fromkeys(values):
        content = "" if value in configs else _content(value, folder.resolve())
        if content:
            found[value] = content
    return found


def _content(name: str, folder: Path) -> str:
    """Empty unless ``name`` is that of a regular file outside of ``folder``."""
    path = Path(name)
    try:
        if not path.is_file() or path.resolve().is_relative_to(folder):
            return ""
        status = path.stat()
    except (OSError, ValueError):  # too long for a name, or with characters that none can have
        return ""
    return sha256(path) if status.st_size <= _HASHED_BYTES else f"{status.st_size} bytes of {status.st_mtime_ns} ns"


def _given(arguments: Sequence[str], options: Sequence[str]) -> list[str]:
    """The values of an option, as ``--option value`` or ``--option=value``."""
    values = []
    for before, argument in zip(["", *arguments], arguments):
        name, equals, value = argument.partition("=")
        if before in options:
            values.append(argument)
        elif equals and name in options:
            values.append(value)
    return values


def sha256(path: Path) -> str:
    """Of a file's content; ``missing`` where it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return "missing"


def file_version(path: Path) -> tuple[int, int] | None:
    """Another one whenever the file was written anew, even with the same content; None where it is missing."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _read(path: Path) -> Record | None:
    """None where there is none or none that can be read, which is told like none."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return Record(**content)
    except (OSError, ValueError, TypeError):
        return None


def _differences(found: Record, wanted: Record) -> list[str]:
    """In words, without needs: those are no wish of the user."""
    before, now = found.command, wanted.command
    words = [f"{argument} now" for argument in now if argument not in before]
    words += [f"{argument} then" for argument in before if argument not in now]
    if before != now and not words:
        words = ["the order of its arguments"]
    if found.directory and found.directory != wanted.directory:
        words.append(f"the working directory: {found.directory} then, {wanted.directory} now")
    then = {**found.files, **found.configs}
    read = {**wanted.files, **wanted.configs}
    return words + [f"the content of {name}" for name, content in read.items() if then.get(name, content) != content]


def _refusal(job: Job, found: Record | None, wanted: Record, finished: bool) -> str:
    kind = "a finished" if finished else "an unfinished"
    why = (
        "and no record says with which settings it was made"
        if found is None
        else f"which was made with other settings: {listed(_differences(found, wanted), most=6)}"
    )
    return (
        f"{job.run} holds {kind} run {job.name}, {why}. It is neither taken for the one asked for nor replaced "
        "silently: choose another --output, or pass --overwrite to make it anew."
    )

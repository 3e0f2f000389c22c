"""One run among many: the command behind ``layerscope``, where it writes, and what it waits for."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

JobStatus = Literal["finished", "failed", "interrupted", "waiting", "not started"]
"""waiting: a run that it needs did not finish. interrupted: by a signal, or it left an unfinished directory."""


@dataclass(frozen=True)
class Job:
    """A ``layerscope`` command that leaves one run directory.

    name: unique among the jobs that run together, a plain file name with perhaps folders (``vae/base``).
    verb, arguments: the whole command behind ``layerscope``, places included.
    run: the directory it writes.
    needs: names of the jobs that must have finished before it starts.
    """

    name: str
    verb: str
    arguments: tuple[str, ...]
    run: Path
    needs: tuple[str, ...] = field(default=())

    @property
    def mark(self) -> Path:
        """The file that is written last: with it the job is finished."""
        return self.run / ("phantom.json" if self.verb == "phantom" else "summary.json")

    @property
    def command(self) -> str:
        """As a user would type it."""
        return shlex.join(["layerscope", self.verb, *self.arguments])


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    skipped: it had finished before. seconds: it took now, None where it did not run. reason: why it did not finish,
    with the log that tells more. log: what it printed, None where it did not run.
    """

    job: Job
    status: JobStatus
    skipped: bool = False
    seconds: float | None = None
    reason: str = ""
    log: Path | None = None

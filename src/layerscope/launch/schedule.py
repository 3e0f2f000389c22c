"""Which run comes next, and how each ended; whatever starts them, here, on a cluster of ray or elsewhere."""

from __future__ import annotations

import signal
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from layerscope.errors import ConfigurationError, LayerscopeError
from layerscope.launch.job import Job, Outcome
from layerscope.launch.record import (
    Start,
    close_record,
    config_hashes,
    file_version,
    is_complete,
    named_files,
    next_start,
    sha256,
    write_record,
)


class Schedule:
    """Gives out runs as their needs are met, skips those that have finished, and notes how each ended.

    Args:
        jobs: names are unique, needs are among them and lead in no circle.
        folder: of records and logs.
        told: is told every outcome once, as soon as it is known.
        overwrite: runs that were made with other settings are made anew.

    Raises:
        ConfigurationError: a run was made with other settings and ``overwrite`` is false; nothing has started then.
    """

    def __init__(
        self, jobs: Sequence[Job], folder: Path, told: Callable[[Outcome], None], overwrite: bool = False
    ) -> None:
        check_jobs(jobs)
        for job in jobs:
            next_start(job, folder, None, overwrite)
        self.jobs = {job.name: job for job in jobs}
        self.folder = folder
        self.outcomes: dict[str, Outcome] = {}
        self._told = told
        self._overwrite = overwrite
        self._pending = list(jobs)
        self._read = {job.name: self._files(job) for job in jobs}
        self._older: dict[str, tuple[int, int] | None] = {}

    def next(self) -> Start | None:
        """The next run that may start now, its record written; None while all others wait or when none is left."""
        looked_at = -1
        while looked_at != len(self.outcomes):  # one that is skipped or given up can free one before it
            looked_at = len(self.outcomes)
            for job in list(self._pending):
                needs = [self.outcomes.get(name) for name in job.needs]
                lost = [need.job.name for need in needs if need is not None and need.status != "finished"]
                if lost:
                    self._note(Outcome(job, "waiting", reason=f"it needs {', '.join(lost)}"))
                elif any(need is None for need in needs):
                    continue
                elif changed := [
                    name for name, now in self._files(job).items() if self._read[job.name].get(name) != now
                ]:
                    reason = f"{', '.join(changed)} was changed after the first run began"
                    self._note(Outcome(job, "failed", reason=reason))
                else:
                    marks = {name: self.jobs[name].mark for name in job.needs}
                    start = next_start(job, self.folder, marks, self._overwrite)
                    if start is not None:
                        self._pending.remove(job)
                        write_record(start, self.folder)
                        self._older[job.name] = file_version(job.mark)
                        return start
                    self._note(Outcome(job, "finished", skipped=True))
        return None

    def end(self, start: Start, returncode: int, seconds: float, log: Path, printed: str) -> None:
        """Notes how a run ended.

        returncode: as ``subprocess`` gives it, negative for a signal. printed: what it wrote into its log.
        """
        outcome = ended(start.job, returncode, seconds, log, printed)
        if outcome.status == "finished" and self._left_the_older(start):
            why = f"it ended without a new {start.job.mark.name}: the older result still stands in its place ({log})"
            outcome = replace(outcome, status="failed", reason=why)
        if outcome.status == "finished":
            close_record(start, self.folder)
        self._note(outcome)

    def _files(self, job: Job) -> dict[str, str]:
        """What its command reads by name, and the content of each."""
        return {**named_files(job.arguments, self.folder), **config_hashes(job.arguments)}

    def _changed(self, job: Job) -> list[str]:
        """What its command reads by name and has another content than when all began."""
        then = self._read[job.name]
        return [name for name, content in self._files(job).items() if then.get(name, content) != content]

    def _left_the_older(self, start: Start) -> bool:
        """Whether the result that was to be replaced is still there; a new one may be the same byte for byte."""
        older = start.record.replaces
        mark = start.job.mark
        return bool(older) and sha256(mark) == older and file_version(mark) == self._older[start.job.name]

    def give_up(self) -> None:
        """Notes all that wait as not started."""
        for job in list(self._pending):
            self._note(Outcome(job, "not started"))

    def ordered(self) -> list[Outcome]:
        """All outcomes in the order of the jobs."""
        return [self.outcomes[name] for name in self.jobs]

    def _note(self, outcome: Outcome) -> None:
        if outcome.job in self._pending:
            self._pending.remove(outcome.job)
        self.outcomes[outcome.job.name] = outcome
        self._told(outcome)


def log_file(job: Job, folder: Path) -> Path:
    """Where what the run prints is kept."""
    return folder / "logs" / f"{job.name}.log"


def ended(job: Job, returncode: int, seconds: float, log: Path, printed: str) -> Outcome:
    """What a return code means for a run."""
    outcome = Outcome(job, "finished", seconds=seconds, log=log)
    if returncode == 0:
        if is_complete(job):
            return outcome
        return replace(
            outcome,
            status="failed",
            reason=f"it ended without {job.mark.name}: its configuration has no callback that writes one, such as "
            f"layerscope.callbacks.training.TrainingSummary of a training ({log})",
        )
    number = -returncode if returncode < 0 else returncode - 128
    if number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL) or returncode < 0:
        known = number in signal.Signals.__members__.values()
        why = f"ended by {signal.Signals(number).name if known else f'signal {number}'}"
        if number == signal.SIGKILL:
            why += ", by hand or because memory ran out"
        return replace(outcome, status="interrupted", reason=f"{why} ({log})")
    why = _told_error(printed) or f"exit status {returncode}"
    return replace(outcome, status="failed", reason=f"{textwrap.shorten(why, 300, placeholder=' …')} ({log})")


def check_jobs(jobs: Sequence[Job]) -> None:
    """Raises ConfigurationError unless names and directories are unique, and needs known and in no circle."""
    names = [job.name for job in jobs]
    for values, what in ((names, "have the name"), ([str(job.run) for job in jobs], "write into")):
        if twice := sorted({value for value in values if values.count(value) > 1}):
            raise ConfigurationError(f"Several runs {what} {', '.join(twice)}; each needs one of its own.")
    met: set[str] = set()
    left = list(jobs)
    for job in jobs:
        if unknown := [name for name in job.needs if name not in names]:
            raise ConfigurationError(f"The run {job.name} needs {', '.join(unknown)}, which is none of the runs.")
    while left:
        ready = [job for job in left if met.issuperset(job.needs)]
        if not ready:
            raise ConfigurationError(f"The runs {', '.join(job.name for job in left)} need each other in a circle.")
        met.update(job.name for job in ready)
        left = [job for job in left if job.name not in met]


def exit_status(outcomes: Sequence[Outcome], signalled: int = 0) -> int:
    """0: all finished; 1: not all; 128 + the signal where one stopped the rest."""
    if all(outcome.status == "finished" for outcome in outcomes):
        return 0
    return 128 + signalled if signalled else LayerscopeError.exit_status


def _told_error(printed: str) -> str:
    """The last error that layerscope printed, in one line."""
    _, found, told = printed.rpartition("layerscope: error: ")
    return " ".join(told.split()) if found else ""

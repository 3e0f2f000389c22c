"""Runs on this machine, each a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from layerscope.launch.job import Job, Outcome
from layerscope.launch.lock import locked
from layerscope.launch.record import Start
from layerscope.launch.schedule import Schedule, log_file
from layerscope.launch.signals import SAME_SIGNAL_SECONDS, noted_signals
from layerscope.launch.slots import Slot

COMMAND = (sys.executable, "-m", "layerscope")


def run_jobs(
    jobs: Sequence[Job],
    folder: Path,
    slots: Sequence[Slot],
    told: Callable[[Outcome], None],
    *,
    overwrite: bool = False,
    signalled: Callable[[int], None] = lambda number: None,
    command: Sequence[str] = COMMAND,
) -> list[Outcome]:
    """Runs all jobs that have not finished, one in a slot, each after its needs; what fails stops no other.

    On Ctrl-C, SIGTERM or a closed terminal the runs at work are told once, nothing more starts, and their ends are
    waited for: a training saves. A second signal kills them. A run that was killed goes on with the same call.

    Args:
        folder: DIR, with logs/<name>.log, jobs/<name>.json (``record``) and .lock.
        slots: how many run at a time, and where.
        told: is told every outcome once, in the main thread.
        overwrite: what was made with other settings is made anew.
        signalled: is told the first signal (SIGINT or SIGTERM) when it comes.
        command: what stands before a job's verb.

    Returns:
        One outcome a job, in their order.

    Raises:
        ConfigurationError: another command works in the folder, or a run in it was made with other settings; then
            nothing was started.
    """
    with locked(folder) as lock, noted_signals() as events:
        schedule = Schedule(jobs, folder, told, overwrite)
        runs = _Runs(command, lock, folder, events)
        try:
            _work(schedule, runs, slots, events, signalled)
        except BaseException:
            runs.send(signal.SIGTERM)
            runs.wait()
            raise
    return schedule.ordered()


def _work(
    schedule: Schedule,
    runs: _Runs,
    slots: Sequence[Slot],
    events: SimpleQueue[Any],
    signalled: Callable[[int], None],
) -> None:
    free = deque(slots)
    first: float | None = None
    while True:
        while free and first is None and (start := schedule.next()) is not None:
            runs.start(start, free.popleft())
        if not runs.at_work and (first is not None or events.empty()):
            break
        match events.get():
            case Ended() as end:
                run = runs.at_work.pop(end.name)
                free.append(run.slot)
                schedule.end(run.start, end.returncode, time.monotonic() - run.begun, run.log, run.printed())
            case int() as number if first is None:
                first = time.monotonic()
                signalled(number)
                runs.send(number)
            case _ if first is not None and time.monotonic() - first > SAME_SIGNAL_SECONDS:
                runs.kill()
    schedule.give_up()


@dataclass(frozen=True)
class Ended:
    """A process is gone: that of the job ``name``."""

    name: str
    returncode: int


@dataclass
class _Run:
    start: Start
    slot: Slot
    process: subprocess.Popen[bytes]
    log: Path
    offset: int
    begun: float

    def printed(self) -> str:
        """What this process wrote; before it the log holds what earlier ones did."""
        with self.log.open("rb") as file:
            file.seek(self.offset)
            return file.read().decode("utf-8", "replace")


class _Runs:
    """The processes at work. Each is the first of its own session: it gets signals from here alone, and just once."""

    def __init__(self, command: Sequence[str], lock: int, folder: Path, events: SimpleQueue[Any]) -> None:
        self.at_work: dict[str, _Run] = {}
        self._command = command
        self._lock = lock
        self._folder = folder
        self._events = events

    def start(self, start: Start, slot: Slot) -> None:
        job = start.job
        log = log_file(job, self._folder)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            offset = file.tell()
            process = subprocess.Popen(
                [*self._command, job.verb, *start.arguments],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **slot.environment()},
                start_new_session=True,
                pass_fds=(self._lock,),
            )
        self.at_work[job.name] = _Run(start, slot, process, log, offset, time.monotonic())
        watch = threading.Thread(target=self._watch, args=(job.name, process), daemon=True)
        watch.start()

    def _watch(self, name: str, process: subprocess.Popen[bytes]) -> None:
        self._events.put(Ended(name, process.wait()))

    def send(self, number: int) -> None:
        """To the process that was started: it tells its own workers and ranks."""
        for run in self.at_work.values():
            run.process.send_signal(number)

    def kill(self) -> None:
        """With all that it started."""
        for run in self.at_work.values():
            if run.process.poll() is None:
                os.killpg(run.process.pid, signal.SIGKILL)

    def wait(self) -> None:
        for run in self.at_work.values():
            run.process.wait()

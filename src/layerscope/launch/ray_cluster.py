"""Runs as tasks of ray, on the machines of its cluster; they share the file system and hold the same environment."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from layerscope.artifacts import write_file
from layerscope.errors import ConfigurationError
from layerscope.launch.job import Job, Outcome
from layerscope.launch.local import COMMAND
from layerscope.launch.lock import locked
from layerscope.launch.record import Start
from layerscope.launch.schedule import Schedule, log_file
from layerscope.launch.signals import SAME_SIGNAL_SECONDS, noted_signals

_LOOK_SECONDS = 0.5
"""How often signals are looked for."""
STOP = ".stop"
"""File in DIR with the number of the signal that the runs are to get. Ray's own KeyboardInterrupt in a task
did not arrive while it waited for a process, and its second stage kills the task alone."""


def run_jobs_on_ray(
    jobs: Sequence[Job],
    folder: Path,
    told: Callable[[Outcome], None],
    *,
    at_a_time: int | None = None,
    gpus: int = 0,
    overwrite: bool = False,
    signalled: Callable[[int], None] = lambda number: None,
    command: Sequence[str] = COMMAND,
) -> list[Outcome]:
    """As ``run_jobs``, with ray in the place of slots: it starts a run where a core, and with ``gpus`` a GPU, is free.

    It connects to the cluster that RAY_ADDRESS names, or starts one on this machine. The lock holds for this process
    alone.

    Args:
        at_a_time: runs at the same time; None for as many as the cluster has room for.
        gpus: whole GPUs for each run.

    Raises:
        ConfigurationError: ray is not installed; and as ``run_jobs``.
    """
    ray = _ray()
    with locked(folder), _connected(ray), noted_signals() as events:  # in this order: ray takes SIGTERM for itself
        stop = folder.absolute() / STOP
        stop.unlink(missing_ok=True)
        schedule = Schedule(jobs, folder, told, overwrite)
        cores = int(ray.cluster_resources().get("CPU", 1))
        cores = max(1, cores // at_a_time) if at_a_time else 1
        # A run that was lost is not started again by ray, which knows nothing of its checkpoints.
        task = ray.remote(num_cpus=cores, num_gpus=gpus, max_retries=0)(_run)
        at_work: dict[Any, Start] = {}
        first: float | None = None
        while True:
            room = (at_a_time or len(jobs)) - len(at_work)
            while room > 0 and first is None and (start := schedule.next()) is not None:
                log = log_file(start.job, folder).absolute()
                words = [*command, start.job.verb, *start.arguments]
                at_work[task.remote(words, str(log), str(Path.cwd()), str(stop))] = start
                room -= 1
            if not at_work:
                break
            done, _ = ray.wait(list(at_work), num_returns=1, timeout=_LOOK_SECONDS)
            for reference in done:
                start = at_work.pop(reference)
                returncode, seconds, printed = _result(ray, reference)
                schedule.end(start, returncode, seconds, log_file(start.job, folder), printed)
            while not events.empty():
                number = events.get()
                if first is None:
                    first = time.monotonic()
                    signalled(number)
                    # For Ctrl-C too: what ray's workers start has SIGINT blocked.
                    write_file(stop, str(int(signal.SIGTERM)).encode())
                elif time.monotonic() - first > SAME_SIGNAL_SECONDS:
                    write_file(stop, str(int(signal.SIGKILL)).encode())
        schedule.give_up()
    return schedule.ordered()


@contextmanager
def _connected(ray: Any) -> Iterator[None]:
    ray.init(ignore_reinit_error=True, log_to_driver=False, logging_level="ERROR")
    try:
        yield
    finally:
        ray.shutdown()


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ConfigurationError(
            "--launcher ray needs the package ray, which is not installed: pip install 'layerscope[ray]'. Without it, "
            "--launcher local runs on this machine and --launcher slurm writes a script."
        ) from error


def _result(ray: Any, reference: Any) -> tuple[int, float, str]:
    """Return code, seconds and output of a task; one that was lost with its machine or killed counts as killed."""
    try:
        result: tuple[int, float, str] = ray.get(reference)
    except ray.exceptions.RayError:
        return -signal.SIGKILL, 0.0, ""
    return result


def _run(command: Sequence[str], log: str, working_directory: str, stop: str) -> tuple[int, float, str]:
    """In a worker of ray: a run to its end, told to stop when the file ``stop`` says so."""
    begun = time.monotonic()
    if told := _signal_in(stop):
        return -told, 0.0, ""
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as file:
        offset = file.tell()
        process = subprocess.Popen(
            command,
            cwd=working_directory,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            start_new_session=True,
        )
        sent = 0
        while True:
            try:
                returncode = process.wait(_LOOK_SECONDS)
                break
            except subprocess.TimeoutExpired:
                number = _signal_in(stop)
            if number == signal.SIGKILL:
                os.killpg(process.pid, signal.SIGKILL)
            elif number and not sent:
                process.send_signal(number)
            sent = number
    with open(log, "rb") as file:
        file.seek(offset)
        printed = file.read().decode("utf-8", "replace")
    return returncode, time.monotonic() - begun, printed


def _signal_in(stop: str) -> int:
    try:
        return int(Path(stop).read_text())
    except OSError:
        return 0

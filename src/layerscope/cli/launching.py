"""What the verbs that start many runs share: their options, the check of every run, and what they tell."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from layerscope.errors import ConfigurationError, LayerscopeError
from layerscope.launch import Job, Outcome, exit_status, run_jobs, slots_for
from layerscope.launch.record import Start, next_start
from layerscope.launch.table import RunTable

_SIGNALS = {2: "Ctrl-C", 15: "SIGTERM"}


def add_launch_options(parser: argparse.ArgumentParser) -> None:
    """How many runs at a time and where, which of them, and whether at all."""
    parser.add_argument("--jobs", type=int, metavar="N", help="runs at a time (default: one a device, else one)")
    parser.add_argument("--devices", metavar="0,1", help="GPUs that runs take turns with, one for each run")
    parser.add_argument("--dry-run", action="store_true", help="show every command and its state; write nothing")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="make runs anew that were made with other settings; those of the same settings are kept",
    )


def check_launch_options(options: argparse.Namespace) -> None:
    """What can be told at once, before anything is imported."""
    if options.jobs is not None and options.jobs < 1:
        raise ConfigurationError(f"--jobs is {options.jobs}: expected is at least 1 run at a time.")


def check_runs(jobs: Sequence[Job], allow_import: Sequence[str]) -> None:
    """The arguments of every run, before the first of them starts."""
    for job in jobs:
        # The last ones are the command line's own, not of the verb.
        arguments = list(job.arguments[: len(job.arguments) - len(allow_import)])
        try:
            _check(job.verb, arguments, allow_import)
        except LayerscopeError as error:
            raise type(error)(f"The run {job.name} cannot start, and so none does: {error}") from error
        except SystemExit as stop:
            raise ConfigurationError(f"The run {job.name} cannot start, and so none does: see above.") from stop


def _check(verb: str, arguments: list[str], allow_import: Sequence[str]) -> None:
    from layerscope.cli import compare, phantom
    from layerscope.cli.lightning import check_arguments

    match verb:
        case "phantom":
            phantom.check(arguments)
        case "compare":
            compare.check(arguments)
        case _:
            check_arguments(verb, arguments, allow_import)


def show_runs(jobs: Sequence[Job], folder: Path, overwrite: bool) -> int:
    """Prints every command, as a user would type it, and how far its run is."""
    states: dict[str, str] = {}
    finished: dict[str, Path] = {}
    for job in jobs:
        left = [name for name in job.needs if name not in finished]
        try:
            start = next_start(job, folder, {name: finished.get(name) for name in job.needs}, overwrite)
        except ConfigurationError as error:
            print(f"# {job.name}: refused. {error}\n{job.command}")
            states[job.name] = "refused"
            continue
        if start is None:
            finished[job.name] = job.mark
        states[job.name] = "waiting" if left and not (start and start.anew) else _state(start)
        told = f"waits for {', '.join(left)}" if states[job.name] == "waiting" else states[job.name]
        arguments = job.arguments if start is None else start.arguments
        print(f"# {job.name}: {told}\n{shlex.join(['layerscope', job.verb, *arguments])}")
    counts = [f"{list(states.values()).count(state)} {state}" for state in dict.fromkeys(states.values())]
    print(f"# {len(jobs)} run{'s' * (len(jobs) != 1)} in {folder}: {', '.join(counts)}")
    return 0


def _state(start: Start | None) -> str:
    if start is None:
        return "finished"
    if start.anew:
        return "to be made anew"
    return "unfinished" if start.job.run.exists() else "not started"


def run_here(
    jobs: Sequence[Job], folder: Path, table: RunTable, options: argparse.Namespace
) -> tuple[list[Outcome], int]:
    """Runs them on this machine, tells how each ended and prints the table; with the exit status of the verb."""
    slots = slots_for(options.jobs, _devices(options.devices))
    progress = Progress(len(jobs), table)
    outcomes = run_jobs(jobs, folder, slots, progress, overwrite=options.overwrite, signalled=progress.signalled)
    return outcomes, finish(table, outcomes, progress)


def finish(table: RunTable, outcomes: Sequence[Outcome], progress: Progress) -> int:
    """Prints the table and what did not finish; the exit status of the verb."""
    print(_summary(table, outcomes))
    return exit_status(outcomes, progress.signal)


class Progress:
    """A line and a new table whenever a run has ended. signal: the number of the first signal, 0 without one."""

    def __init__(self, runs: int, table: RunTable) -> None:
        self.signal = 0
        self._runs = runs
        self._table = table
        self._done = 0

    def __call__(self, outcome: Outcome) -> None:
        self._done += 1
        self._table.note(outcome)
        told = "kept" if outcome.skipped else outcome.status
        seconds = "" if outcome.seconds is None else f", {outcome.seconds:.0f} s"
        print(f"[{self._done}/{self._runs}] {outcome.job.name}: {told}{seconds}", flush=True)

    def signalled(self, number: int) -> None:
        """Tells that a signal came and what follows."""
        self.signal = number
        print(
            f"{_SIGNALS[number]}: the runs at work are told to stop, and their ends waited for; a second signal kills "
            "them.",
            flush=True,
        )


def _devices(text: str | None) -> list[int]:
    """Raises ConfigurationError unless all are GPUs of this machine."""
    if text is None:
        return []
    numbers = [part.strip() for part in text.split(",")]
    if not all(number.isdecimal() for number in numbers) or len(set(numbers)) < len(numbers):
        raise ConfigurationError(f"--devices is {text!r}: expected are numbers of GPUs, each once, such as 0,1.")
    import torch

    found = torch.cuda.device_count()
    if absent := [number for number in numbers if int(number) >= found]:
        raise ConfigurationError(
            f"--devices is {text}, and this machine has {found or 'no'} CUDA GPU{'s' * (found != 1)} that PyTorch can "
            f"use{f', numbered 0 to {found - 1}' if found else ''}: there is no {', '.join(absent)}. Without --devices "
            "every run takes what its configuration says."
        )
    return [int(number) for number in numbers]


def _summary(table: RunTable, outcomes: Sequence[Outcome]) -> str:
    """The table for the terminal, at most 100 characters wide, and what did not finish."""
    from layerscope.report.console import laid_out, printable
    from layerscope.report.sentences import short

    def number(value: Any) -> str:
        return "" if value is None else short(float(value), 3)

    rows = [["run", "status", "seconds", "figure", "value", "interval"]]
    for row in table.rows.values():
        interval = "" if row["ci_lo"] is None else f"[{number(row['ci_lo'])}, {number(row['ci_hi'])}]"
        seconds = "" if row["seconds"] is None else f"{row['seconds']:.0f}"
        figure = printable(row["figure"] or "", 28)
        rows.append([printable(row["name"], 30), row["status"], seconds, figure, number(row["value"]), interval])
    filled = [column for column in range(len(rows[0])) if any(row[column] for row in rows[1:])]
    numeric = {place for place, column in enumerate(filled) if column in (2, 4)}
    lines = [laid_out([[row[column] for column in filled] for row in rows], numeric=numeric, last=0)]
    lines += [f"{one.job.name}: {one.status}; {one.reason}" for one in outcomes if one.reason]
    left = sum(one.status != "finished" for one in outcomes)
    if left:
        lines.append(f"{left} of {len(outcomes)} runs did not finish. The same command runs them again or goes on.")
    return "\n".join([*lines, f"The table with all settings: {table.path}"])

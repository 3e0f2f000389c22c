"""``layerscope sweep``: many runs of ``fit`` or ``test`` over grids of settings, files and configurations."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from layerscope.artifacts import safe_file_name
from layerscope.errors import ConfigurationError, LayerscopeError
from layerscope.launch import Job, Outcome, exit_status, run_jobs, slots_for
from layerscope.launch.grid import CONFIG, Point, expand
from layerscope.launch.names import name_runs
from layerscope.launch.record import next_start
from layerscope.launch.table import SweepTable

_VERBS = ("fit", "test")
_USAGE = "layerscope sweep fit|test --config FILE --grid KEY=V1,V2 [options] [overrides for every run]"
_SIGNALS = {2: "Ctrl-C", 15: "SIGTERM"}


def main(arguments: list[str], allow_import: Sequence[str] = ()) -> int:
    """The verb, from its command line."""
    options, overrides = _parser().parse_known_args(_joined(arguments))
    _check_options(options)
    points = expand(options.grid, options.list)
    _check_overrides(overrides, points)
    folder = options.output or Path("outputs/sweeps") / _stem(options.config, points)
    jobs = _jobs(options, overrides, points, folder, allow_import)
    _check(jobs, allow_import)
    if options.dry_run:
        return _show(jobs, folder, options.overwrite)
    table = SweepTable(folder, jobs, [point.values for point in points])
    return _run(options, jobs, folder, table)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="layerscope sweep",
        usage=_USAGE,
        description="Runs `layerscope fit` or `layerscope test` once for every combination of the values in the grids. "
        "Each run has a directory in DIR/runs named from its values; DIR/sweep.csv lists them with their main figure. "
        "Runs that failed or were interrupted run, or go on, with the same command; finished ones are kept.",
        allow_abbrev=False,
    )
    parser.add_argument("verb", choices=_VERBS, help="what every run does")
    parser.add_argument(
        *("--config", "-c"), action="append", default=[], metavar="FILE", help="configuration of every run (repeatable)"
    )
    parser.add_argument(
        "--grid",
        action="append",
        default=[],
        metavar="KEY=V1,V2",
        help="values of a setting; several grids give every combination. KEY=glob(photos/*.jpg) takes files, "
        "config=a.yaml,b.yaml whole configurations",
    )
    parser.add_argument(
        "--list", type=Path, metavar="FILE", help="YAML with one run an entry: {name: ..., config: ..., KEY: VALUE}"
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="where all is written (default: outputs/sweeps/CONFIG)"
    )
    parser.add_argument("--jobs", type=int, metavar="N", help="runs at a time (default: one a device, else one)")
    parser.add_argument("--devices", metavar="0,1", help="GPUs that runs take turns with, one for each run")
    parser.add_argument(
        "--launcher",
        choices=("local", "slurm", "ray"),
        default="local",
        help="local: on this machine (default). slurm: write an array script. ray: on a cluster of ray",
    )
    parser.add_argument(
        "--sbatch",
        action="append",
        default=[],
        metavar="OPTION",
        help="a line of SLURM's script: --sbatch --time=4:00:00",
    )
    parser.add_argument("--dry-run", action="store_true", help="show every command and its state; write nothing")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="make runs anew that were made with other settings; those of the same settings are kept",
    )
    return parser


def _joined(arguments: Sequence[str]) -> list[str]:
    """Values that begin with dashes belong to the option before them, which argparse would not see.

    >>> _joined(["--grid", "--model.layers=1,2", "--sbatch", "--time=1:00:00"])
    ['--grid=--model.layers=1,2', '--sbatch=--time=1:00:00']
    """
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] in ("--grid", "--sbatch"):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _check_options(options: argparse.Namespace) -> None:
    """What can be told at once, before anything is imported."""
    if options.jobs is not None and options.jobs < 1:
        raise ConfigurationError(f"--jobs is {options.jobs}: expected is at least 1 run at a time.")
    if options.sbatch and options.launcher != "slurm":
        raise ConfigurationError("--sbatch is for --launcher slurm, whose script gets these options.")


def _check_overrides(overrides: Sequence[str], points: Sequence[Point]) -> None:
    """Refuses what the sweep sets itself, and a setting that a grid varies."""
    varied = {_bare(key): key for point in points for key in point.values}
    for override in overrides:
        name = override.partition("=")[0].removeprefix("--")
        if not override.startswith("-"):
            continue
        if name in ("output_root", "experiment_name"):
            raise ConfigurationError(
                f"--{name} is the sweep's own: it names its runs from their values. Choose where with --output."
            )
        if name == "print_config":
            raise ConfigurationError("--print_config is of a single run; --dry-run shows the command of each.")
        if _bare(name) in varied:
            raise ConfigurationError(
                f"--{name} is set for every run, and the grid or list varies {varied[_bare(name)]}. Give one of them."
            )


def _bare(key: str) -> str:
    """``model.init_args.lr`` and ``model.lr`` are one setting."""
    return ".".join(part for part in key.split(".") if part != "init_args")


def _stem(configs: Sequence[str], points: Sequence[Point]) -> str:
    first = next(iter(configs), None) or next(
        (point.values[CONFIG] for point in points if CONFIG in point.values), "sweep"
    )
    return safe_file_name(Path(first).stem)


def _jobs(
    options: argparse.Namespace,
    overrides: Sequence[str],
    points: Sequence[Point],
    folder: Path,
    allow_import: Sequence[str],
) -> list[Job]:
    jobs = []
    for name, point in zip(name_runs(points), points):
        configs = [*options.config, *([point.values[CONFIG]] if CONFIG in point.values else [])]
        arguments = (
            *(f"--config={config}" for config in configs),
            *overrides,
            *(f"--{key}={value}" for key, value in point.values.items() if key != CONFIG),
            f"--output_root={folder / 'runs'}",
            f"--experiment_name={name}",
            *(f"--allow-import={module}" for module in allow_import),
        )
        jobs.append(Job(name, options.verb, arguments, folder / "runs" / name))
    return jobs


def _check(jobs: Sequence[Job], allow_import: Sequence[str]) -> None:
    """Every run's arguments, before the first of them starts."""
    from layerscope.cli.lightning import check_arguments

    for job in jobs:
        # The last ones are the command line's own, not of the verb.
        arguments = job.arguments[: len(job.arguments) - len(allow_import)]
        try:
            check_arguments(job.verb, arguments, allow_import)
        except LayerscopeError as error:
            raise type(error)(f"The run {job.name} cannot start, and so none does: {error}") from error


def _show(jobs: Sequence[Job], folder: Path, overwrite: bool) -> int:
    states = {}
    for job in jobs:
        try:
            start = next_start(job, folder, None, overwrite)
        except ConfigurationError as error:
            print(f"# {job.name}: refused. {error}\n{job.command}")
            states[job.name] = "refused"
            continue
        if start is None:
            states[job.name] = "finished"
        else:
            states[job.name] = "unfinished" if job.run.exists() else "not started"
        arguments = job.arguments if start is None else start.arguments
        print(f"# {job.name}: {states[job.name]}\n{shlex.join(['layerscope', job.verb, *arguments])}")
    counts = [f"{list(states.values()).count(state)} {state}" for state in dict.fromkeys(states.values())]
    print(f"# {len(jobs)} runs in {folder}: {', '.join(counts)}")
    return 0


def _run(options: argparse.Namespace, jobs: Sequence[Job], folder: Path, table: SweepTable) -> int:
    signals: list[int] = []
    told = _Progress(len(jobs), table)

    def signalled(number: int) -> None:
        signals.append(number)
        print(
            f"{_SIGNALS[number]}: the runs at work are told to stop, and their ends waited for; a second signal kills "
            "them.",
            flush=True,
        )

    if options.launcher == "slurm":
        return _write_slurm(options, jobs, folder, table)
    if options.launcher == "ray":
        from layerscope.launch.ray_cluster import run_jobs_on_ray

        outcomes = run_jobs_on_ray(
            jobs,
            folder,
            told,
            at_a_time=options.jobs,
            gpus=int(options.devices is not None),
            overwrite=options.overwrite,
            signalled=signalled,
        )
    else:
        slots = slots_for(options.jobs, _devices(options.devices))
        outcomes = run_jobs(jobs, folder, slots, told, overwrite=options.overwrite, signalled=signalled)
    print(_summary(table, outcomes))
    return exit_status(outcomes, signals[0] if signals else 0)


class _Progress:
    """A line and a new table whenever a run has ended."""

    def __init__(self, runs: int, table: SweepTable) -> None:
        self._runs = runs
        self._table = table
        self._done = 0

    def __call__(self, outcome: Outcome) -> None:
        self._done += 1
        self._table.note(outcome)
        told = "kept" if outcome.skipped else outcome.status
        seconds = "" if outcome.seconds is None else f", {outcome.seconds:.0f} s"
        print(f"[{self._done}/{self._runs}] {outcome.job.name}: {told}{seconds}", flush=True)


def _write_slurm(options: argparse.Namespace, jobs: Sequence[Job], folder: Path, table: SweepTable) -> int:
    from layerscope.launch.slurm import write_slurm_script

    script = write_slurm_script(
        jobs,
        folder,
        table.note,
        at_a_time=options.jobs,
        options=[*(["--gres=gpu:1"] if options.devices is not None else []), *options.sbatch],
        overwrite=options.overwrite,
    )
    table.write()
    if script is None:
        print(f"All {len(jobs)} runs have finished: {folder / 'sweep.csv'}")
        return 0
    print(
        f"{script} was written and not submitted. Look through it, then\n  sbatch {shlex.quote(str(script))}\n"
        "The same sweep command with --dry-run shows how far the runs are; without it, it writes a script of those "
        f"that are left and brings {folder / 'sweep.csv'} up to date."
    )
    return 0


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


def _summary(table: SweepTable, outcomes: Sequence[Outcome]) -> str:
    """The table for the terminal, at most 100 characters wide, and what did not finish."""
    from layerscope.report.console import laid_out, printable
    from layerscope.report.sentences import short

    def number(value: Any) -> str:
        return "" if value is None else short(float(value), 3)

    rows = [["run", "status", "seconds", "figure", "value", "interval"]]
    for row in table.rows.values():
        interval = "" if row["ci_lo"] is None else f"[{number(row['ci_lo'])}, {number(row['ci_hi'])}]"
        seconds = "" if row["seconds"] is None else f"{row['seconds']:.0f}"
        figure = printable(row["figure"] or "", 16)
        rows.append([printable(row["name"], 36), row["status"], seconds, figure, number(row["value"]), interval])
    filled = [column for column in range(len(rows[0])) if any(row[column] for row in rows[1:])]
    numeric = {place for place, column in enumerate(filled) if column in (2, 4)}
    lines = [laid_out([[row[column] for column in filled] for row in rows], numeric=numeric, last=0)]
    lines += [f"{one.job.name}: {one.status}; {one.reason}" for one in outcomes if one.reason]
    left = sum(one.status != "finished" for one in outcomes)
    if left:
        lines.append(f"{left} of {len(outcomes)} runs did not finish. The same command runs them again or goes on.")
    return "\n".join([*lines, f"The table with all settings: {table.path}"])

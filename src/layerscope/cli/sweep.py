"""``layerscope sweep``: many runs of ``fit`` or ``test`` over grids of settings, files and configurations."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from layerscope.artifacts import safe_file_name
from layerscope.cli.launching import (
    Progress,
    add_launch_options,
    check_launch_options,
    check_runs,
    finish,
    run_here,
    show_runs,
)
from layerscope.errors import ConfigurationError
from layerscope.launch import Job
from layerscope.launch.grid import CONFIG, Point, expand
from layerscope.launch.names import name_runs
from layerscope.launch.table import RunTable

_VERBS = ("fit", "test")
_USAGE = "layerscope sweep fit|test --config FILE --grid KEY=V1,V2 [options] [overrides for every run]"


def main(arguments: list[str], allow_import: Sequence[str] = ()) -> int:
    """The verb, from its command line."""
    options, overrides = _parser().parse_known_args(_joined(arguments))
    _check_options(options)
    points = expand(options.grid, options.list)
    _check_overrides(overrides, points)
    folder = options.output or Path("outputs/sweeps") / _stem(options.config, points)
    jobs = _jobs(options, overrides, points, folder, allow_import)
    check_runs(jobs, allow_import)
    if options.dry_run:
        return show_runs(jobs, folder, options.overwrite)
    table = RunTable(folder / "sweep.csv", jobs, [point.values for point in points])
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
        "--output",
        type=Path,
        metavar="DIR",
        help="where all is written (default: outputs/sweeps/CONFIG, or CONFIG_CONFIG of a grid over them)",
    )
    add_launch_options(parser)
    parser.add_argument(
        "--launcher",
        choices=("local", "slurm", "ray"),
        default="local",
        help="local: on this machine (default). slurm: write an array script. ray: on a cluster of ray. With slurm and "
        "ray the numbers of --devices say nothing: each run gets one GPU",
    )
    parser.add_argument(
        "--sbatch",
        action="append",
        default=[],
        metavar="OPTION",
        help="a line of SLURM's script: --sbatch --time=4:00:00",
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
    check_launch_options(options)
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
    """The first configuration of every run, else all that grid and list name.

    >>> _stem([], [Point({"config": "vae/a.yaml"}), Point({"config": "b.yaml"}), Point({"config": "b.yaml"})])
    'a_b'
    """
    named = configs[:1] or [point.values[CONFIG] for point in points if CONFIG in point.values] or ["sweep"]
    return safe_file_name("_".join(dict.fromkeys(Path(name).stem for name in named)))


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


def _run(options: argparse.Namespace, jobs: Sequence[Job], folder: Path, table: RunTable) -> int:
    match options.launcher:
        case "slurm":
            return _write_slurm(options, jobs, folder, table)
        case "ray":
            from layerscope.launch.ray_cluster import run_jobs_on_ray

            progress = Progress(len(jobs), table)
            outcomes = run_jobs_on_ray(
                jobs,
                folder,
                progress,
                at_a_time=options.jobs,
                gpus=int(options.devices is not None),
                overwrite=options.overwrite,
                signalled=progress.signalled,
            )
            return finish(table, outcomes, progress)
        case _:
            return run_here(jobs, folder, table, options)[1]


def _write_slurm(options: argparse.Namespace, jobs: Sequence[Job], folder: Path, table: RunTable) -> int:
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

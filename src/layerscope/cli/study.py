"""``layerscope study``: all runs of a recipe, one command that goes on where it was interrupted."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from layerscope.artifacts import write_file
from layerscope.cli.launching import add_launch_options, check_launch_options, check_runs, run_here, show_runs
from layerscope.errors import ConfigurationError
from layerscope.launch import Job, Outcome
from layerscope.launch.recipe import read_recipe
from layerscope.launch.table import RunTable
from layerscope.shipped import here_or_shipped, shipped


def main(arguments: list[str], allow_import: Sequence[str] = ()) -> int:
    """The verb, from its command line."""
    parser = argparse.ArgumentParser(
        prog="layerscope study",
        description="Runs every step of a recipe: data, trainings, diagnoses, comparisons. What has finished is kept, "
        "so the same command goes on where it was interrupted. docs/study.md says how to write and how to read one.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, type=Path, metavar="FILE", help="the recipe")
    parser.add_argument("--output", type=Path, metavar="DIR", help="in the place of the recipe's own output")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="another value of a variable (repeatable)"
    )
    add_launch_options(parser)
    options = parser.parse_args(arguments)
    check_launch_options(options)
    path = here_or_shipped(options.config)
    if not path.is_file():
        raise ConfigurationError(
            f"The recipe {options.config} does not exist, neither here ({Path.cwd()}) nor among the shipped ones in "
            f"{shipped('configs/recipes')}."
        )
    recipe = read_recipe(path, options.output, dict(_variable(text) for text in options.set))
    jobs = [_allowing(job, allow_import) for job in recipe.jobs()]
    check_runs(jobs, allow_import)
    if options.dry_run:
        return show_runs(jobs, recipe.output, options.overwrite)
    table = RunTable(recipe.output / "study.csv", jobs, [{} for _ in jobs])
    outcomes, status = run_here(jobs, recipe.output, table, options)
    _report(path.stem, recipe.output, outcomes)
    return status


def _report(title: str, output: Path, outcomes: Sequence[Outcome]) -> None:
    """study.md, and what the comparisons say."""
    from layerscope.report.study import comparison_sentences, study_document

    runs = {one.job.name: one.job.run for one in outcomes if one.status == "finished"}
    left = [one.job.name for one in outcomes if one.status != "finished"]
    write_file(output / "study.md", study_document(title, output, runs, left).encode())
    for sentence in comparison_sentences(runs):
        print(textwrap.fill(f"- {sentence}", width=100, subsequent_indent="  "))
    print(f"What came out: {output / 'study.md'}")


def _allowing(job: Job, modules: Sequence[str]) -> Job:
    """The run with the modules that its configuration may name, which are an option of the whole command line."""
    return replace(job, arguments=(*job.arguments, *(f"--allow-import={module}" for module in modules)))


def _variable(text: str) -> tuple[str, Any]:
    """``NAME=VALUE``, the value read as YAML."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ConfigurationError(f"--set {text}: expected NAME=VALUE, such as images=200.")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"--set {text}: the value cannot be read as YAML: {error}.") from error

"""``layerscope study``: all runs of a recipe, one command that goes on where it was interrupted."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from layerscope.errors import ConfigurationError
from layerscope.shipped import here_or_shipped


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
    add_launch_arguments(parser)
    options = parser.parse_args(arguments)

    from layerscope.launch.recipe import LIGHTNING_VERBS, read_recipe

    path = here_or_shipped(options.config)
    recipe = read_recipe(path, options.output, dict(_variable(text) for text in options.set))
    jobs = recipe.jobs()
    return launch(jobs, recipe.output, options, LIGHTNING_VERBS, allow_import)


def _variable(text: str) -> tuple[str, Any]:
    """``NAME=VALUE``, the value read as YAML."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ConfigurationError(f"--set {text}: expected NAME=VALUE, such as images=200.")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"--set {text}: the value cannot be read as YAML: {error}.") from error

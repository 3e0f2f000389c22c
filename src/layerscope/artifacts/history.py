"""The history of a training: one row per epoch, as JSON and as CSV."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from layerscope.artifacts.run_directory import Stage
from layerscope.artifacts.versions import SCHEMA_VERSION
from layerscope.errors import ArtifactError

HISTORY_JSON, HISTORY_CSV = "training_history.json", "training_history.csv"

HISTORY_COLUMNS = ("epoch", "batches", "seconds", "train_seconds", "images_per_second")
"""Columns that every row of training_history.csv has; learning rates (``lr...``) and logged metrics follow."""


def write_history(stage: Stage, rows: Sequence[Mapping[str, Any]]) -> None:
    """Both files. A metric that an epoch did not log is an empty cell in the CSV and no key in the JSON."""
    names = dict.fromkeys([*HISTORY_COLUMNS, *(name for row in rows for name in row)])
    stage.write_json(HISTORY_JSON, {"schema_version": SCHEMA_VERSION, "rows": list(rows)})
    stage.write_csv(HISTORY_CSV, rows, list(names))


def read_history(run_dir: str | Path) -> list[dict[str, Any]]:
    """The rows of ``training_history.json``, also of a training that still runs; null becomes NaN.

    Raises:
        ArtifactError: there is no such file, or layerscope did not write it.
    """
    path = Path(run_dir) / HISTORY_JSON
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["schema_version"] > SCHEMA_VERSION:
            raise ArtifactError(
                f"The history {path} has schema version {stored['schema_version']}; this layerscope reads up to "
                f"{SCHEMA_VERSION}. Update layerscope."
            )
        return [{name: math.nan if value is None else value for name, value in row.items()} for row in stored["rows"]]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ArtifactError(
            f"The history {path} could not be read ({type(error).__name__}: {error}). It is expected in the directory "
            "of a training with layerscope.callbacks.training_history.TrainingHistory, after its first epoch."
        ) from error

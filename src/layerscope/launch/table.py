"""What many runs have found so far: a table, sweep.csv or study.csv, and the same as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from layerscope.artifacts import (
    SCHEMA_VERSION,
    SWEEP_COLUMNS,
    format_csv,
    read_summary,
    write_file,
    write_json_file,
)
from layerscope.artifacts.headline import Headline
from layerscope.errors import ArtifactError
from layerscope.launch.job import Job, Outcome


class RunTable:
    """A row for each run, in their order; written whole whenever one has ended.

    Args:
        path: of the table for spreadsheets; the JSON lies beside it.
        settings: of each job the settings that make it differ from the others, as the command line takes them.
    """

    def __init__(self, path: Path, jobs: Sequence[Job], settings: Sequence[Mapping[str, str]]) -> None:
        self.path = path
        self._settings = dict(zip((job.name for job in jobs), settings))
        self._keys = list(dict.fromkeys(key for values in settings for key in values))
        self._earlier = _seconds(path.with_suffix(".json"))
        self.rows: dict[str, dict[str, Any]] = {job.name: self._row(Outcome(job, "not started")) for job in jobs}

    def note(self, outcome: Outcome) -> None:
        """Takes in how a run ended, and writes the files."""
        self.rows[outcome.job.name] = self._row(outcome)
        self.write()

    def write(self) -> None:
        """Both files; the JSON has the settings in a mapping of their own."""
        runs = [{**row, "settings": self._settings[name]} for name, row in self.rows.items()]
        write_json_file(self.path.with_suffix(".json"), {"schema_version": SCHEMA_VERSION, "runs": runs})
        # A setting may have the name of a column, in a command line of its own or tomorrow.
        columns = {key: f"setting.{key}" if key in SWEEP_COLUMNS else key for key in self._keys}
        rows = [
            {**row, **{columns[key]: value for key, value in self._settings[name].items()}}
            for name, row in self.rows.items()
        ]
        text = format_csv(rows, [*SWEEP_COLUMNS, *columns.values()])
        write_file(self.path, text.encode())

    def _row(self, outcome: Outcome) -> dict[str, Any]:
        row: dict[str, Any] = dict.fromkeys(SWEEP_COLUMNS)
        job = outcome.job
        row |= {"name": job.name, "status": outcome.status, "seconds": outcome.seconds, "run": str(job.run)}
        if outcome.skipped:
            row["seconds"] = self._earlier.get(job.name)
        if outcome.status == "finished":
            row |= _headline(job)
        return row | {"reason": outcome.reason}


def _headline(job: Job) -> dict[str, Any]:
    """The main figure of a run's summary; nothing where it has none."""
    try:
        headline = read_summary(job.run).get("headline")
    except ArtifactError:
        return {}
    return {field.name: headline.get(field.name) for field in fields(Headline)} if isinstance(headline, dict) else {}


def _seconds(path: Path) -> dict[str, float]:
    """How long runs took that had finished before, as the file from then says."""
    try:
        runs = json.loads(path.read_text(encoding="utf-8"))["runs"]
        return {run["name"]: run["seconds"] for run in runs if run["status"] == "finished"}
    except (OSError, ValueError, KeyError, TypeError):
        return {}

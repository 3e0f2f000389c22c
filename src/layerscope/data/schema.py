"""The label schema: which labels a data set has, and from which columns of its table they come."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from layerscope.errors import DataError
from layerscope.types import LabelSet

_SCHEMA_KEYS = ("name", "labels")
_LABEL_KEYS = ("name", "column", "columns", "group", "display_name", "evaluated")
# What would break out of a table, a figure title or an HTML report.
_FORBIDDEN = set("<>\"'&/\\")

UNKNOWN = -1


@dataclass(frozen=True)
class Label:
    """One label.

    name: its stable name in every table. columns: one column, or several to be merged.
    group: a free word by which reports may gather labels; "" for none. display_name: for figures.
    evaluated: False keeps the label in training and out of the judgement.
    """

    name: str
    columns: tuple[str, ...]
    group: str = ""
    display_name: str = ""
    evaluated: bool = True

    def merge(self, values: Sequence[int]) -> int:
        """1 if any column is 1, else unknown (-1) if any is unknown, else 0.

        >>> Label("lesion", ("left", "right")).merge([0, -1])
        -1
        """
        if 1 in values:
            return 1
        return UNKNOWN if UNKNOWN in values else 0


@dataclass(frozen=True)
class LabelSchema:
    """The labels of a data set in the order of the model's outputs; ``source`` is the file, for messages."""

    name: str
    labels: tuple[Label, ...]
    source: str = ""

    def label_set(self) -> LabelSet:
        """What tasks and reports read of it."""
        return LabelSet(
            names=tuple(label.name for label in self.labels),
            display_names=tuple(label.display_name or label.name for label in self.labels),
            evaluated=tuple(label.evaluated for label in self.labels),
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that some label reads, each once."""
        return tuple(dict.fromkeys(column for label in self.labels for column in label.columns))

    def check_columns(self, header: Sequence[str], table: str) -> None:
        """Raises DataError when ``header``, the columns of ``table``, lacks a column of the schema."""
        missing = [column for column in self.columns if column not in header]
        if missing:
            found = "; ".join(f"{column!r}{did_you_mean(column, header)}" for column in missing)
            raise DataError(
                f"The table {table} lacks columns that the label schema {self.source or self.name} reads: {found}. "
                f"The table has the columns {', '.join(header)}. Correct `column` in the schema or the table's header."
            )


def did_you_mean(name: str, choices: Sequence[str]) -> str:
    """`` (did you mean 'x', 'y'?)`` for the nearest of ``choices``, or nothing."""
    close = difflib.get_close_matches(name, list(choices), n=3)
    return f" (did you mean {', '.join(repr(match) for match in close)}?)" if close else ""


def load_label_schema(path: str | Path) -> LabelSchema:
    """Reads a schema file.

    ::

        name: fundus
        labels:
          - name: haemorrhage          # required; the name in every table
            column: haemorrhage        # default: the name
            group: vascular            # default: none
            display_name: Haemorrhage  # default: the name
            evaluated: true            # default
          - name: exudate
            columns: [hard_exudate, soft_exudate]   # merged: 1 if any is 1, else unknown if any is unknown, else 0

    Raises:
        DataError: the file is missing or no YAML, a key is unknown, a value has the wrong type, a name is used twice.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"The label schema {path} does not exist. docs/data.md shows how to write one.") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"The label schema {path} cannot be read as YAML: {error}") from error
    content = _mapping(content, _SCHEMA_KEYS, f"The label schema {path}")
    entries = content.get("labels")
    if not isinstance(entries, list) or not entries:
        raise DataError(f"The label schema {path} has no labels: expected a list under `labels:`, got {entries!r}.")
    labels = tuple(_label(entry, f"Label {place} of the schema {path}") for place, entry in enumerate(entries, 1))
    for what in ("name", "display_name"):
        seen: set[str] = set()
        for label in labels:
            value = getattr(label, what) or label.name
            if value in seen:
                raise DataError(f"The label schema {path} uses the {what} {value!r} twice. Each label needs its own.")
            seen.add(value)
    if not any(label.evaluated for label in labels):
        raise DataError(f"In the label schema {path} no label is evaluated. Set `evaluated: true` for at least one.")
    return LabelSchema(str(content.get("name") or Path(path).stem), labels, str(path))


def _mapping(value: Any, keys: Sequence[str], where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where} must be a mapping with the keys {', '.join(keys)}; got {value!r}.")
    for key in value:
        if key not in keys:
            raise DataError(
                f"{where} has the unknown key {key!r}{did_you_mean(str(key), keys)}. Known keys: {', '.join(keys)}."
            )
    return value


def _label(entry: Any, where: str) -> Label:
    entry = _mapping({"name": entry} if isinstance(entry, str) else entry, _LABEL_KEYS, where)
    name = _text(entry, "name", where)
    where = f"{where} ({name})"
    if "column" in entry and "columns" in entry:
        raise DataError(f"{where} has both `column` and `columns`. Give one column, or a list of columns to merge.")
    columns = entry.get("columns", [entry.get("column", name)])
    if not isinstance(columns, list) or not columns or not all(isinstance(c, str) and c for c in columns):
        raise DataError(
            f"{where}: the columns must be names, got {columns!r}. Put quotes around names such as on or 1."
        )
    if len(set(columns)) != len(columns):
        raise DataError(f"{where} merges the same column twice: {', '.join(columns)}.")
    evaluated = entry.get("evaluated", True)
    if not isinstance(evaluated, bool):
        raise DataError(f"{where}: `evaluated` must be true or false, got {evaluated!r}.")
    group = _text(entry, "group", where) if entry.get("group") is not None else ""
    display_name = _text(entry, "display_name", where) if entry.get("display_name") is not None else ""
    return Label(name, tuple(columns), group, display_name, evaluated)


def _text(entry: dict[str, Any], key: str, where: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: `{key}` must be text, got {value!r}. Put quotes around values such as no, on or 1.")
    bad = sorted({c for c in value if (c in _FORBIDDEN and key == "name") or not c.isprintable()})
    if bad:
        raise DataError(f"{where}: `{key}` {value!r} contains {bad}, which file names and reports cannot hold.")
    return value.strip()

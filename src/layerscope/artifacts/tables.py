"""CSV tables: written so that a spreadsheet shows them and runs nothing, read back to the same values."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from layerscope.artifacts.layer_scores import LOCALISATION
from layerscope.errors import ArtifactError

LONG_COLUMNS = (
    "condition",
    "t",
    "log_snr",
    "log_snr_eff",
    "draw",
    "label",
    "n",
    "n_pos",
    "metric",
    "value",
    "ci_lo",
    "ci_hi",
    "ci_sim_lo",
    "ci_sim_hi",
    "delta",
    "delta_ci_lo",
    "delta_ci_hi",
    "p",
    "flag",
)
"""Columns of per_label.csv, t_curve.csv and agreement.csv of a bottleneck diagnosis."""

COLLAPSE_COLUMNS = (
    "label",
    "auroc_real",
    "auroc_recon",
    "threshold_auroc",
    "state",
    "collapse_log_snr",
    "ci_lo",
    "ci_hi",
    "collapse_log_snr_eff",
    "collapse_t",
    "onset_log_snr",
    "onset_t",
    "n_boot_undefined",
    "flag",
)
"""Columns of collapse.csv."""

CLASSIFIER_COLUMNS = ("label", "n", "n_pos", "metric", "value", "ci_lo", "ci_hi", "flag")
"""Columns of per_label.csv of a classifier evaluation (E0)."""

PAIR_COLUMNS = ("id", "role", "layer", "metric", "value", "flag")
"""Columns of pairs.csv of a pair diagnosis."""

LOCALISATION_COLUMNS = (
    "id",
    "layer",
    "mask_fraction",
    *LOCALISATION,
    *(f"shifted_{figure}" for figure in LOCALISATION),
    "flag",
)
"""Columns of localisation.csv: the figures for the mask, and for shifted masks."""

TOKEN_COLUMNS = ("id", "view", "layer", "figure", "value", "flag")
"""Columns of images.csv of a token diagnosis."""

AGGREGATE_COLUMNS = (
    "view",
    "layer",
    "figure",
    "n",
    "mean",
    "std",
    "ci_lo",
    "ci_hi",
    "difference",
    "difference_ci_lo",
    "difference_ci_hi",
    "difference_from",
    "flag",
)
"""Columns of aggregate.csv of a token diagnosis.

ci_lo, ci_hi: of one mean alone. difference_ci_lo, difference_ci_hi: simultaneous over the layers of a view's figure.
difference_from: what the difference is taken from: the first view, or the figure's control.
"""

COMPARISON_COLUMNS = (
    "candidate",
    "run",
    "condition",
    "log_snr_eff",
    "label",
    "metric",
    "value",
    "ci_lo",
    "ci_hi",
    "n_runs",
    "seed_sd",
    "rank",
    "flag",
)
"""Columns of comparison.csv.

run: empty in the row of a candidate; the run's name in the row of one of its training seeds. condition: ``recon``,
``t52``, ... or empty where there is none. label: a label, ``macro``, or empty. n_runs: training seeds behind the value.
seed_sd: standard deviation between them. rank: among the candidates, 1 is best, equal values share the better rank.
"""

PAIRWISE_COLUMNS = (
    "candidate",
    "other",
    "condition",
    "label",
    "metric",
    "family",
    "difference",
    "ci_lo",
    "ci_hi",
    "ci_sim_lo",
    "ci_sim_hi",
    "p",
    "p_adjusted",
    "outcome",
    "flag",
)
"""Columns of pairwise.csv of a comparison: ``candidate`` minus ``other``.

family: the differences that are corrected together. ci_sim_lo, ci_sim_hi: hold for the whole family at once.
p_adjusted: below 1 - level exactly where they leave 0 out.
"""

SWEEP_COLUMNS = ("name", "status", "seconds", "figure", "value", "ci_lo", "ci_hi", "run", "reason")
"""Columns of sweep.csv, before those of the settings that the sweep varies, which are named as in configurations."""

TEXT_COLUMNS = frozenset(
    {
        *("condition", "label", "metric", "flag", "state", "id", "group", "path", "reason"),
        # Of worst_samples.csv: the criterion, and the picture files.
        *("criterion", "orig", "recon_t0", "recon_noise", "diff", "crop"),
        # Of reconstruction.csv.
        "file",
        # Of pairs.csv and localisation.csv.
        *("role", "layer"),
        # Of images.csv and aggregate.csv of a token diagnosis.
        *("view", "figure", "difference_from"),
        # Of comparison.csv and pairwise.csv.
        *("candidate", "run", "other", "family", "outcome"),
        # Of sweep.csv.
        *("name", "status"),
    }
)
"""Columns that hold text; every other column holds numbers."""

INTEGER_COLUMNS = frozenset(
    {"t", "draw", "n", "n_pos", "n_boot_undefined", "n_runs", "rank", "index", "epoch", "batches", "width", "height"}
)

# The last four are what spreadsheets accept as the same signs in East Asian input; tab and return also start formulas.
_FORMULA_START = tuple("=+-@\t\r＝＋－＠")


def defuse(text: str) -> str:
    """Text that no spreadsheet takes for a formula: an apostrophe goes before a leading ``= + - @``.

    >>> defuse("=HYPERLINK(1)"), defuse("drusen")
    ("'=HYPERLINK(1)", 'drusen')
    """
    return f"'{text}" if text.lstrip("'").startswith(_FORMULA_START) else text


def undo_defuse(text: str) -> str:
    """The inverse of ``defuse``."""
    return text[1:] if text.startswith("'") and text.lstrip("'").startswith(_FORMULA_START) else text


def format_cell(value: object) -> str:
    """One CSV cell: floats with all their digits, NaN and None empty, truth values as 0 and 1, text defused."""
    match value:
        case None:
            return ""
        case bool() | np.bool_():
            return str(int(value))
        case int() | np.integer():
            return str(int(value))
        case float() | np.floating():
            return "" if math.isnan(value) else repr(float(value))
        case str():
            return defuse(str(value))
        case _:
            raise TypeError(f"a table cell is a number or text, not {type(value).__name__}: {value!r}")


def format_csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """A table as CSV text. A column that a row lacks is empty; a key that is no column raises ValueError."""
    buffer = io.StringIO()
    write_rows(buffer, rows, columns)
    return buffer.getvalue()


def write_rows(file: TextIO, rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Writes a table row by row, as ``format_csv`` does, into a file opened with ``newline=""``."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([defuse(column) for column in columns])
    known = set(columns)
    for row in rows:
        if extra := set(row) - known:
            raise ValueError(f"a table row has the keys {sorted(extra)}, which are no columns of {list(columns)}")
        writer.writerow([format_cell(row.get(column)) for column in columns])


def read_csv(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a table that layerscope wrote.

    Text columns give strings; integer columns an int, ``"mean"`` or ``None``; the others floats, NaN where empty.

    Raises:
        ArtifactError: the file is missing or is no such table.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [_parse_row(row) for row in csv.DictReader(file)]
    except (OSError, ValueError, csv.Error) as error:
        raise ArtifactError(
            f"The table {path} could not be read: {error}. It is expected to be a CSV file that layerscope wrote; "
            "run the command that writes it again."
        ) from error


def _parse_row(row: dict[str, str]) -> dict[str, Any]:
    parsed: dict[str, Any] = {}
    for name, cell in row.items():
        column = undo_defuse(name)
        if column in TEXT_COLUMNS:
            parsed[column] = undo_defuse(cell)
        elif column in INTEGER_COLUMNS:
            parsed[column] = None if cell == "" else cell if cell == "mean" else int(cell)
        else:
            parsed[column] = math.nan if cell == "" else float(cell)
    return parsed

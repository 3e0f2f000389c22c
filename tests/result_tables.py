"""Comparing the result tables of two runs that must agree."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TABLES = ("per_label.csv", "t_curve.csv", "agreement.csv", "collapse.csv", "worst_samples.csv")
TOLERANCE = 1e-5


def assert_equal_results(first: Path, second: Path) -> None:
    """Every table and array of two run directories within 1e-5, text exactly."""
    for name in TABLES:
        with (first / name).open(newline="") as one, (second / name).open(newline="") as other:
            rows, others = list(csv.reader(one)), list(csv.reader(other))
        assert len(rows) == len(others), name
        for number, (row, twin) in enumerate(zip(rows, others), start=1):
            for column, cell, copy in zip(rows[0], row, twin, strict=True):
                assert _equal(cell, copy), f"{name}, row {number} ({row[:7]}), {column}: {cell} and {copy}"
    with np.load(first / "scores.npz") as arrays, np.load(second / "scores.npz") as twins:
        assert set(arrays.files) == set(twins.files)
        for name in arrays.files:
            if arrays[name].dtype.kind == "f":
                np.testing.assert_allclose(twins[name], arrays[name], atol=TOLERANCE, rtol=TOLERANCE, err_msg=name)
            else:
                np.testing.assert_array_equal(twins[name], arrays[name], err_msg=name)


def assert_close(one: Any, other: Any, place: str = "") -> None:
    """Numbers to rounding, everything else exactly."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), place
        for key, value in one.items():
            assert_close(value, other[key], f"{place} {key}")
    elif isinstance(one, list):
        assert len(one) == len(other), place
        for number, (value, twin) in enumerate(zip(one, other)):
            assert_close(value, twin, f"{place} {number}")
    elif isinstance(one, float):
        assert other == pytest.approx(one, rel=1e-5, abs=1e-9, nan_ok=True), place
    else:
        assert one == other, place


def _equal(cell: str, copy: str) -> bool:
    try:
        return bool(np.isclose(float(cell), float(copy), atol=TOLERANCE, rtol=TOLERANCE, equal_nan=True))
    except ValueError:
        return cell == copy

"""Where a comparison's figures come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from layerscope.report.comparison.runs import ComparedRun


@dataclass(frozen=True)
class Sources:
    """directories: candidate to the run directories of its runs, in their order.

    teacher: SHA-256 of the teacher's weights, and data_hash: of ids, image sizes and labels, both of the first run;
    None where its summary has none. split: of the data.
    """

    directories: Mapping[str, Sequence[str]]
    teacher: str | None
    data_hash: str | None
    split: str | None


def sources_of(runs: Sequence[ComparedRun]) -> Sources:
    """Directories of all runs; hashes and split of the first. Classifiers have no teacher in common."""
    directories: dict[str, list[str]] = {}
    for run in runs:
        directories.setdefault(run.candidate, []).append(str(run.path))
    first = runs[0].summary
    teacher = (first.get("model_hashes") or {}).get("teacher") if runs[0].kind == "bottleneck" else None
    return Sources(directories, teacher, first.get("data_hash"), first.get("split"))

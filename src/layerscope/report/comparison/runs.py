"""The runs of a comparison: which candidate each belongs to, and what it left on the disk."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerscope.artifacts.run_directory import read_summary
from layerscope.artifacts.scores import BottleneckScores, ClassifierScores
from layerscope.errors import ArtifactError, ConfigurationError, listed
from layerscope.report.comparison.result import ComparisonKind

TASKS: Mapping[str, ComparisonKind] = {"vae_bottleneck": "bottleneck", "classifier": "classifier"}
"""What a summary calls its task, and the kind of comparison its run can take part in."""

SEED = re.compile(
    r"(?:(?P<name>.+?)[-_.,+ ]+)?(?:training[-_ ]?)?seed(?:[-_]?everything)?[-_=. ]*(?P<seed>\d+)", re.IGNORECASE
)
"""A training seed at the end of a directory's name: base_seed1, base-seed2, base_seed_everything-3, base,seed=4."""


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """A finished run. path: as given. candidate: what it is a run of. name: unique among the candidate's runs.

    seed: of its training, as text, from the directory's name; empty where that has none.
    """

    path: Path
    candidate: str
    name: str
    seed: str
    kind: ComparisonKind
    summary: Mapping[str, Any]
    scores: BottleneckScores | ClassifierScores

    @property
    def title(self) -> str:
        """What messages call it."""
        return self.candidate if self.name == self.candidate else f"{self.candidate} ({self.name})"


@dataclass(frozen=True)
class _Place:
    """What an argument says: the directory, its candidate, and whether the candidate was named."""

    path: Path
    directory: str
    candidate: str
    seed: str
    named: bool


def read_runs(arguments: Sequence[str]) -> list[ComparedRun]:
    """The runs of ``DIR`` or ``NAME=DIR``, in the order given.

    Without NAME the candidate is called like the directory, without a training seed at the end (``SEED``); a directory
    that is called by its seed alone is a run of the folder it lies in, or of the sweep. Runs of one candidate are its
    training seeds.

    Raises:
        ArtifactError: a directory is missing or holds no finished run that this version can read.
        ConfigurationError: fewer than two candidates, a directory given twice, runs of a task that is not compared or
            of both that are, or directories that may be runs of one candidate or not.
    """
    places = [_place(argument) for argument in arguments]
    _check_distinct(places)
    _check_ambiguous(places)
    candidates = list(dict.fromkeys(place.candidate for place in places))
    if len(candidates) < 2:
        found = f"only {candidates[0]!r} ({listed([str(place.path) for place in places])})" if candidates else "none"
        raise ConfigurationError(
            f"A comparison needs runs of at least two candidates, but there is {found}. Directories whose names differ "
            "only in a training seed at the end are runs of one candidate; NAME=DIR calls a run's candidate NAME."
        )
    summaries = [read_summary(place.path) for place in places]
    kinds = [_kind(place, summary) for place, summary in zip(places, summaries)]
    if len(set(kinds)) > 1:
        other = next(k for k, kind in enumerate(kinds) if kind != kinds[0])
        raise ConfigurationError(
            f"The runs are of different tasks: {places[0].path} is of {summaries[0]['task']}, {places[other].path} of "
            f"{summaries[other]['task']}. Diagnoses of VAEs and evaluations of classifiers are compared apart."
        )
    names = _names(places)
    return [
        ComparedRun(place.path, place.candidate, name, place.seed, kind, summary, _scores(place.path, kind))
        for place, name, kind, summary in zip(places, names, kinds, summaries)
    ]


def candidate_of(argument: str) -> str:
    """What ``DIR`` or ``NAME=DIR`` is a run of; the directory need not be there yet if its name has no ``=``."""
    return _place(argument).candidate


def check_baseline(baseline: str | None, candidates: Sequence[str]) -> None:
    """Raises ConfigurationError unless the baseline is None or a candidate."""
    if baseline is None or baseline in candidates:
        return
    close = difflib.get_close_matches(baseline, candidates, n=3)
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    raise ConfigurationError(
        f"The baseline {baseline!r} is none of the candidates.{hint} They are {listed(list(candidates))}; give "
        "--baseline one of these names, or call a run by NAME=DIR."
    )


def split_seed(directory: str) -> tuple[str, str]:
    """A directory's name without the training seed at its end, and the seed; empty where there is none.

    >>> split_seed("base_seed1"), split_seed("kl-1e-6"), split_seed("wide,seed_everything=03")
    (('base', '1'), ('kl-1e-6', ''), ('wide', '3'))
    """
    found = SEED.fullmatch(directory)
    return (directory, "") if found is None else (found["name"] or "", str(int(found["seed"])))


def _place(argument: str) -> _Place:
    """A directory that exists is taken as it is, whatever ``=`` its name holds."""
    named = "" if Path(argument).is_dir() else _candidate_before(argument)
    path = Path(argument[len(named) + 1 :] if named else argument)
    absolute = Path(os.path.abspath(path))
    name, seed = split_seed(absolute.name)
    # A sweep keeps its runs in a folder of that name.
    above = next((folder.name for folder in absolute.parents if folder.name != "runs"), "")
    return _Place(path, absolute.name or str(path), named or name or above or str(path), seed, bool(named))


def _candidate_before(argument: str) -> str:
    """NAME of ``NAME=DIR``: before the first ``=`` that a directory follows; empty where the argument has no ``=``."""
    cuts = [k for k, sign in enumerate(argument) if sign == "="]
    cut = next((k for k in cuts if Path(argument[k + 1 :]).is_dir()), None)
    if cut is None and cuts:
        raise ArtifactError(
            f"Neither {argument!r} nor what follows a = in it is a directory. Give the directory of a finished run, "
            "or NAME=DIR."
        )
    if cut is not None and not argument[:cut].strip():
        raise ConfigurationError(f"The candidate in {argument!r} has no name. Write NAME=DIR, or the directory alone.")
    return "" if cut is None else argument[:cut]


def _check_distinct(places: Sequence[_Place]) -> None:
    seen: dict[Path, _Place] = {}
    for place in places:
        first = seen.setdefault(place.path.resolve(), place)
        if first is not place:
            raise ConfigurationError(
                f"The directory {place.path} is given twice (also as {first.path}). Every run counts once; give the "
                "directories of different runs."
            )


def _check_ambiguous(places: Sequence[_Place]) -> None:
    for candidate in dict.fromkeys(place.candidate for place in places):
        runs = [place for place in places if place.candidate == candidate]
        seeds = [place.seed for place in runs]
        if all(run.named for run in runs) or len(set(seeds)) == len(seeds):
            continue
        raise ConfigurationError(
            f"The directories {listed([str(run.path) for run in runs])} would all be runs of one candidate, "
            f"{candidate!r}, but no training seed at the end of their names tells them apart. Name each: "
            f"{candidate}=DIR for all of them where they are training seeds of one candidate, different names where "
            "they are not."
        )


def _names(places: Sequence[_Place]) -> list[str]:
    """The directory's name, or the path where another run of the candidate has the same."""
    keys = [(place.candidate, place.directory) for place in places]
    return [
        place.directory if keys.count(key) == 1 else os.path.normpath(place.path) for place, key in zip(places, keys)
    ]


def _kind(place: _Place, summary: Mapping[str, Any]) -> ComparisonKind:
    task = summary.get("task")
    kind = TASKS.get(str(task))
    if kind is None:
        raise ConfigurationError(
            f"The run in {place.path} is of the task {task!r}, which is not compared. Give runs of "
            f"{' or '.join(TASKS)}, which `layerscope test` wrote."
        )
    return kind


def _scores(path: Path, kind: ComparisonKind) -> BottleneckScores | ClassifierScores:
    return (BottleneckScores if kind == "bottleneck" else ClassifierScores).load(path / "scores.npz")

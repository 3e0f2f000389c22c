"""From stored differences of image pairs to means, intervals, effects over the noise floor, and a ranking of layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from layerscope.artifacts.layer_scores import DIFFERENCES, POINTS, SIZE_FREE, FloatArray, LayerScores
from layerscope.errors import ConfigurationError
from layerscope.functional.bootstrap import percentile_interval, resample_weights
from layerscope.functional.intervals import group_index
from layerscope.functional.resampled_moments import standardised_effect
from layerscope.report.layer_cka import LayerCKA, layer_cka
from layerscope.report.layer_localisation import LocalisationTable, summarise_localisation
from layerscope.report.sample_means import FEW_UNITS, SampleMeans, sample_means

RankBy = Literal["effect", "relative_l2", "cosine_dissimilarity", "sqnr_db"]
Statistic = Literal["effect", "mean"]
Method = Literal["l2", "cosine", "both"]
"""Which difference a user asked for; relative L2 and SQNR are shown with either."""

RANKED_METRICS = (*DIFFERENCES, "linear_cka")

MORE_DIFFERENT = {
    "l2": 1,
    "rms": 1,
    "relative_l2": 1,
    "cosine_dissimilarity": 1,
    "sqnr_db": -1,
    "linear_cka": -1,
}
"""+1 where a larger value is a larger difference, −1 where a smaller one is; effects have the sign of their metric."""

RELATIVE = DIFFERENCES.index("relative_l2")


@dataclass(frozen=True)
class PairSettings:
    """How sure, and by what layers are ranked.

    level: of all intervals, in (0, 1). n_bootstrap: resamples of pairs, of floor pairs, and of groups of pairs
        for linear CKA. seed: of the resamples.
    rank_by: "effect" (standardised effect of relative L2 over the noise floor), or the mean of a size-free metric.
    """

    level: float = 0.95
    n_bootstrap: int = 1000
    seed: int = 0
    rank_by: RankBy = "effect"

    def __post_init__(self) -> None:
        """Refuses what would fail only after all pairs have been seen."""
        if not 0 < self.level < 1:
            raise ConfigurationError(f"level is {self.level}; it must lie between 0 and 1, such as 0.95 for 95 %.")
        if self.n_bootstrap < 1:
            raise ConfigurationError(f"n_bootstrap is {self.n_bootstrap}; give at least 1, such as 1000.")
        if self.seed < 0:
            raise ConfigurationError(f"seed is {self.seed}; it must be 0 or larger.")
        if self.rank_by not in ("effect", *SIZE_FREE):
            raise ConfigurationError(
                f"rank_by is {self.rank_by!r}; layers can be ranked by effect, {', '.join(SIZE_FREE)}. l2 and rms grow "
                "with a layer's size or scale, so they do not compare layers."
            )


@dataclass(frozen=True)
class DifferenceTable:
    """Differences per layer and metric, all (L, 5) in the order of ``DIFFERENCES``.

    pairs, floor: means, spreads and intervals over the pairs and the floor's pairs.
    effect, effect_lo, effect_hi: standardised effect of the pairs over the floor; NaN where undefined.
    identical, floor_identical: pairs that are left out because sqnr_db is infinite.
    flag: L lists of 5 texts: what is undefined or rough, and why; empty where nothing is.
    """

    pairs: SampleMeans
    floor: SampleMeans
    effect: FloatArray
    effect_lo: FloatArray
    effect_hi: FloatArray
    identical: NDArray[np.int64]
    floor_identical: NDArray[np.int64]
    flag: list[list[str]]


@dataclass(frozen=True)
class Ranking:
    """Layers from the most different down; points are anchors and never ranked.

    metric, statistic: by what. layers: rows of the tables; those without a value are left out.
    fallback: why it is not what was asked for; empty where it is.
    """

    metric: str
    statistic: Statistic
    layers: list[int]
    fallback: str = ""


@dataclass(frozen=True)
class LayerAnalysis:
    """Everything the report of a pair diagnosis says follows from this.

    cka: linear CKA of each layer.
    measured: (N,), pairs that were measured. weights: (B, n), the resamples of those n pairs, shared by all intervals.
    group: (n,) patient of each measured pair as a number, or None.
    resampled: (B, L), mean of relative L2 on each resample; resampled_effect: its effect.
    """

    scores: LayerScores
    settings: PairSettings
    differences: DifferenceTable
    cka: LayerCKA
    localisation: LocalisationTable
    ranking: Ranking
    measured: NDArray[np.bool_]
    group: NDArray[np.int64] | None
    weights: NDArray[np.float32] = field(repr=False)
    resampled: FloatArray = field(repr=False)
    resampled_effect: FloatArray = field(repr=False)

    @property
    def n_pairs(self) -> int:
        return int(self.measured.sum())

    @property
    def n_units(self) -> int:
        """What is resampled: patients where pairs are grouped, otherwise pairs."""
        return self.n_pairs if self.group is None else len(np.unique(self.group))

    @property
    def has_floor(self) -> bool:
        return len(self.scores.floor) > 0

    def order(self, metric: str, statistic: Statistic = "mean") -> list[int]:
        """Layers from the most different down by one metric; points and layers without a value are left out.

        Empty for linear CKA of fewer than ``layer_cka.FEW_GROUPS`` groups.
        """
        if metric == "linear_cka":
            return _descending(self.scores, self.cka.to_rank, metric)
        return _order(self.scores, self.differences, metric, statistic)

    def top(self, metric: str, count: int = 5) -> list[int]:
        """The first layers of a metric's order by its mean."""
        return self.order(metric)[:count]

    def top_ranked(self, count: int = 5) -> list[int]:
        """The first layers of the ranking."""
        return self.ranking.layers[:count]


def analyse_layers(scores: LayerScores, settings: PairSettings | None = None) -> LayerAnalysis:
    """Means, intervals, effects, linear CKA, localisation and ranking of every layer.

    Pairs are resampled (whole patients where pairs are grouped), and the floor's pairs and the groups of linear CKA
    independently of them.
    """
    settings = settings or PairSettings()
    measured: NDArray[np.bool_] = np.asarray(~np.isnan(scores.values).all(axis=(1, 2)))
    group = None if scores.group is None else group_index(np.asarray(scores.group)[measured])
    weights = resample_weights(int(measured.sum()), settings.n_bootstrap, settings.seed, group)
    # The next seed: the same one would tie the floor's draws to those of the pairs.
    floor_weights = resample_weights(len(scores.floor), settings.n_bootstrap, settings.seed + 1)
    pairs = sample_means(scores.values[measured], weights, group, settings.level)
    floor = sample_means(scores.floor, floor_weights, None, settings.level)
    effects = standardised_effect(
        pairs.resampled_mean, pairs.resampled_variance, floor.resampled_mean, floor.resampled_variance
    )
    effect = standardised_effect(pairs.mean, pairs.std**2, floor.mean, floor.std**2)
    lo, hi, _ = percentile_interval(effects, settings.level)
    unknown = np.isnan(effect) | (pairs.units < 2)
    identical = np.isposinf(scores.values[measured]).sum(axis=0)
    floor_identical = np.isposinf(scores.floor).sum(axis=0)
    differences = DifferenceTable(
        pairs=pairs,
        floor=floor,
        effect=effect,
        effect_lo=np.where(unknown, np.nan, lo),
        effect_hi=np.where(unknown, np.nan, hi),
        identical=identical,
        floor_identical=floor_identical,
        flag=_flags(scores, measured, pairs, floor, effect),
    )
    return LayerAnalysis(
        scores=scores,
        settings=settings,
        differences=differences,
        cka=layer_cka(scores.cka_hsic, settings.level, settings.n_bootstrap, settings.seed + 2),
        localisation=summarise_localisation(scores, measured, weights, group, settings.level),
        ranking=_ranking(scores, differences, settings, int(measured.sum())),
        measured=measured,
        group=group,
        weights=weights,
        resampled=pairs.resampled_mean[:, :, RELATIVE],
        resampled_effect=effects[:, :, RELATIVE],
    )


def watched(layers: Sequence[str]) -> list[int]:
    """Rows of the layers that are modules; points are left out."""
    return [row for row, name in enumerate(layers) if name not in POINTS]


def _order(scores: LayerScores, differences: DifferenceTable, metric: str, statistic: Statistic) -> list[int]:
    table = differences.effect if statistic == "effect" else differences.pairs.mean
    return _descending(scores, table[:, DIFFERENCES.index(metric)], metric)


def _descending(scores: LayerScores, values: FloatArray, metric: str) -> list[int]:
    """Rows of the layers from the most different down by values (L,)."""
    rows = [row for row in watched(scores.layer) if np.isfinite(values[row])]
    # A stable sort: equal layers stay in the order of the computation.
    return sorted(rows, key=lambda row: -MORE_DIFFERENT[metric] * values[row])


def _ranking(scores: LayerScores, differences: DifferenceTable, settings: PairSettings, n_pairs: int) -> Ranking:
    if settings.rank_by != "effect":
        return Ranking(settings.rank_by, "mean", _order(scores, differences, settings.rank_by, "mean"))
    by_effect = _order(scores, differences, "relative_l2", "effect")
    if by_effect or not watched(scores.layer):
        return Ranking("relative_l2", "effect", by_effect)
    if n_pairs < 2:
        reason = "fewer than two pairs were measured"
    elif len(scores.floor) < 2:
        reason = "there are fewer than two floor pairs" if len(scores.floor) else "there is no noise floor"
    else:
        reason = "neither pairs nor floor vary"
    by_mean = _order(scores, differences, "relative_l2", "mean")
    return Ranking("relative_l2", "mean", by_mean, f"no effect is defined: {reason}")


def _flags(
    scores: LayerScores, measured: NDArray[np.bool_], pairs: SampleMeans, floor: SampleMeans, effect: FloatArray
) -> list[list[str]]:
    infinite = [
        (np.isposinf(values).sum(axis=0), np.isneginf(values).sum(axis=0), noun)
        for values, noun in ((scores.values[measured], "pair"), (scores.floor, "floor pair"))
    ]
    unit = "pair" if scores.group is None else "patient"

    def flag(cell: tuple[int, int]) -> str:
        parts = []
        for identical, silent, noun in infinite:
            if count := int(identical[cell]):
                parts.append(f"{count} identical {noun}{'s' * (count > 1)} left out")
            if count := int(silent[cell]):
                parts.append(f"{count} {noun}{'s' * (count > 1)} without a signal left out")
        n, units = int(pairs.n[cell]), int(pairs.units[cell])
        if n == 0:
            return "; ".join([*parts, "no pair has a value"])
        if units < 2:
            parts.append(f"one {unit}: no interval")
        if np.isnan(effect[cell]):
            parts.append(f"no effect: {_no_effect(n, int(floor.n[cell]), len(scores.floor))}")
        if 2 <= units < FEW_UNITS:
            parts.append(f"fewer than {FEW_UNITS} {unit}s: interval is rough")
        if np.isfinite(effect[cell]) and floor.n[cell] < FEW_UNITS:
            parts.append(f"fewer than {FEW_UNITS} floor pairs: effect is rough")
        return "; ".join(parts)

    return [[flag((row, column)) for column in range(len(DIFFERENCES))] for row in range(len(scores.layer))]


def _no_effect(n: int, floor_n: int, floor_pairs: int) -> str:
    if not floor_pairs:
        return "no noise floor"
    if floor_n < 2:
        return "one floor pair" if floor_n else "no floor pair has a value"
    return "one pair" if n < 2 else "no spread in pairs and floor"

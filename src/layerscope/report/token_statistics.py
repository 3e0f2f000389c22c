"""What the tokens of many images come to: means over images per view and layer, paired differences, and why not."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from layerscope.artifacts.token_scores import MASK_FIGURES, TokenScores, ViewScores
from layerscope.errors import ConfigurationError
from layerscope.functional.bootstrap import percentile_interval, resample_weights
from layerscope.functional.intervals import group_index
from layerscope.report.sample_means import FEW_UNITS, SampleMeans, sample_means, surer, surer_together
from layerscope.report.token_views import is_control
from layerscope.types import NormStage, TokenMetric

FloatArray = NDArray[np.float64]

CONTROL_OF = {"border_drop": "shifted_border_drop", "token_change_auroc": "shifted_token_change_auroc"}
"""Figures of a mask, each with the same figure of shifted masks: what it would be at any other place."""

CHANGE = "token_change"
SIMILARITY = "neighbour_similarity"
_NORMS = ("norm_median", "norm_max")
_SIMILARITIES = ("_similarity", "border_drop")
"""How figures end that are similarities, or differences of two."""


@dataclass(frozen=True)
class TokenSettings:
    """How sure. level: of all intervals, in (0, 1). n_bootstrap: resamples of the images. seed: of the resamples."""

    level: float = 0.95
    n_bootstrap: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses what would fail only after all images have been seen."""
        if not 0 < self.level < 1:
            raise ConfigurationError(f"level is {self.level}; it must lie between 0 and 1, such as 0.95 for 95 %.")
        if self.n_bootstrap < 1:
            raise ConfigurationError(f"n_bootstrap is {self.n_bootstrap}; give at least 1, such as 1000.")
        if self.seed < 0:
            raise ConfigurationError(f"seed is {self.seed}; it must be 0 or larger.")


@dataclass(frozen=True)
class Estimate:
    """A mean or a difference of means. lo, hi: its interval, NaN where there is none. n: images; 0: there is none."""

    value: float
    lo: float
    hi: float
    n: int
    std: float = float("nan")

    @property
    def known(self) -> bool:
        return self.n > 0

    @property
    def sure(self) -> bool:
        """Whether the interval excludes 0."""
        return self.lo > 0 or self.hi < 0


_NOTHING = Estimate(float("nan"), float("nan"), float("nan"), 0)


@dataclass(frozen=True)
class ViewStatistics:
    """One version of the images: L layers × K figures.

    means: (L, K), percentile intervals of each mean by itself.
    difference: (L, K), paired: this view − the first, over the images where both are known. Its intervals hold for all
        layers of a figure at once (``sample_means.surer_together``), not for all figures and views. Where the layers
        have other names than the first view's there is one difference, between the last layers of both; there is none
        where ``not_comparable`` says why.
    above_control: figure of ``CONTROL_OF`` to (L,), the figure − its control, paired, with intervals as above.
    flag: L lists of K texts: what is left out, undefined or rough, and why; empty where nothing is.
    prefix, cls_source: as in ``ViewScores``. not_comparable: figure to the reason why it has no difference to the
        first view's, of two models.
    """

    view: str
    model: str
    layer: list[str]
    figure: list[str]
    means: SampleMeans
    difference: SampleMeans
    above_control: dict[str, SampleMeans]
    same_layers: bool
    flag: list[list[str]]
    prefix: tuple[str, ...]
    cls_source: str
    not_comparable: dict[str, str]

    @property
    def is_control(self) -> bool:
        return is_control(self.view)

    def curve(self, figure: str) -> FloatArray | None:
        """(3, L): means and the ends of their intervals; None where the figure has no value in any layer."""
        return self._curve(self.means, figure)

    def difference_curve(self, figure: str) -> FloatArray | None:
        """(3, L): paired differences to the first view and their simultaneous band; None without any."""
        return self._curve(self.difference, figure)

    def at(self, figure: str, layer: int = -1) -> Estimate:
        """The mean of a figure in a layer, the last one by default."""
        return self._cell(self.means, figure, layer)

    def difference_at(self, figure: str, layer: int = -1) -> Estimate:
        """The paired difference to the first view in a layer."""
        return self._cell(self.difference, figure, layer)

    def above_control_at(self, figure: str, layer: int = -1) -> Estimate:
        """How much a figure of the mask exceeds the same of shifted masks in a layer."""
        means = self.above_control.get(figure)
        return _NOTHING if means is None else _estimate(means, (layer,))

    def largest(self, figure: str) -> int | None:
        """The layer (row) with the largest mean of a figure; None without any."""
        curve = self.curve(figure)
        return None if curve is None else int(np.nanargmax(curve[0]))

    def _curve(self, means: SampleMeans, figure: str) -> FloatArray | None:
        if figure not in self.figure:
            return None
        column = self.figure.index(figure)
        curve = np.stack([part[:, column] for part in (means.mean, means.lo, means.hi)])
        return curve if np.isfinite(curve[0]).any() else None

    def _cell(self, means: SampleMeans, figure: str, layer: int) -> Estimate:
        if figure not in self.figure:
            return _NOTHING
        return _estimate(means, (layer, self.figure.index(figure)))


@dataclass(frozen=True)
class TokenAnalysis:
    """Everything the report of a token diagnosis says follows from this.

    views: in the order of the scores; empty without any.
    measured: (N,), images that were not skipped. with_mask: (N,), those with a lesion mask.
    group: (n,) patient of each measured image as a number, or None. weights: (B, n), resamples of those images, shared
        by all intervals.
    """

    scores: TokenScores
    settings: TokenSettings
    views: list[ViewStatistics]
    measured: NDArray[np.bool_]
    with_mask: NDArray[np.bool_]
    group: NDArray[np.int64] | None
    weights: NDArray[np.float32] = field(repr=False)

    @property
    def similarity_metric(self) -> TokenMetric:
        """What "alike" is measured by."""
        return self.scores.similarity_metric

    @property
    def norm(self) -> NormStage:
        return self.scores.norm

    @property
    def n_images(self) -> int:
        return int(self.measured.sum())

    @property
    def n_units(self) -> int:
        """What is resampled: patients where images are grouped, otherwise images."""
        return self.n_images if self.group is None else len(np.unique(self.group))

    @property
    def unit(self) -> str:
        return "image" if self.group is None else "patient"

    @property
    def controls(self) -> list[ViewStatistics]:
        return [view for view in self.views[1:] if view.is_control]

    @property
    def compared(self) -> list[ViewStatistics]:
        """The later views that are no controls."""
        return [view for view in self.views[1:] if not view.is_control]


def analyse_tokens(scores: TokenScores, settings: TokenSettings | None = None) -> TokenAnalysis:
    """Means, paired differences, and intervals of every view, layer and figure.

    Images are resampled (whole patients where images are grouped), the same ones for all views, layers and figures. An
    image counts in a cell where it has a value there.
    """
    settings = settings or TokenSettings()
    skipped = {name for name, _ in scores.skipped}
    measured = np.array([name not in skipped for name in scores.id], dtype=np.bool_)
    group = None if scores.group is None else group_index(np.asarray(scores.group)[measured])
    weights = resample_weights(int(measured.sum()), settings.n_bootstrap, settings.seed, group)
    analysis = TokenAnalysis(scores, settings, [], measured, images_with_mask(scores), group, weights)
    for view in scores.views:
        analysis.views.append(_statistics(analysis, view))
    return analysis


def change_ratio(analysis: TokenAnalysis, view: ViewStatistics, control: ViewStatistics) -> Estimate:
    """Mean token change of a view over that of a control, both at their last layers, with a percentile interval."""
    mine, other = view.at(CHANGE), control.at(CHANGE)
    if not (mine.known and other.known and other.value > 0):
        return _NOTHING
    over, under = (one.means.resampled_mean[:, -1, one.figure.index(CHANGE)] for one in (view, control))
    with np.errstate(divide="ignore", invalid="ignore"):
        lo, hi, _ = percentile_interval(np.where(under > 0, over / under, np.nan), analysis.settings.level)
    units = min(int(one.means.units[-1, one.figure.index(CHANGE)]) for one in (view, control))
    ends = (float(lo), float(hi)) if units > 1 else (float("nan"), float("nan"))
    return Estimate(mine.value / other.value, *ends, min(mine.n, other.n))


def missing_because(view: ViewScores, with_mask: bool, values: FloatArray, layer: int, figure: str) -> str:
    """Why a measured image has no value in a cell; empty where it has.

    values: (L, K) of that image in that view. with_mask: from ``images_with_mask``.
    """
    if np.isfinite(values[layer, view.figure.index(figure)]):
        return ""
    if figure in MASK_FIGURES and not with_mask:
        return "no mask"
    if np.isnan(values).all():
        return "not measured in this view"
    if figure == "cls_similarity" and not view.cls_source:
        return "no CLS token"
    if figure in ("border_similarity", "border_drop"):
        return "no border in the patch grid"
    if figure == "shifted_border_drop":
        drop = values[layer, view.figure.index("border_drop")] if "border_drop" in view.figure else np.nan
        return "no shifted mask beside the lesion" if np.isfinite(drop) else "no border in the patch grid"
    if figure in ("inside_similarity", "outside_similarity"):
        return f"no neighbours {figure.removesuffix('_similarity')} the mask"
    if figure == "map_correlation":
        return "a map without contrast"
    return "undefined"


def images_with_mask(scores: TokenScores) -> NDArray[np.bool_]:
    """(N,), images that have a lesion mask, whether or not any of its figures is defined."""
    return np.zeros(len(scores.id), dtype=np.bool_) if scores.with_mask is None else scores.with_mask


def not_comparable(scores: TokenScores, view: ViewScores, figure: str) -> str:
    """Why a figure of a view and of the first one have no difference that means anything; empty where they have."""
    if view.view != "other_model":
        return ""
    if figure in _NORMS or (scores.similarity_metric == "dot_product" and figure.endswith(_SIMILARITIES)):
        return "no common unit in two models"
    if figure == "cls_similarity" and view.cls_source != scores.views[0].cls_source:
        return "compared with another kind of token"
    return ""


def reasons(analysis: TokenAnalysis, view: ViewScores, layer: int, figure: str) -> Counter[str]:
    """Why measured images have no value in a cell, and how many."""
    empty = np.flatnonzero(analysis.measured & ~np.isfinite(view.values[:, layer, view.figure.index(figure)]))
    masks = analysis.with_mask
    return Counter(missing_because(view, bool(masks[row]), view.values[row], layer, figure) for row in empty)


def _estimate(means: SampleMeans, cell: tuple[int, ...]) -> Estimate:
    return Estimate(
        value=float(means.mean[cell]),
        lo=float(means.lo[cell]),
        hi=float(means.hi[cell]),
        n=int(means.n[cell]),
        std=float(means.std[cell]),
    )


def _statistics(analysis: TokenAnalysis, view: ViewScores) -> ViewStatistics:
    first = analysis.scores.views[0]
    values, level = view.values[analysis.measured], analysis.settings.level
    means = sample_means(values, analysis.weights, analysis.group, level)
    same_layers = view.layer == first.layer
    difference = np.full(values.shape, np.nan)
    apart: dict[str, str] = {}
    if view is not first:
        both = [figure for figure in view.figure if figure in first.figure]
        apart = {figure: why for figure in both if (why := not_comparable(analysis.scores, view, figure))}
        rows = slice(None) if same_layers else slice(-1, None)
        for column, figure in enumerate(view.figure):
            if figure in both and figure not in apart:
                before = first.values[analysis.measured][:, rows, first.figure.index(figure)]
                difference[:, rows, column] = values[:, rows, column] - before
    paired = _curves(analysis, difference)
    above = {
        figure: _curves(analysis, (values[:, :, [_column(view, figure)]] - values[:, :, [_column(view, control)]]))
        for figure, control in CONTROL_OF.items()
        if figure in view.figure and control in view.figure
    }
    return ViewStatistics(
        view=view.view,
        model=view.model,
        layer=view.layer,
        figure=view.figure,
        means=means,
        difference=paired,
        above_control={figure: _columns(curve, 0) for figure, curve in above.items()},
        same_layers=same_layers,
        flag=_flags(analysis, view, means, paired, same_layers),
        prefix=view.prefix,
        cls_source=view.cls_source,
        not_comparable=apart,
    )


def _column(view: ViewScores, figure: str) -> int:
    return view.figure.index(figure)


def _curves(analysis: TokenAnalysis, values: FloatArray) -> SampleMeans:
    """Means of (n, L, K) with a band over the layers of each of the K figures."""
    settings = analysis.settings
    means = sample_means(values, analysis.weights, analysis.group, settings.level)
    for column in range(values.shape[2]):
        curve = _columns(means, column)
        if (curve.n > 0).sum() > 1:
            curve = surer_together(curve, values[:, :, column], analysis.group, settings.level, settings.seed)
        else:
            curve = surer(curve, settings.level)
        means.lo[:, column], means.hi[:, column] = curve.lo, curve.hi
    return means


def _columns(means: SampleMeans, column: int) -> SampleMeans:
    return SampleMeans(**{name: part[..., column] for name, part in vars(means).items()})


def _flags(
    analysis: TokenAnalysis, view: ViewScores, means: SampleMeans, difference: SampleMeans, same_layers: bool
) -> list[list[str]]:
    first = analysis.scores.views[0]

    def flag(layer: int, column: int) -> str:
        figure, cell = view.figure[column], (layer, column)
        why = reasons(analysis, view, layer, figure)
        n, units = int(means.n[cell]), int(means.units[cell])
        if n == 0:
            return "; ".join(why) or "no image was measured"
        parts = [f"{count} {_images(count)} left out: {reason}" for reason, count in why.items()]
        if units < 2:
            parts.append(f"one {analysis.unit}: no interval")
        elif units < FEW_UNITS:
            parts.append(f"fewer than {FEW_UNITS} {analysis.unit}s: interval is rough")
        if view is not first and figure in first.figure:
            compared = int(difference.n[cell])
            if apart := not_comparable(analysis.scores, view, figure):
                parts.append(f"no difference: {apart}")
            elif not same_layers and layer < len(view.layer) - 1:
                parts.append(f"no difference: not the layers of {first.view}")
            elif not compared:
                parts.append(f"no difference: no image has a value in {first.view}")
            else:
                parts += (
                    []
                    if same_layers
                    else [f"difference between the last layers, that of {first.view}: {first.layer[-1]}"]
                )
                parts += [f"difference over {compared} {_images(compared)}"] if compared < n else []
        return "; ".join(parts)

    return [[flag(layer, column) for column in range(len(view.figure))] for layer in range(len(view.layer))]


def _images(count: int) -> str:
    return "image" if count == 1 else "images"

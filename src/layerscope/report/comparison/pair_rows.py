"""Rows of pairwise.csv: every candidate against every other on the same images, corrected within families."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from layerscope.functional.contrasts import CANNOT_BE_TOLD, outcome
from layerscope.functional.scored_labels import FloatArray
from layerscope.report.comparison.common_ground import (
    Candidate,
    CommonGround,
    auroc_at,
    influences,
    minus_real,
    quality,
    quality_estimate,
)
from layerscope.report.comparison.estimation import (
    Estimated,
    Family,
    from_images,
    from_resamples,
)
from layerscope.report.comparison.protocol import CURVE_PROTOCOL, OTHER_NOISE, STEP_PROTOCOL, differing, same_noise
from layerscope.report.comparison.result import HIGHER_IS_BETTER, REAL, RECON, SEED_FLAGS
from layerscope.report.comparison.run_figures import AGREEMENT, QUALITY, stacked
from layerscope.report.rows import MACRO, MANY_UNDEFINED, Row
from layerscope.report.saturation import SATURATED_FLAG

BEYOND = "both beyond what was measured: a difference there is not seen"
_BOUNDED = {"auroc", "ap", "flip_rate", "negative_flip_rate", "mean_abs_delta_p"}
"""Metrics whose differences lie within -1 and 1."""


@dataclass(frozen=True)
class _Asked:
    """One difference: a column of what was estimated, and what its words depend on.

    column: among the labels and the macro average. saturated, at: of ``CommonGround.widened``. doubt: why it decides
    nothing.
    """

    one: Candidate
    other: Candidate
    metric: str
    condition: str
    label: str
    estimated: Estimated
    place: int
    column: int
    flags: Sequence[str]
    doubt: str = ""
    margin: float | None = None
    saturated: np.ndarray | None = None
    at: FloatArray | None = None

    def ends(self, ground: CommonGround, ends: tuple[float, float], level: float) -> tuple[float, float]:
        """An interval, widened where no sample moved, within what the metric allows."""
        if self.saturated is not None and self.at is not None:
            ends = ground.widened(
                float(self.estimated.value[self.place]), ends, self.column, self.saturated, self.at, level
            )
        return (max(ends[0], -1.0), min(ends[1], 1.0)) if self.metric in _BOUNDED else ends


def pair_rows(ground: CommonGround, candidates: Sequence[Candidate], baseline: str | None) -> list[Row]:
    """Differences ``candidate`` minus ``other``; with a baseline, ``other`` is the baseline in all its pairs."""
    families: dict[str, list[_Asked]] = {}
    for one, other in _pairs(candidates, baseline):
        among = "all pairs" if baseline is None else f"pairs with {baseline}"
        if baseline is not None and baseline not in (one.side.candidate, other.side.candidate):
            among = f"pairs without {baseline}"
        for asked in _asked(ground, one, other):
            families.setdefault(f"{_subject(asked)}, {among}", []).append(asked)
    return [row for family, members in families.items() for row in _family_rows(ground, family, members)]


def _pairs(candidates: Sequence[Candidate], baseline: str | None) -> list[tuple[Candidate, Candidate]]:
    pairs = list(combinations(candidates, 2))
    turned = [(b, a) if a.side.candidate == baseline else (a, b) for a, b in pairs]
    return sorted(turned, key=lambda pair: baseline is not None and pair[1].side.candidate != baseline)


def _subject(asked: _Asked) -> str:
    """What a family is about: one metric at one place, or AUROC of all labels, or at all noise steps."""
    if asked.condition not in ("", RECON, REAL):
        return f"{asked.metric} macro at all noise steps"
    at = f" at {asked.condition}" if asked.condition else ""
    if asked.label not in ("", MACRO):
        return f"{asked.metric} of all labels{at}"
    return f"{asked.metric}{' macro' if asked.label else ''}{at}"


def _asked(ground: CommonGround, one: Candidate, other: Candidate) -> Iterator[_Asked]:
    bottleneck = one.figures[0].run.kind == "bottleneck"
    main = RECON if bottleneck else REAL
    yield from _auroc(ground, one, other, main)
    yield _average_precision(ground, one, other, main)
    if not bottleneck:
        return
    macro = len(ground.labels)
    ours, theirs = ([stacked([run.agreement[m] for m in AGREEMENT]) for run in each.figures] for each in (one, other))
    found = from_images(one.side, ours, ground.sampling, other.side, theirs)
    for place, metric in enumerate(AGREEMENT):
        yield _Asked(one, other, metric, RECON, MACRO, found, place, macro, ())
    for metric in QUALITY:
        values, others = quality(one, metric), quality(other, metric)
        if values is not None and others is not None:
            found = quality_estimate(one, values, ground.sampling, other, others)
            flag = "" if np.isfinite(found.value[0]) else "infinite: reconstructions equal to their originals"
            yield _Asked(one, other, metric, RECON, "", found, 0, macro, (flag,))
    runs = [run.run for each in (one, other) for run in each.figures]
    noise_flag = OTHER_NOISE if differing(runs, ["latent_shape"]) else ""
    if not differing(runs, STEP_PROTOCOL):
        yield from _noise_steps(ground, one, other, noise_flag)
    if not differing(runs, CURVE_PROTOCOL):
        yield from _curves(ground, one, other, noise_flag)


def _auroc(ground: CommonGround, one: Candidate, other: Candidate, condition: str) -> Iterator[_Asked]:
    """The difference of what both lose; classifiers lose nothing, and AUROC itself is held against AUROC."""
    lost = condition != REAL
    ours, theirs = (influences(each, condition, lost) for each in (one, other))
    found = from_images(one.side, ours, ground.sampling, other.side, theirs)
    saturated = ground.saturated(one, condition, other)
    for k in range(len(ground.names)):
        yield _asked_auroc(ground, one, other, condition, found, k, k, saturated)


def _noise_steps(ground: CommonGround, one: Candidate, other: Candidate, flag: str) -> Iterator[_Asked]:
    """The macro average at every step that both have, where that is one noise."""
    runs = [*one.figures, *other.figures]
    steps = [name for name, where in runs[0].conditions.items() if where.kind == "noise"]
    steps = [name for name in steps if all(name in run.conditions for run in runs)]
    steps = [name for name in steps if same_noise([run.conditions[name] for run in runs])]
    if steps:
        ours, theirs = ([stacked([run.delta[step] for step in steps]) for run in each.figures] for each in (one, other))
        found = from_images(one.side, ours, ground.sampling, other.side, theirs)
        for place, step in enumerate(steps):
            saturated = ground.saturated(one, step, other)
            yield _asked_auroc(ground, one, other, step, found, place, len(ground.labels), saturated, flag)


def _asked_auroc(
    ground: CommonGround,
    one: Candidate,
    other: Candidate,
    condition: str,
    found: Estimated,
    place: int,
    k: int,
    saturated: np.ndarray,
    flag: str = "",
) -> _Asked:
    doubt, macro = ground.doubt(k), k == len(ground.labels)
    unspread = SATURATED_FLAG if not macro and saturated[k] else ""
    return _Asked(
        one,
        other,
        "auroc",
        condition,
        ground.names[k],
        found,
        place,
        k,
        (flag, doubt, unspread, "" if doubt else ground.unrecognised[k]),
        doubt,
        ground.settings.margin_macro if macro else ground.settings.margin_label,
        saturated,
        auroc_at(other, condition),
    )


def _average_precision(ground: CommonGround, one: Candidate, other: Candidate, condition: str) -> _Asked:
    lost = [
        [run.ap[REAL] for run in each.figures] if condition == REAL else minus_real(each.figures, condition)
        for each in (one, other)
    ]
    found = from_resamples(one.side, lost[0], ground.sampling, other.side, lost[1])
    macro = len(ground.labels)
    doubt = ground.doubt(macro)
    return _Asked(one, other, "ap", condition, MACRO, found, macro, macro, (doubt,), doubt)


def _curves(ground: CommonGround, one: Candidate, other: Candidate, noise_flag: str) -> Iterator[_Asked]:
    """Differences of the retained area, and of the collapse point within the range that all were measured over."""
    macro = len(ground.labels)
    doubt = ground.doubt(macro)
    areas = [[ground.areas[run.run.path] for run in each.figures] for each in (one, other)]
    if ground.common_range is None:
        return
    found = from_images(
        one.side, [area for area, _ in areas[0]], ground.sampling, other.side, [area for area, _ in areas[1]]
    )
    whys = [why for side in areas for _, why in side]
    yield _Asked(one, other, "retained_area", "", MACRO, found, 0, macro, (noise_flag, doubt, *whys), doubt)
    points = [[point for run in each.figures if (point := ground.collapse(run))] for each in (one, other)]
    points = [[point.column(macro) for point in side] for side in points]
    found = from_resamples(one.side, points[0], ground.sampling, other.side, points[1], recentred=False)
    ends = [point.value[0] in ground.common_range for side in points for point in side]
    same = len({float(point.value[0]) for side in points for point in side}) == 1
    flag = BEYOND if all(ends) and same else ""
    yield _Asked(one, other, "collapse_log_snr_eff", "", MACRO, found, 0, macro, (noise_flag, doubt, flag), doubt)


def _family_rows(ground: CommonGround, family: str, members: Sequence[_Asked]) -> Iterator[Row]:
    level = ground.settings.level
    cells = [(asked.estimated, asked.place) for asked in members]
    together = Family(cells, level, ground.settings.seed)
    for asked in members:
        estimated, k = asked.estimated, asked.place
        p = together.adjusted_p(estimated, k)
        lo, hi = asked.ends(ground, (float(estimated.lo[k]), float(estimated.hi[k])), level)
        sim_lo, sim_hi = asked.ends(ground, together.interval(estimated, k), 1 - (1 - level) / max(together.size, 1))
        words = outcome(
            sim_lo,
            sim_hi,
            p,
            asked.margin,
            HIGHER_IS_BETTER[asked.metric],
            level,
            "no change of ranking" if asked.metric in ("auroc", "ap") else "no difference shown",
        )
        unmoved = sim_lo == sim_hi == 0
        if (asked.doubt and not unmoved) or (_blind(ground, asked) and not words.startswith(("better", "worse"))):
            words = CANNOT_BE_TOLD
        seeds = min(len(each.figures) for each in (asked.one, asked.other))
        share = estimated.undefined[k]
        flags = [
            *asked.flags,
            f"{100 * share:.0f} % of resamples undefined" if share > MANY_UNDEFINED else "",
            SEED_FLAGS.get(seeds, ""),
        ]
        yield {
            "candidate": asked.one.side.candidate,
            "other": asked.other.side.candidate,
            "condition": asked.condition,
            "label": asked.label,
            "metric": asked.metric,
            "family": family,
            "difference": float(estimated.value[k]),
            "ci_lo": lo,
            "ci_hi": hi,
            "ci_sim_lo": sim_lo,
            "ci_sim_hi": sim_hi,
            "p": float(estimated.p[k]),
            "p_adjusted": p,
            "outcome": words,
            "flag": "; ".join(dict.fromkeys(filter(None, flags))),
        }


def _blind(ground: CommonGround, asked: _Asked) -> bool:
    """Whether the teacher is so near chance on real images that nothing could be lost."""
    return asked.metric == "auroc" and asked.condition != REAL and bool(ground.unrecognised[asked.column])

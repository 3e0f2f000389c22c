"""Rows of comparison.csv: what each candidate loses, keeps and costs."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from layerscope.functional.collapse import collapse_interval
from layerscope.report.collapse import AT_OR_ABOVE
from layerscope.report.comparison.common_ground import (
    Candidate,
    CommonGround,
    auroc_at,
    influences,
    minus_real,
    quality,
    quality_estimate,
    states,
)
from layerscope.report.comparison.estimation import Estimated, from_images, from_resamples, own_auroc
from layerscope.report.comparison.noise_curves import censored, finite_steps
from layerscope.report.comparison.protocol import device_of_times
from layerscope.report.comparison.result import HIGHER_IS_BETTER, REAL, RECON
from layerscope.report.comparison.run_figures import AGREEMENT, QUALITY, RunFigures
from layerscope.report.comparison.runs import ComparedRun
from layerscope.report.rows import MACRO, MANY_UNDEFINED, Row
from layerscope.report.saturation import SATURATED_FLAG

SIZES = ("latent_elements", "latent_bits", "rate_bits")
TIMES = ("encode_seconds", "decode_seconds")
_KEY = "key"
"""Entry of a row until ranks are given: what it is ranked by, where that is not its value."""

_PROBABILITY, _CHANGE = (0.0, 1.0), (-1.0, 1.0)
_ANY = (-math.inf, math.inf)
_QUALITY = {"psnr_db": _ANY, "ssim": _CHANGE, "lpips": (0.0, math.inf)}


def candidate_rows(ground: CommonGround, candidate: Candidate, run: str = "", same_device: bool = True) -> list[Row]:
    """All rows of a candidate, or of one run of it that stands alone in ``candidate``."""
    rows = _Rows(ground, candidate, run)
    if candidate.figures[0].run.kind == "bottleneck":
        rows.bottleneck(same_device)
    else:
        rows.classifier()
    return rows.found


def rank(rows: Sequence[Row], unranked_steps: Collection[str]) -> None:
    """Fills ``rank`` of candidates' rows in place; equal values share the better rank.

    unranked_steps: names of noise steps that are not the same noise in all runs, and get no rank.
    """
    places: dict[tuple[str, str, str], list[tuple[float, Row]]] = {}
    for row in rows:
        key = row.pop(_KEY)
        if row["run"] == "" and not math.isnan(key) and row["condition"] not in unranked_steps:
            # Sums in another order differ in the last digits.
            rounded = float(f"{key:.12g}")
            places.setdefault((row["metric"], row["label"], row["condition"]), []).append((rounded, row))
    for (metric, *_), members in places.items():
        sign = -1 if HIGHER_IS_BETTER[metric] else 1
        for key, row in members:
            row["rank"] = 1 + sum(sign * other < sign * key for other, _ in members)


class _Rows:
    """Gathers the rows of one candidate."""

    def __init__(self, ground: CommonGround, candidate: Candidate, run: str) -> None:
        self.ground, self.candidate, self.run = ground, candidate, run
        self.found: list[Row] = []

    def bottleneck(self, same_device: bool) -> None:
        """Losses at recon and at the noise steps, agreement, noise, quality, cost."""
        every = range(len(self.ground.names))
        for condition in self._common_conditions():
            columns = every if condition == RECON else [len(self.ground.labels)]
            found = own_auroc(self.candidate.side, influences(self.candidate, condition), self.ground.sampling)
            self._columns("auroc", condition, found, columns, _PROBABILITY)
            self._delta_auroc(condition, columns)
        self._average_precision(RECON)
        for metric in AGREEMENT:
            found = from_images(
                self.candidate.side, [run.agreement[metric] for run in self.candidate.figures], self.ground.sampling
            )
            why = "undefined: no threshold" if math.isnan(found.value[0]) else ""
            self._add(metric, RECON, MACRO, found, 0, _PROBABILITY, why)
        self._noise()
        for metric in QUALITY:
            self._quality(metric)
        self._cost(same_device)

    def classifier(self) -> None:
        """AUROC and average precision on real images."""
        found = own_auroc(self.candidate.side, influences(self.candidate, REAL), self.ground.sampling)
        self._columns("auroc", REAL, found, range(len(self.ground.names)), _PROBABILITY)
        self._average_precision(REAL)

    def _common_conditions(self) -> list[str]:
        """Conditions of all runs, recon first."""
        runs = self.candidate.figures
        return [name for name in runs[0].conditions if name != REAL and all(name in run.conditions for run in runs)]

    def _delta_auroc(self, condition: str, columns: Sequence[int]) -> None:
        ground, candidate = self.ground, self.candidate
        found = from_images(candidate.side, influences(candidate, condition, real=True), ground.sampling)
        saturated, at = ground.saturated(candidate, condition), auroc_at(candidate, REAL)
        for k in columns:
            place = k if len(found.value) > 1 else 0
            own = float(found.lo[place]), float(found.hi[place])
            ends = ground.widened(float(found.value[place]), own, k, saturated, at, ground.settings.level)
            flag = SATURATED_FLAG if k < len(saturated) and saturated[k] else ""
            self._add("delta_auroc", condition, ground.names[k], found, place, _CHANGE, ground.flag(k), flag, ends=ends)

    def _average_precision(self, condition: str) -> None:
        runs, ground = self.candidate.figures, self.ground
        every = range(len(ground.names))
        own = from_resamples(self.candidate.side, [run.ap[condition] for run in runs], ground.sampling)
        self._columns("ap", condition, own, every, _PROBABILITY)
        if condition != REAL:
            lost = from_resamples(self.candidate.side, minus_real(runs, condition), ground.sampling)
            self._columns("delta_ap", condition, lost, every, _CHANGE)

    def _noise(self) -> None:
        ground, candidate = self.ground, self.candidate
        if all(run.curve is not None for run in candidate.figures):
            for k, name in enumerate(ground.names):
                self._collapse(k, name)
            found = [ground.areas[run.run.path] for run in candidate.figures]
            area = from_images(candidate.side, [one for one, _ in found], ground.sampling)
            self._add("retained_area", "", MACRO, area, 0, _ANY, ground.flag(len(ground.labels)), found[0][1])

    def _collapse(self, k: int, name: str) -> None:
        ground, candidate = self.ground, self.candidate
        words, placed = states(candidate, k)
        curves = [run.curve for run in candidate.figures if run.curve is not None]
        value, ends, sd = math.nan, (math.nan, math.nan), math.nan
        if len(curves) == 1:
            value = float(curves[0].point[k])
            interval = collapse_interval(
                curves[0].sample_state[:, k], curves[0].sample_point[:, k], ground.settings.level
            )
            if not words.startswith("undefined"):
                ends = interval.lo, interval.hi
            if placed and value >= finite_steps(curves[0]).max():
                words = AT_OR_ABOVE
        elif placed:
            value = float(np.mean([curve.point[k] for curve in curves]))
            found = [ground.collapse(run) for run in candidate.figures]
            if ground.common_range is not None:
                both = from_resamples(
                    candidate.side, [one for one in found if one is not None], ground.sampling, recentred=False
                )
                # Around the mean of the points as they are; the resamples are held to the common range.
                ends = (value - float(both.value[k] - both.lo[k]), value + float(both.hi[k] - both.value[k]))
                sd = float(np.std([curve.point[k] for curve in curves], ddof=1))
        ordered = np.array([curve.ordered()[0][k] for curve in curves])
        if ground.common_range is not None:
            # As in pairs: a point beyond what another run was measured over is not known to be better or worse there.
            ordered = censored(ordered, *ground.common_range)
        elif np.isinf(ordered).any() and len(set(ordered)) > 1:
            # Not all runs reach a point: they are placed by the ends of what was measured.
            steps = np.concatenate([finite_steps(curve) for curve in curves])
            ordered = np.clip(ordered, steps.min(), steps.max())
        key = float(np.mean(ordered))
        flag = ground.truth.reason(k) if k < len(ground.labels) and ground.truth.reason(k) else words
        self._row("collapse_log_snr_eff", "", name, value, *ends, sd, flag, ground.flag(k), key=key)

    def _quality(self, metric: str) -> None:
        values = quality(self.candidate, metric)
        if values is None:
            return
        found = quality_estimate(self.candidate, values, self.ground.sampling)
        equal = sum(int(np.isinf(one).any(axis=1).sum()) for one in values)
        flag = f"infinite: {equal} reconstructions are equal to their originals" if equal else ""
        self._add(metric, RECON, "", found, 0, _QUALITY[metric], flag)

    def _cost(self, same_device: bool) -> None:
        runs = [run.run for run in self.candidate.figures]
        for metric in (*SIZES, *TIMES):
            values = [value for run in runs if math.isfinite(value := cost(run, metric))]
            if not values:
                continue
            mean = float(np.mean(values))
            sd = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
            flag, key = "", mean
            if metric in TIMES and not same_device:
                flag = f"on {device_of_times(runs[0]) or 'an unknown device'}: devices differ between runs"
                key = math.nan
            self._row(metric, "", "", mean, math.nan, math.nan, sd, flag, key=key, n_runs=len(values))

    def _columns(
        self, metric: str, condition: str, found: Estimated, columns: Sequence[int], bounds: tuple[float, float]
    ) -> None:
        for k in columns:
            place = k if len(found.value) > 1 else 0
            self._add(metric, condition, self.ground.names[k], found, place, bounds, self.ground.flag(k))

    def _add(
        self,
        metric: str,
        condition: str,
        label: str,
        found: Estimated,
        k: int,
        bounds: tuple[float, float],
        *flags: str,
        ends: tuple[float, float] | None = None,
    ) -> None:
        lo, hi = ends or (float(found.lo[k]), float(found.hi[k]))
        share = found.undefined[k]
        many = f"{100 * share:.0f} % of resamples undefined"
        flags = (*flags, many if share > MANY_UNDEFINED and math.isfinite(found.value[k]) else "")
        value, sd = float(found.value[k]), float(found.seed_sd[k])
        self._row(metric, condition, label, value, max(lo, bounds[0]), min(hi, bounds[1]), sd, *flags)

    def _row(
        self,
        metric: str,
        condition: str,
        label: str,
        value: float,
        lo: float,
        hi: float,
        sd: float,
        *flags: str,
        key: float | None = None,
        n_runs: int | None = None,
    ) -> None:
        runs = self.candidate.figures
        self.found.append(
            {
                "candidate": self.candidate.side.candidate,
                "run": self.run,
                "condition": condition,
                "log_snr_eff": _log_snr_eff(runs, condition),
                "label": label,
                "metric": metric,
                "value": value,
                "ci_lo": lo,
                "ci_hi": hi,
                "n_runs": len(runs) if n_runs is None else n_runs,
                "seed_sd": sd,
                "rank": None,
                "flag": "; ".join(dict.fromkeys(filter(None, flags))),
                _KEY: value if key is None else key,
            }
        )


def _log_snr_eff(runs: Sequence[RunFigures], condition: str) -> float:
    if condition in ("", REAL):
        return math.nan
    return float(np.mean([run.conditions[condition].log_snr_eff for run in runs]))


def cost(run: ComparedRun, metric: str) -> float:
    """A figure of the summary's costs; NaN where the run does not say it."""
    record: Mapping[str, Any] = run.summary.get("cost") or {}
    value = record.get(metric)
    if value is None and metric == "latent_elements":
        shape = (run.summary.get("noise") or {}).get("latent_shape")
        value = math.prod(shape) if shape else None
    return math.nan if value is None else float(value)

"""Result files of a pair diagnosis as plain rows and records: per pair, over all pairs, and the summary."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from layerscope.artifacts import Headline, to_plain
from layerscope.artifacts.layer_scores import DIFFERENCES, LOCALISATION, SIZE_FREE, FloatArray, LayerScores
from layerscope.report.attribution import NOTICE, Attribution, attribute
from layerscope.report.layer_cka import cka_not_measured
from layerscope.report.layer_effects import RANKED_METRICS, LayerAnalysis, Method, Ranking, watched
from layerscope.report.layer_localisation import exclusion, without_positions
from layerscope.report.layer_names import repeated_layers
from layerscope.report.noise_floor import floor_relative_l2
from layerscope.report.sample_means import SampleMeans, sample_means

_JSON_NAMES = {"l2": "l2_value", "cosine_dissimilarity": "cosine_value"}
_LEFT_OUT: dict[Method, tuple[str, ...]] = {"l2": ("cosine_dissimilarity",), "cosine": ("l2",), "both": ()}


def layer_json(scores: LayerScores, pair: int, method: Method = "both") -> dict[str, Any]:
    """layer_differences.json of one pair (a row of the scores): layer name to its figures, in order of computation.

    cosine_value is the dissimilarity. floor_relative_l2, the mean over the floor's pairs, is there if there is a floor.
    sqnr_db is None with ``"identical": True`` where both images give the same.
    """
    values = scores.values[pair]
    if np.isnan(values).all():
        raise ValueError(f"pair {pair} ({scores.id[pair]}) was skipped and has no differences")
    floor = floor_relative_l2(scores)
    record: dict[str, Any] = {}
    for row, name in enumerate(scores.layer):
        cells = {metric: values[row, column] for column, metric in enumerate(DIFFERENCES)}
        layer = {
            _JSON_NAMES.get(metric, metric): value for metric, value in cells.items() if metric not in _LEFT_OUT[method]
        }
        if len(scores.floor):
            layer["floor_relative_l2"] = floor[row]
        if np.isposinf(cells["sqnr_db"]):
            layer["identical"] = True
        layer["shape"] = [1, *scores.shape[row]]
        if not np.isnan(scores.mask_fraction[pair]):
            layer |= _figures(scores, pair, row)
        record[name] = layer
    return dict(to_plain(record))


def aggregated_json(analysis: LayerAnalysis) -> dict[str, Any]:
    """aggregated_results.json: per layer and metric mean, spread, floor and effect; CKA, pooled figures, localisation.

    None where a figure is undefined; each metric's "flag" says why. "localisation" is there if any pair has a mask
    and a shifted one beside it; its figures are over such pairs alone.
    """
    scores, table = analysis.scores, analysis.differences
    extra = _extra_means(analysis)
    record: dict[str, Any] = {}
    for row, name in enumerate(scores.layer):
        layer: dict[str, Any] = {}
        for column, metric in enumerate(DIFFERENCES):
            cell = (row, column)
            layer[metric] = {
                "mean": table.pairs.mean[cell],
                "std": table.pairs.std[cell],
                "n": table.pairs.n[cell],
                "ci_lo": table.pairs.lo[cell],
                "ci_hi": table.pairs.hi[cell],
                "floor_mean": table.floor.mean[cell],
                "floor_std": table.floor.std[cell],
                "floor_n": table.floor.n[cell],
                "effect": table.effect[cell],
                "effect_ci_lo": table.effect_lo[cell],
                "effect_ci_hi": table.effect_hi[cell],
                "flag": table.flag[row][column],
            }
        cka = analysis.cka
        layer["linear_cka"] = {
            "value": cka.value[row],
            "ci_lo": cka.lo[row],
            "ci_hi": cka.hi[row],
            "groups": cka.groups[row],
            "flag": cka.flag[row],
        }
        layer["shape"] = [1, *scores.shape[row]]
        layer["module"] = scores.module[row]
        pooled = dict(zip(DIFFERENCES, scores.pooled[row]))
        layer["pooled"] = {**pooled, "identical": True} if np.isposinf(pooled["sqnr_db"]) else pooled
        if analysis.localisation.measured:
            layer["localisation"] = _localisation(analysis, row)
        for column, metric in enumerate(scores.extra):
            layer[metric] = _cells(extra, row, column)
        record[name] = layer
    return dict(to_plain(record))


def pair_rows(scores: LayerScores) -> Iterator[dict[str, Any]]:
    """Rows of pairs.csv: one value of one metric of one layer of one pair, then of the floor's pairs.

    A skipped pair is one row without layer and value whose flag gives the reason.
    """
    reasons = dict(scores.skipped)
    for pair, name in enumerate(scores.id):
        if name not in reasons:
            yield from _value_rows(scores, name, "pair", scores.values[pair])
            for metric, extra in scores.extra.items():
                for layer, value in zip(scores.layer, extra[pair]):
                    cells = {"layer": layer, "metric": metric, "value": float(value), "flag": ""}
                    yield {"id": name, "role": "pair", **cells}
    for name, values in zip(scores.floor_id, scores.floor):
        yield from _value_rows(scores, name, "floor", values)
    for name, reason in reasons.items():
        yield {"id": name, "role": "pair", "layer": "", "metric": "", "value": np.nan, "flag": f"skipped: {reason}"}


def localisation_rows(scores: LayerScores) -> Iterator[dict[str, Any]]:
    """Rows of localisation.csv: the figures of one layer of one pair; nothing where no pair has a mask.

    A pair that is left out in every layer is one row without a layer; its flag says why.
    """
    if np.isnan(scores.mask_fraction).all():
        return
    reasons = dict(scores.skipped)
    positions = ~without_positions(scores)
    for pair, name in enumerate(scores.id):
        share = float(scores.mask_fraction[pair])
        why = f"skipped: {reasons[name]}" if name in reasons else ""
        if not why and not 0 < share < 1:
            why = exclusion(share, scores.localisation[pair, 0])
        if why:
            yield {"id": name, "layer": "", "mask_fraction": share, "flag": why}
            continue
        for row, layer in enumerate(scores.layer):
            yield {
                "id": name,
                "layer": layer,
                "mask_fraction": share,
                **{figure: float(value) for figure, value in _figures(scores, pair, row).items()},
                "flag": exclusion(share, scores.localisation[pair, row], bool(positions[row])),
            }


def summary_of(analysis: LayerAnalysis, attribution: Attribution | None = None) -> dict[str, Any]:
    """The headline part of summary.json: ranking, top five by every metric, attribution, counts, what is missing."""
    scores, table, ranking = analysis.scores, analysis.differences, analysis.ranking
    attribution = attribution or attribute(analysis)
    column = DIFFERENCES.index(ranking.metric)
    by_effect = ranking.statistic == "effect"
    value, lo, hi = (
        (table.effect, table.effect_lo, table.effect_hi)
        if by_effect
        else (table.pairs.mean, table.pairs.lo, table.pairs.hi)
    )
    ranked = [
        {
            "layer": scores.layer[row],
            "value": value[row, column],
            "ci_lo": lo[row, column],
            "ci_hi": hi[row, column],
            "mean": table.pairs.mean[row, column],
            "floor_mean": table.floor.mean[row, column],
        }
        for row in ranking.layers
    ]
    names = {metric: [scores.layer[row] for row in analysis.top(metric)] for metric in RANKED_METRICS}
    effects = {
        f"effect_{metric}": [scores.layer[row] for row in analysis.order(metric, "effect")[:5]] for metric in SIZE_FREE
    }
    localisation = analysis.localisation
    return dict(
        to_plain(
            {
                "headline": _headline(ranking, ranked),
                "ranking": {
                    "metric": ranking.metric,
                    "statistic": ranking.statistic,
                    "fallback": ranking.fallback or None,
                    "level": analysis.settings.level,
                    "layers": ranked,
                },
                "top5": {metric: layers for metric, layers in {**effects, **names}.items() if layers},
                "attribution": {
                    "sentence": attribution.sentence,
                    "encoder": attribution.encoder,
                    "steps": attribution.steps,
                },
                "interpretation": attribution.interpretation,
                "notice": NOTICE,
                "counts": {
                    "pairs": analysis.n_pairs,
                    "skipped": len(scores.skipped),
                    "patients": None if scores.group is None else analysis.n_units,
                    "floor_pairs": len(scores.floor),
                    "floor_kind": scores.floor_kind,
                    "layers": len(watched(scores.layer)),
                    "cka_groups": len(scores.cka_hsic),
                    "cka_groups_lost": scores.cka_possible - len(scores.cka_hsic),
                    "localised_pairs": int(localisation.mask.n.max(initial=0)),
                    "without_shifted_mask": localisation.no_control,
                    "without_mask": localisation.no_mask,
                    "empty_mask": localisation.empty_mask,
                    "mask_covers_image": localisation.whole_mask,
                },
                "not_measured": _not_measured(analysis),
            }
        )
    )


def _headline(ranking: Ranking, ranked: list[dict[str, Any]]) -> Headline:
    """Of the most different layer what layers are ranked by."""
    by = f"effect of {ranking.metric}" if ranking.statistic == "effect" else f"mean {ranking.metric}"
    if not ranked:
        return Headline(by)
    first = ranked[0]
    return Headline(f"{by} in {first['layer']}", first["value"], first["ci_lo"], first["ci_hi"])


def _figures(scores: LayerScores, pair: int, row: int) -> dict[str, float]:
    figures = dict(zip(LOCALISATION, scores.localisation[pair, row]))
    return figures | {f"shifted_{name}": value for name, value in zip(LOCALISATION, scores.control[pair, row])}


def _value_rows(scores: LayerScores, name: str, role: str, values: FloatArray) -> Iterator[dict[str, Any]]:
    for row, layer in enumerate(scores.layer):
        for column, metric in enumerate(DIFFERENCES):
            value = float(values[row, column])
            flag = {np.inf: "identical", -np.inf: "no signal"}.get(value, "")
            # An infinite value would be text to a spreadsheet; the flag says what it is.
            shown = np.nan if flag else value
            yield {"id": name, "role": role, "layer": layer, "metric": metric, "value": shown, "flag": flag}


def _extra_means(analysis: LayerAnalysis) -> SampleMeans:
    """Of a user's own metrics, (L, E)."""
    scores = analysis.scores
    values = np.stack(list(scores.extra.values()), axis=-1) if scores.extra else np.zeros((*scores.values.shape[:2], 0))
    return sample_means(values[analysis.measured], analysis.weights, analysis.group, analysis.settings.level)


def _cells(means: SampleMeans, row: int, column: int, prefix: str = "") -> dict[str, Any]:
    return {
        f"{prefix}mean": means.mean[row, column],
        f"{prefix}ci_lo": means.lo[row, column],
        f"{prefix}ci_hi": means.hi[row, column],
        f"{prefix}n": means.n[row, column],
    }


def _localisation(analysis: LayerAnalysis, row: int) -> dict[str, Any]:
    table = analysis.localisation
    figures: dict[str, Any] = {
        figure: {
            **_cells(table.mask, row, column),
            **_cells(table.shifted, row, column, "shifted_"),
            **_cells(table.difference, row, column, "difference_"),
        }
        for column, figure in enumerate(LOCALISATION)
    }
    return {**figures, "nothing_to_localise": table.nothing[row]}


def _not_measured(analysis: LayerAnalysis) -> list[dict[str, str]]:
    scores, table, localisation = analysis.scores, analysis.differences, analysis.localisation
    missing = [{"what": f"pair {name}", "reason": reason} for name, reason in scores.skipped]
    unranked = sorted(set(watched(scores.layer)) - set(analysis.ranking.layers))
    column = DIFFERENCES.index(analysis.ranking.metric)
    if not analysis.has_floor:
        missing.append({"what": "effects", "reason": "there is no noise floor"})
    elif analysis.ranking.fallback:
        missing.append({"what": "effects", "reason": analysis.ranking.fallback.removeprefix("no effect is defined: ")})
    if unranked:
        names = ", ".join(scores.layer[row] for row in unranked)
        reasons = "; ".join(dict.fromkeys(table.flag[row][column] for row in unranked if table.flag[row][column]))
        missing.append({"what": f"rank of {names}", "reason": reasons or "no value"})
    if repeated := repeated_layers(scores.layer):
        reason = "they were called several times in a pass, and each call may see another part of the image"
        missing.append({"what": f"stages and thirds of {', '.join(repeated)}", "reason": reason})
    if analysis.n_units < 2:
        unit = "pair" if scores.group is None else "patient"
        missing.append({"what": "intervals", "reason": f"fewer than two {unit}s were measured"})
    if scores.group is None and analysis.n_pairs > 1:
        reason = "the data names no groups (patients); pairs are taken as independent, intervals may be too narrow"
        missing.append({"what": "clustered intervals", "reason": reason})
    missing += cka_not_measured(scores, analysis.cka)
    if table.identical.any():
        most = int(table.identical[:, DIFFERENCES.index("sqnr_db")].max())
        reason = f"up to {most} pairs a layer are identical there, where SQNR is infinite; means leave them out"
        missing.append({"what": "part of sqnr_db", "reason": reason})
    if not localisation.measured:
        if localisation.no_control:
            reason = "of every pair with a usable mask each shifted mask overlaps the lesion, so there is no control"
        else:
            reason = "no pair has a mask" if localisation.no_mask == analysis.n_pairs else "no pair has a usable mask"
        missing.append({"what": "localisation", "reason": reason})
    else:
        left_out = [
            f"{count} {text}"
            for count, text in (
                (localisation.no_mask, "without a mask"),
                (localisation.empty_mask, "with an empty mask"),
                (localisation.whole_mask, "whose mask covers the image"),
                (localisation.no_control, "whose shifted masks all overlap the lesion"),
            )
            if count
        ]
        if left_out:
            missing.append({"what": "localisation of some pairs", "reason": f"pairs {', '.join(left_out)}"})
        if localisation.no_positions.any():
            names = ", ".join(scores.layer[row] for row in np.flatnonzero(localisation.no_positions))
            reason = "their activations have no known positions in the image"
            missing.append({"what": f"localisation in {names}", "reason": reason})
        if localisation.nothing.any():
            names = ", ".join(scores.layer[row] for row in np.flatnonzero(localisation.nothing))
            reason = f"up to {localisation.nothing.max()} pairs have no difference to localise there"
            missing.append({"what": f"part of the localisation in {names}", "reason": reason})
    return missing

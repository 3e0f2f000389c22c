"""Result files of a token diagnosis as plain rows and records: per image, over all images, and the summary."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

from layerscope.artifacts import Headline, to_plain
from layerscope.artifacts.token_scores import TokenScores
from layerscope.report.token_sentences import token_sentences
from layerscope.report.token_statistics import (
    CHANGE,
    CONTROL_OF,
    SIMILARITY,
    Estimate,
    TokenAnalysis,
    ViewStatistics,
    change_ratio,
    images_with_mask,
    missing_because,
    reasons,
)


def image_rows(scores: TokenScores) -> Iterator[dict[str, Any]]:
    """Rows of images.csv: one figure of one layer of one view of one image; the flag says why a value is missing.

    A skipped image is one row without view, layer and figure whose flag gives the reason.
    """
    skipped = dict(scores.skipped)
    masks = images_with_mask(scores).tolist()
    for row, name in enumerate(scores.id):
        if name in skipped:
            continue
        for view in scores.views:
            values = view.values[row]
            for layer, (layer_name, cells) in enumerate(zip(view.layer, values.tolist())):
                for figure, value in zip(view.figure, cells):
                    known = math.isfinite(value)
                    yield {
                        "id": name,
                        "view": view.view,
                        "layer": layer_name,
                        "figure": figure,
                        "value": value if known else math.nan,
                        "flag": "" if known else missing_because(view, masks[row], values, layer, figure),
                    }
    for name, reason in skipped.items():
        yield {"id": name, "view": "", "layer": "", "figure": "", "value": math.nan, "flag": f"skipped: {reason}"}


def aggregate_rows(analysis: TokenAnalysis) -> Iterator[dict[str, Any]]:
    """Rows of aggregate.csv: one figure of one layer of one view over all images.

    The difference is this view's − the first's; in the first view, and for figures that only later views have, that of
    a mask's figure − its control. ``difference_from`` says which. Its interval holds for all layers at once.
    """
    for view in analysis.views:
        for layer, name in enumerate(view.layer):
            for column, figure in enumerate(view.figure):
                mean = view.at(figure, layer)
                difference, source = view.difference_at(figure, layer), analysis.views[0].view
                if not difference.known:
                    difference, source = view.above_control_at(figure, layer), CONTROL_OF.get(figure, "")
                yield {
                    "view": view.view,
                    "layer": name,
                    "figure": figure,
                    "n": mean.n,
                    "mean": mean.value,
                    "std": mean.std,
                    "ci_lo": mean.lo,
                    "ci_hi": mean.hi,
                    "difference": difference.value,
                    "difference_ci_lo": difference.lo,
                    "difference_ci_hi": difference.hi,
                    "difference_from": source if difference.known else "",
                    "flag": view.flag[layer][column],
                }


def token_summary(analysis: TokenAnalysis) -> dict[str, Any]:
    """The part of summary.json that follows from the scores; None where a figure is undefined, its "flag" says why.

    counts; per view the figures of its last layer; the comparison of each later view with the first and with the
    controls; sentences for people; what does not exist and why.
    """
    sentences = token_sentences(analysis)
    record = {
        "headline": _headline(analysis),
        "counts": {
            "images": analysis.n_images,
            "skipped": len(analysis.scores.skipped),
            "patients": None if analysis.group is None else analysis.n_units,
            "layers": len(analysis.views[0].layer) if analysis.views else 0,
        },
        "views": {view.view: _view(view) for view in analysis.views},
        "comparison": {view.view: _comparison(analysis, view) for view in analysis.views[1:]},
        "sentence": " ".join(sentences),
        "sentences": sentences,
        "not_measured": _not_measured(analysis),
    }
    return dict(to_plain(record))


def _headline(analysis: TokenAnalysis) -> Headline:
    """In the last layer: what the first compared view changes; without one, how alike neighbouring tokens are."""
    for view in analysis.compared:
        if (change := view.at(CHANGE)).known:
            return Headline(f"{CHANGE} of {view.view} at {view.layer[-1]}", change.value, change.lo, change.hi)
    if not analysis.views:
        return Headline(SIMILARITY)
    first = analysis.views[0]
    alike = first.at(SIMILARITY)
    return Headline(f"{SIMILARITY} at {first.layer[-1]}", alike.value, alike.lo, alike.hi)


def _view(view: ViewStatistics) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for column, figure in enumerate(view.figure):
        mean = view.at(figure)
        figures[figure] = {**_cells(mean), "std": mean.std, "flag": view.flag[-1][column]}
        if (above := view.above_control_at(figure)).known:
            figures[figure]["above_control"] = _cells(above)
    return {"model": view.model, "layers": len(view.layer), "last_layer": view.layer[-1], "figures": figures}


def _cells(one: Estimate, name: str = "mean") -> dict[str, Any]:
    return {name: one.value, "ci_lo": one.lo, "ci_hi": one.hi, "n": one.n}


def _comparison(analysis: TokenAnalysis, view: ViewStatistics) -> dict[str, Any]:
    record: dict[str, Any] = {"from": analysis.views[0].view, "layers_correspond": view.same_layers}
    if (change := view.at(CHANGE)).known:
        record[CHANGE] = {"layer": view.layer[-1], **_cells(change)}
    if (row := view.largest(CHANGE)) is not None:
        record["largest_token_change"] = {"layer": view.layer[row], **_cells(view.at(CHANGE, row))}
    if not view.is_control:
        record["controls"] = {
            control.view: {
                **_cells(control.at(CHANGE)),
                "ratio": _cells(change_ratio(analysis, view, control), "value"),
            }
            for control in analysis.controls
            if control.at(CHANGE).known
        }
    differences = {
        figure: _cells(view.difference_at(figure), "difference")
        for figure in view.figure
        if view.difference_at(figure).known
    }
    if view.view != "other_model":  # levels of two models are not comparable by themselves
        for figure, found in differences.items():
            sure = [layer for layer in range(len(view.layer)) if view.difference_at(figure, layer).sure]
            found["layers_that_differ"] = [view.layer[layer] for layer in sure]
    record["differences"] = differences
    return record


def _not_measured(analysis: TokenAnalysis) -> list[dict[str, str]]:
    scores = analysis.scores
    missing = [{"what": f"image {name}", "reason": reason} for name, reason in scores.skipped]
    if not analysis.n_images:
        return [*missing, {"what": "all figures", "reason": "no image was measured"}]
    if analysis.n_units < 2:
        missing.append({"what": "intervals", "reason": f"fewer than two {analysis.unit}s were measured"})
    elif analysis.group is None:
        reason = "the data names no groups (patients); images are taken as independent, intervals may be too narrow"
        missing.append({"what": "clustered intervals", "reason": reason})
    for view in analysis.views:
        if view.curve("cls_similarity") is None:
            missing.append({"what": f"cls_similarity of {view.view}", "reason": _no_cls(view)})
    missing += _masks_not_measured(analysis)
    for view in analysis.views[1:]:
        if not view.same_layers:
            reason = f"its layers are not those of {analysis.views[0].view}; the last layers of both are compared"
            missing.append({"what": f"differences of {view.view} in each layer", "reason": reason})
        for reason in dict.fromkeys(view.not_comparable.values()):
            figures = [figure for figure, why in view.not_comparable.items() if why == reason]
            missing.append({"what": f"differences of {view.view}: {', '.join(figures)}", "reason": reason})
        if view.curve(CHANGE) is None:
            reason = "tokens of two models have no common directions" if view.view == "other_model" else "no value"
            missing.append({"what": f"{CHANGE} of {view.view}", "reason": reason})
    if any(view.curve(CHANGE) is not None for view in analysis.compared) and not analysis.controls:
        reason = "no control, such as jpeg_q75, was measured beside it"
        missing.append({"what": f"a measure for {CHANGE}", "reason": reason})
    return missing


def _no_cls(view: ViewStatistics) -> str:
    if view.cls_source:
        return "no image has a value"
    before = ", ".join(f"{name} ({count})" for name, count in Counter(view.prefix).items()) or "no token"
    return (
        f"the model has no CLS token; before its patches: {before}. pooled: true compares with its pooled token, if "
        "it makes one"
    )


def _masks_not_measured(analysis: TokenAnalysis) -> list[dict[str, str]]:
    view, scores = analysis.views[0], analysis.scores.views[0]
    if "border_drop" not in view.figure or view.curve("border_drop") is None:
        why = reasons(analysis, scores, -1, "border_drop") if "border_drop" in view.figure else Counter({"no mask": 1})
        reason = "no image has a mask" if set(why) == {"no mask"} else _counted(why)
        return [{"what": "border_drop", "reason": reason}]
    missing = []
    if why := reasons(analysis, scores, -1, "border_drop"):
        missing.append({"what": "border_drop of some images", "reason": _counted(why)})
    if not view.above_control_at("border_drop").known:
        reason = "no image has a shifted mask beside its lesion"
        missing.append({"what": "control of border_drop", "reason": reason})
    return missing


def _counted(why: Counter[str]) -> str:
    return "; ".join(f"{count} {'image' if count == 1 else 'images'}: {reason}" for reason, count in why.items())

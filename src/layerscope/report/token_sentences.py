"""What a token diagnosis found, in plain English, for the terminal and for summary.json."""

from __future__ import annotations

import math

from layerscope.report.figure_style import percent
from layerscope.report.sample_means import FEW_UNITS
from layerscope.report.sentences import control_in_words, short, significant
from layerscope.report.token_statistics import CHANGE, SIMILARITY, Estimate, TokenAnalysis, ViewStatistics, change_ratio
from layerscope.report.token_views import view_words

_DIGITS = 2


def token_sentences(analysis: TokenAnalysis) -> list[str]:
    """How alike tokens are in the last layer, what a mask's border does, what each compared view changes, how sure.

    Numbers in brackets are intervals.
    """
    if not analysis.n_images or not analysis.views:
        return ["Nothing can be said about the tokens: no image was measured."]
    first = analysis.views[0]
    found = [_alike(analysis, first), _border(analysis, first), _high_norms(first)]
    for view in analysis.compared:
        levels = _two_models if view.view == "other_model" else _differences
        found += [_change(analysis, view), levels(analysis, view)]
    found += [] if analysis.compared else [_change(analysis, view) for view in analysis.controls]
    return [sentence for sentence in [*found, _confidence(analysis)] if sentence]


def view_in_words(view: ViewStatistics) -> str:
    """A view as a phrase: ``the reconstruction``, ``the other model (MODEL)``, ``JPEG at quality 75``."""
    words = view_words(view.view) if view.is_control else f"the {view_words(view.view)}"
    return f"{words} ({view.model})" if view.view == "other_model" else words


def cls_heading(view: ViewStatistics) -> str:
    """What ``cls_similarity`` compares patches with, in a table or figure."""
    return "pooled" if view.cls_source == "pooled" else "CLS"


def norm_in_words(analysis: TokenAnalysis) -> str:
    """``before the final norm`` or after it, where the tokens were taken."""
    return f"{analysis.norm} the final norm"


def similarity_number(analysis: TokenAnalysis, value: float, sign: bool = False) -> str:
    """A similarity or a difference of two: decimals of a cosine, telling digits of a dot product."""
    if analysis.similarity_metric == "cosine":
        return short(value, _DIGITS, sign)
    return f"{'+' * (sign and value > 0)}{significant(value)}"


def _alike(analysis: TokenAnalysis, view: ViewStatistics) -> str:
    neighbours, cls = view.at(SIMILARITY), view.at("cls_similarity")
    parts = []
    if neighbours.known:
        parts.append(f"neighbouring tokens are alike by {_similarity(analysis, neighbours)}")
    if cls.known:
        token = "the pooled token" if view.cls_source == "pooled" else "the CLS token"
        subject = "they are like" if parts else "patch tokens are like"
        parts.append(f"{subject} {token} by {_similarity(analysis, cls)}")
    if not parts:
        return ""
    metric = analysis.similarity_metric.replace("_", " ")
    n = max(neighbours.n, cls.n)
    over = f"mean {metric} over {n} images" if n > 1 else f"mean {metric} in one image"
    return f"At {view.layer[-1]}, {norm_in_words(analysis)}, {' and '.join(parts)} ({over})."


def _border(analysis: TokenAnalysis, view: ViewStatistics) -> str:
    drop, shifted, above = view.at("border_drop"), view.at("shifted_border_drop"), view.above_control_at("border_drop")
    if not drop.known:
        return ""
    text = f"The similarity of neighbours drops by {_similarity(analysis, drop)} at the lesion's border"
    note = "; a negative drop is a rise" if drop.value < 0 else ""
    text += f" ({drop.n} {'image' if drop.n == 1 else 'images'} with a mask{note})"
    if not shifted.known:
        return f"{text}; there are no shifted masks to compare it with."
    text += f", by {similarity_number(analysis, shifted.value)} at shifted borders"
    if math.isfinite(above.lo):
        verdict = "surely more" if above.lo > 0 else "surely less" if above.hi < 0 else "not surely different"
        text += f": {verdict} (difference {_similarity(analysis, above, sign=True)})"
    return f"{text}."


def _high_norms(view: ViewStatistics) -> str:
    share = view.at("high_norm_share")
    if not share.known or share.value == 0:
        return ""
    over = f"mean over {share.n} images" if share.n > 1 else "one image"
    percentage = significant(100 * share.value, _DIGITS)
    return f"At {view.layer[-1]}, {percentage} % of the patch tokens have a high norm ({over})."


def _change(analysis: TokenAnalysis, view: ViewStatistics) -> str:
    change, row = view.at(CHANGE), view.largest(CHANGE)
    if not change.known or row is None:
        return ""
    name = view_in_words(view)
    does = "'s tokens differ by" if view.view == "other" else " changes tokens by"
    text = f"{name[0].upper()}{name[1:]}{does} {_amount(change)} (1 − cosine) at {view.layer[-1]}"
    beside = []
    for control in analysis.controls if not view.is_control else []:
        if (other := control.at(CHANGE)).known:
            ratio = change_ratio(analysis, view, control)
            told = f"; ratio {_amount(ratio)}" if ratio.known else ""
            beside.append(f"{control_in_words(control.view)} by {significant(other.value, _DIGITS)}{told}")
    text += "".join(f", {one}" for one in beside)
    if len(view.layer) > 1 and row < len(view.layer) - 1 and view.at(CHANGE, row).value > 0:
        largest = significant(view.at(CHANGE, row).value, _DIGITS)
        text += f". The mean change is largest at {view.layer[row]} ({largest})"
    return f"{text}."


def _differences(analysis: TokenAnalysis, view: ViewStatistics) -> str:
    difference, first = view.difference_at(SIMILARITY), analysis.views[0]
    if not difference.known:
        return ""
    name, amount = view_in_words(view), _similarity(analysis, difference, sign=True)
    where = f"at {view.layer[-1]}" if view.same_layers else f"at {view.layer[-1]} against {first.layer[-1]}"
    text = f"In {name} the similarity of neighbours differs by {amount} {where}"
    if difference.value == difference.lo == difference.hi == 0:
        return f"In {name} the similarity of neighbours is the same {where}."
    layers = [layer for layer in range(len(view.layer)) if view.difference_at(SIMILARITY, layer).known]
    if len(layers) > 1 and math.isfinite(difference.lo):
        sure = [layer for layer in layers if view.difference_at(SIMILARITY, layer).sure]
        text += f", surely in {len(sure)} of {len(layers)} layers" if sure else ", surely in no layer"
        text += f" ({percent(analysis.settings.level)} band over all layers)"
    return f"{text}."


def _two_models(analysis: TokenAnalysis, view: ViewStatistics) -> str:
    """Both levels and no verdict: those of two models say nothing by themselves."""
    first = analysis.views[0]
    mine, other = view.at(SIMILARITY), first.at(SIMILARITY)
    if not (mine.known and other.known):
        return ""
    return (
        f"In {view_in_words(view)} neighbouring tokens are alike by {_similarity(analysis, mine)} at {view.layer[-1]}, "
        f"in {first.model} by {_similarity(analysis, other)} at {first.layer[-1]}; levels of two models are not "
        "comparable by themselves."
    )


def _confidence(analysis: TokenAnalysis) -> str:
    if analysis.n_units < 2:
        return f"One {analysis.unit}: no intervals, and nothing is said about others."
    level = percent(analysis.settings.level)
    drawn = f"{analysis.n_units} {analysis.unit}s" if analysis.group is not None else f"{analysis.n_images} images"
    few = f", rough with fewer than {FEW_UNITS}" if analysis.n_units < FEW_UNITS else ""
    left_out = len(analysis.scores.skipped)
    skipped = f" {left_out} {'image was' if left_out == 1 else 'images were'} skipped." if left_out else ""
    return f"In brackets: {level} intervals over {drawn}{few}.{skipped}"


def _similarity(analysis: TokenAnalysis, one: Estimate, sign: bool = False) -> str:
    value, lo, hi = (similarity_number(analysis, part, sign) for part in (one.value, one.lo, one.hi))
    return f"{value} [{lo}, {hi}]" if math.isfinite(one.lo) else value


def _amount(one: Estimate) -> str:
    value, lo, hi = (significant(part, _DIGITS) for part in (one.value, one.lo, one.hi))
    return f"{value} [{lo}, {hi}]" if math.isfinite(one.lo) else value

"""Where in a model a difference of image pairs enters, grows and fades: one sentence, and a careful reading of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from layerscope.artifacts.layer_scores import LOCALISATION, FloatArray
from layerscope.report.figure_style import percent
from layerscope.report.layer_effects import RELATIVE, LayerAnalysis, watched
from layerscope.report.layer_names import called_once, repeated_layers, stage_of
from layerscope.report.noise_floor import floor_factor, floor_words
from layerscope.report.sample_means import joint_interval, sample_means, surer
from layerscope.report.sentences import joined, short, significant

NOTICE = "For research only; not for clinical use."

RELEVANT_FACTOR = 1.1
"""Relative L2 has to change by more than this factor in a stage before the stage is said to change it."""

Change = Literal["grows", "fades", "steady", "unsure", "vanishes", "undefined"]

_THIRDS = ("early", "middle", "late")


@dataclass(frozen=True)
class Step:
    """What a stage does to relative L2: from the last layer of the stage before it to its own last layer.

    factor: geometric mean over pairs of the ratio, with its interval ci_lo to ci_hi (NaN where there is none); the
    intervals of all stages hold together (``sample_means.surer``). n: pairs that differ in both layers.
    floor_factor: what the stage does to the noise floor (``noise_floor.floor_factor``); NaN where that is undefined.
    change: "grows" or "fades" where the interval excludes 1 and the factor is relevant; "steady" where the whole
    interval is irrelevant; "vanishes" where no pair differs any more.
    """

    stage: str
    from_layer: str
    to_layer: str
    factor: float
    ci_lo: float
    ci_hi: float
    n: int
    floor_factor: float
    change: Change


@dataclass(frozen=True)
class Attribution:
    """sentence: where the difference enters, grows and fades. interpretation: a paragraph that ends with ``NOTICE``.

    steps: one per stage, in the order of the computation. encoder: the whole way from input to latent, if both exist.
    """

    sentence: str
    interpretation: str
    steps: list[Step]
    encoder: Step | None


def attribute(analysis: LayerAnalysis) -> Attribution:
    """Sentence, interpretation and steps of an analysis.

    Layers that were called several times in a pass take no part in stages and thirds: of a model that works in tiles
    each call sees another part of the image, and input, latent and reconstruction are the whole of it.
    """
    chain = _stages(analysis)
    n_steps = len(chain) - 1
    steps = _steps(analysis, [(*before, *after) for before, after in pairwise(chain)], n_steps)
    encoder = None
    ends = dict(chain)
    if "input" in ends and "latent" in ends:
        encoder = _steps(analysis, [("input", ends["input"], "encoder", ends["latent"])], n_steps)[0]
    return Attribution(
        sentence=_sentence(analysis, chain, steps, encoder),
        interpretation=_interpretation(analysis),
        steps=steps,
        encoder=encoder,
    )


def _stages(analysis: LayerAnalysis) -> list[tuple[str, int]]:
    """Stages in the order of the computation, each with the row of its last layer."""
    layers = analysis.scores.layer
    autoencoder = "latent" in layers
    chain: dict[str, int] = {}
    for row in called_once(layers):
        chain[stage_of(layers[row], autoencoder)] = row
    stages = sorted(chain.items(), key=lambda item: item[1])
    names = [name for name, _ in stages]
    between = names[names.index("latent") + 1 : -1] if "latent" in names and names[-1] == "reconstruction" else None
    if between in ([], ["post_quant_conv"]):
        # No layer of the decoder was watched, or each was called several times, so it is judged as a whole.
        stages[names.index("reconstruction")] = ("decoder", chain["reconstruction"])
    return stages


def _steps(analysis: LayerAnalysis, pairs: Sequence[tuple[str, int, str, int]], n_steps: int) -> list[Step]:
    """pairs: stage and row before, stage and row behind. n_steps: how many intervals have to hold together."""
    values = analysis.scores.values[analysis.measured][:, :, RELATIVE]
    if not pairs:
        return []
    before, behind = values[:, [pair[1] for pair in pairs]], values[:, [pair[3] for pair in pairs]]
    both = (before > 0) & (behind > 0)
    ratio = np.full(both.shape, np.nan)
    ratio[both] = np.log(behind[both]) - np.log(before[both])
    level = analysis.settings.level
    # The way from input to latent is no further comparison: it is the sum of steps.
    means = surer(sample_means(ratio, analysis.weights, analysis.group, level), level, n_steps)
    names = analysis.scores.layer
    steps = []
    for place, (previous, start, stage, end) in enumerate(pairs):
        # From the input straight to the latent is the encoder's work, whether or not a layer of it was watched.
        stage = "encoder" if (previous, stage) == ("input", "latent") else stage
        mean, lo, hi = (float(cell[place]) for cell in (means.mean, means.lo, means.hi))
        gone = bool((before[:, place] > 0).any() and not (behind[:, place] > 0).any())
        steps.append(
            Step(
                stage=stage,
                from_layer=names[start],
                to_layer=names[end],
                factor=0.0 if gone else math.exp(mean),
                ci_lo=math.exp(lo),
                ci_hi=math.exp(hi),
                n=int(means.n[place]),
                floor_factor=floor_factor(analysis.scores, start, end),
                change="vanishes" if gone else _change(mean, lo, hi),
            )
        )
    return steps


def _change(mean: float, lo: float, hi: float) -> Change:
    relevant = math.log(RELEVANT_FACTOR)
    if math.isnan(mean):
        return "undefined"
    if lo > 0 and mean > relevant:
        return "grows"
    if hi < 0 and mean < -relevant:
        return "fades"
    return "steady" if -relevant <= lo and hi <= relevant else "unsure"


def _sentence(
    analysis: LayerAnalysis, chain: Sequence[tuple[str, int]], steps: Sequence[Step], encoder: Step | None
) -> str:
    if not analysis.n_pairs:
        return "No pair was measured, so nothing can be said about any layer."
    mean = analysis.differences.pairs.mean[:, RELATIVE]
    present = [(name, row) for name, row in chain if mean[row] > 0]
    repeated = repeated_layers(analysis.scores.layer)
    if not present and repeated and (mean > 0).any():
        return "The images of the pairs differ only in layers that were called several times, so no stage can be told."
    if not present:
        return "The two images of every pair are identical in every watched layer, so there is no difference to follow."
    enters = _enters(analysis, chain, present[0], encoder)
    # Input to latent is told as one; what comes behind it, or behind the input of other models, is told by stage.
    latent = dict(chain).get("latent", -1) if encoder else -1
    behind = [step for step in steps if analysis.scores.layer.index(step.from_layer) >= latent]
    if analysis.n_units < 2:
        return _unsure_sentence(analysis, enters, behind)
    level = percent(analysis.settings.level)
    told = []
    for change in ("grows", "fades"):
        if stages := [f"{step.stage} ({_factor(step, level)})" for step in behind if step.change == change]:
            told.append(f"{change} in {joined(stages)}")
    told += [f"vanishes in {step.stage}" for step in behind if step.change == "vanishes"]
    if told:
        return f"{enters}; it {joined(told)}."
    if not behind:
        return f"{enters}; no stage behind it was {'called just once' if repeated else 'watched'}."
    settled = encoder is not None and encoder.change in ("grows", "fades", "vanishes")
    return f"{enters}; {'behind the latent ' if settled else ''}no stage changes it surely."


def _enters(
    analysis: LayerAnalysis, chain: Sequence[tuple[str, int]], first: tuple[str, int], encoder: Step | None
) -> str:
    mean = analysis.differences.pairs.mean[:, RELATIVE]
    name, row = first
    size = f"relative L2 {significant(mean[row])}"
    if first != chain[0]:
        return f"The difference enters in {name} ({size}), before which the images of every pair are identical"
    if encoder is None:
        where = "with the input" if name == "input" else f"no later than {name}, the first stage watched"
        return f"The difference enters {where} ({size})"
    latent = mean[analysis.scores.layer.index(encoder.to_layer)]
    size = f"relative L2 {significant(mean[row])} at the input, {significant(latent)} in the latent"
    factor = _factor(encoder, percent(analysis.settings.level))
    match encoder.change:
        case "grows":
            does = f"which enlarges it ({factor}; {size})"
        case "fades":
            does = f"which weakens it ({factor}; {size})"
        case "vanishes":
            does = f"where it is lost ({size})"
        case "steady":
            does = f"which passes it on at about its size ({factor}; {size})"
        case _ if analysis.n_units < 2:
            does = f"which changes its size ({factor}; {size})"
        case _:
            does = f"which does not surely change its size ({factor}; {size})"
    return f"The difference enters through the encoder, {does}"


def _unsure_sentence(analysis: LayerAnalysis, enters: str, steps: Sequence[Step]) -> str:
    """What a single pair, or a single patient, shows: values, and no certainty."""
    defined = [step for step in steps if math.isfinite(step.factor) and step.factor > 0]
    level = percent(analysis.settings.level)
    largest = max(defined, key=lambda step: step.factor, default=None)
    smallest = min(defined, key=lambda step: step.factor, default=None)
    told = []
    if largest and largest.factor > RELEVANT_FACTOR:
        told.append(f"grows most in {largest.stage} ({_factor(largest, level)})")
    if smallest and smallest.factor < 1 / RELEVANT_FACTOR:
        told.append(f"fades most in {smallest.stage} ({_factor(smallest, level)})")
    text = f"it {joined(told)}" if told else "no stage changes it by more than a tenth"
    whose = "one pair" if analysis.n_pairs == 1 else "the pairs of one patient"
    return f"{enters}; {text}, but from {whose} no interval can be given, so none of this is sure."


def _factor(step: Step, level: str) -> str:
    """Factor, interval if there is one, and what the stage does to the floor. level: of the interval, in words."""
    text = f"× {_number(step.factor)}"
    if math.isfinite(step.ci_lo):
        text += f", {level} CI {_number(step.ci_lo)} to {_number(step.ci_hi)}"
    return text if math.isnan(step.floor_factor) else f"{text}; floor × {_number(step.floor_factor)}"


def _number(factor: float) -> str:
    return significant(factor) if factor < 0.01 else short(factor, 2)


def _interpretation(analysis: LayerAnalysis) -> str:
    """Early, middle or late; what that may mean; what was left out; the noise floor; the lesion; the notice."""
    differences = analysis.scores.values[analysis.measured][..., RELATIVE]
    if differences.size and not differences.any():
        return NOTICE  # identical images: there is nothing to read
    parts = [*_thirds(analysis), _left_out(analysis), _against_floor(analysis), _at_lesion(analysis), NOTICE]
    return " ".join(part for part in parts if part)


def _thirds(analysis: LayerAnalysis) -> list[str]:
    layers = analysis.scores.layer
    once = set(called_once(layers))
    rows = [row for row in watched(layers) if row in once]
    known = "watched layers" if len(once) == len(layers) else "watched layers that were called once"
    if not analysis.n_pairs:
        return []
    if len(rows) < len(_THIRDS):
        return [f"There are fewer than three {known}, too few to tell early from late."]
    by_effect = analysis.ranking.statistic == "effect"
    table = analysis.differences.effect if by_effect else analysis.differences.pairs.mean
    resamples = analysis.resampled_effect if by_effect else analysis.resampled
    thirds = [np.asarray(part) for part in np.array_split(rows, len(_THIRDS))]
    values = [_mean(table[part, RELATIVE]) for part in thirds]
    if not np.isfinite(values).all():
        return ["Early, middle and late layers cannot be compared, because one third of them has no value."]
    largest = int(np.argmax(values))
    if not by_effect:
        what = "mean relative L2 is largest"
    elif values[largest] < 0:  # different images differ by more than a finding: the usual case with pairs of negatives
        what = "mean relative L2 lies least below the noise floor (as an effect)"
    else:
        what = "mean effect over the noise floor is largest"
    others = [place for place in range(len(_THIRDS)) if place != largest]

    def number(value: float) -> str:
        return short(value, 2) if by_effect else significant(value)

    figures = ", ".join(f"{name} {number(value)}" for name, value in zip(_THIRDS, values))
    head = f"Of the {len(rows)} {known} in order of computation, the {what} in the {_THIRDS[largest]} third"
    if analysis.n_units < 2:
        return [f"{head} ({figures}), without any interval.", _meaning(layers, rows, _THIRDS[largest], sure=False)]
    over = np.stack([_column_means(resamples[:, part]) for part in thirds], axis=1)
    open_against = []
    units = min(analysis.n_units, len(analysis.scores.floor)) if by_effect else analysis.n_units
    for place in others:
        difference, resampled = values[largest] - values[place], over[:, largest] - over[:, place]
        ends = joint_interval(difference, resampled, units, analysis.settings.level, len(others))
        lo, hi = (float(end) for end in ends)
        if not lo > 0:
            numbers = [number(value) for value in (difference, lo, hi)]
            open_against.append(
                f"its lead over the {_THIRDS[place]} third is {numbers[0]} [{numbers[1]}, {numbers[2]}]"
            )
    if open_against:
        hedge = f"{head}, but not surely: {joined(open_against)} ({figures})."
        return [hedge, _meaning(layers, rows, _THIRDS[largest], sure=False)]
    return [f"{head} ({figures}), surely above both others.", _meaning(layers, rows, _THIRDS[largest], sure=True)]


def _meaning(layers: Sequence[str], rows: Sequence[int], third: str, sure: bool) -> str:
    """What early, middle and late usually are in such a model. rows: of the layers that the thirds are made of."""
    modules = [layers[row] for row in rows]
    decoder = all(name.startswith(("decoder.", "post_quant_conv")) for name in modules)
    encoder = all(name.startswith(("encoder.", "quant_conv")) for name in modules)
    if "latent" in layers and decoder:
        words = {
            "early": "work at the latent's resolution, where coarse layout is laid down",
            "middle": "turn the layout into shapes and larger textures",
            "late": "write fine texture and pixel values",
        }
    elif "latent" in layers and encoder:
        words = {
            "early": "see pixel values and edges",
            "middle": "gather them into shapes and textures",
            "late": "work at the latent's resolution, where little but coarse layout has room",
        }
    elif "latent" in layers:
        words = {
            "early": "belong to the encoder, near the pixels",
            "middle": "lie around the latent, where resolution is lowest",
            "late": "belong to the decoder, near the output's pixels",
        }
    else:
        words = {
            "early": "respond to edges, colours and fine texture",
            "middle": "respond to parts and textures",
            "late": "respond to more abstract content with little sense of place",
        }
    verb = "is carried most" if sure else "may be carried most"
    return f"Such {third} layers usually {words[third]}, so the difference {verb} by that; this is a reading, no proof."


def _left_out(analysis: LayerAnalysis) -> str:
    repeated = len(repeated_layers(analysis.scores.layer))
    if not repeated or not analysis.n_pairs:
        return ""
    which = (
        "One layer that was called several times is" if repeated == 1 else f"{repeated} layers called repeatedly are"
    )
    return f"{which} left out of stages and thirds, since each call may see another part of the image."


def _against_floor(analysis: LayerAnalysis) -> str:
    lo = analysis.differences.effect_lo[:, RELATIVE]
    rows = [row for row in watched(analysis.scores.layer) if np.isfinite(lo[row])]
    if not rows:
        return ""
    above = [row for row in rows if lo[row] > 0]
    floor = f"the noise floor ({floor_words(analysis.scores.floor_kind)})"
    watched_layers = "calls of watched layers" if repeated_layers(analysis.scores.layer) else "watched layers"
    if not above:
        return f"In no watched layer does the pairs' relative L2 surely exceed {floor}."
    if len(above) == len(rows):
        return f"In all {len(rows)} {watched_layers} the pairs' relative L2 surely exceeds {floor}."
    some = f"{len(above)} of {len(rows)} {watched_layers}"
    first = analysis.scores.layer[above[0]]
    return f"In {some} the pairs' relative L2 surely exceeds {floor}, first in {first}."


def _at_lesion(analysis: LayerAnalysis) -> str:
    """Whether the difference of the first-ranked layer is at the lesion."""
    table, auroc = analysis.localisation, LOCALISATION.index("auroc")
    if not analysis.ranking.layers:
        return ""
    row = analysis.ranking.layers[0]
    name = f"{analysis.scores.layer[row]}, the first in the ranking,"
    if not table.measured and table.no_control:
        return f"Whether the difference in {name} is at the lesion stays open: every shifted mask overlaps the lesion."
    n = int(table.mask.n[row, auroc])
    if not n:
        return ""
    own, shifted = table.mask.mean[row, auroc], table.shifted.mean[row, auroc]
    figures = f"AUROC {short(own)}, shifted masks {short(shifted)}, {n} {'pair' if n == 1 else 'pairs'}"
    lo, hi = table.difference.lo[row, auroc], table.difference.hi[row, auroc]
    if not np.isfinite(lo):
        return f"Whether the difference in {name} is at the lesion stays open without an interval ({figures})."
    figures += f", difference {short(table.difference.mean[row, auroc], sign=True)} [{short(lo)}, {short(hi)}]"
    if table.at_lesion(row):
        return f"In {name} the difference is at the lesion ({figures})."
    return f"In {name} the difference is not surely at the lesion ({figures})."


def _mean(values: FloatArray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else math.nan


def _column_means(values: FloatArray) -> FloatArray:
    """Means over layers (B, K) to (B,), of those that are defined on a resample."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(
            np.where(known, values, 0.0).sum(axis=1) / np.where(known.any(axis=1), known.sum(axis=1), np.nan)
        )

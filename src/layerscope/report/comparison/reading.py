"""What a comparison shows, in sentences made by rule. Names stand as they are: whoever writes the text escapes them."""

from __future__ import annotations

import math

from layerscope.report.comparison.cells import (
    Difference,
    difference,
    differences,
    label_value,
    main_condition,
    main_metric,
    number,
    own,
    ranked,
)
from layerscope.report.comparison.pareto import on_front, sizes
from layerscope.report.comparison.result import Comparison
from layerscope.report.figure_style import percent
from layerscope.report.sentences import joined, short


def forced_sentence(comparison: Comparison) -> str:
    """That and why the runs are not comparable; empty where they are."""
    if not comparison.mismatches:
        return ""
    why = "; ".join(reason.rstrip(".") for reason in comparison.mismatches)
    return (
        f"Not comparable: the comparison was forced although the runs differ ({why}); "
        "differences between candidates may come from that alone."
    )


def reading(comparison: Comparison) -> list[str]:
    """Who is best and whether that is shown, what is not told apart, the Pareto front, labels that all lose, and
    what training seeds leave open."""
    sentences = [
        forced_sentence(comparison),
        *_best_sentences(comparison),
        _baseline_sentence(comparison),
        _front_sentence(comparison),
        _label_sentence(comparison),
        *_seed_sentences(comparison),
    ]
    return [sentence for sentence in sentences if sentence]


def _best_sentences(comparison: Comparison) -> list[str]:
    order, metric = ranked(comparison), main_metric(comparison)
    if not order:
        return ["Nothing can be said about these candidates: none has a macro AUROC."]
    best = order[0]
    row = own(comparison, best, metric)
    value = number(row)
    lo, hi = number(row, "ci_lo"), number(row, "ci_hi")
    interval = f" ({percent(comparison.level)} CI {short(lo)} to {short(hi)})" * math.isfinite(lo + hi)
    equal = [name for name in order[1:] if number(own(comparison, name, metric)) == value]
    who, verb = joined([best, *equal]), "" if equal else "s"
    if comparison.kind == "bottleneck":
        first = (
            f"Without noise, {who} {'lose' if value < 0 else 'keep'}{verb} {'least' if value < 0 else 'most'}: macro "
            f"AUROC changes by {short(value, sign=True)} from that on "
            f"real images{interval}."
        )
    else:
        first = f"{who} rank{verb} best: macro AUROC {short(value)}{interval}."
    if len(order) == 1:
        return [f"Only {best} has a macro AUROC: {short(value, sign=metric != 'auroc')}{interval}."]
    found = {name: difference(comparison, best, name) for name in order[1:]}
    shown = [name for name, one in found.items() if one is not None and one.better]
    rest = [one for one in found.values() if one is not None and not one.better]
    open_ones, untold = [one for one in rest if not one.untold], [one for one in rest if one.untold]
    missing = [name for name, one in found.items() if one is None]
    certain = "corrected for the number of comparisons"
    if len(shown) == len(found):
        second = [f"That {best} is the best is shown: it differs from every other ({certain})."]
    elif shown:
        second = [f"That {best} is better is shown against {joined(shown)} ({certain})."]
    else:
        second = [f"That {best} is better is not shown against any other ({certain})."]
    if open_ones:
        second.append(f"No difference is shown between {best} and {_excluded(open_ones, comparison.margin)}.")
    if untold:
        second.append(f"Whether {best} differs from {_untold(untold)}.")
    if missing:
        second.append(f"{best} was not compared with {joined(missing)}.")
    return [first, *second]


def _baseline_sentence(comparison: Comparison) -> str:
    """Against a named baseline; nothing where the baseline is the best, which has been told."""
    base = comparison.baseline
    if base is None or base == next(iter(ranked(comparison)), None):
        return ""
    found = differences(comparison)
    better = [f"{one.candidate} ({short(one.value, sign=True)})" for one in found if one.better]
    worse = [f"{one.candidate} ({short(one.value, sign=True)})" for one in found if one.worse]
    open_ones = [one for one in found if not (one.better or one.worse or one.untold)]
    untold = [one for one in found if one.untold]
    parts = [f"better: {joined(better)}"] * bool(better) + [f"worse: {joined(worse)}"] * bool(worse)
    if open_ones:
        parts.append(f"no difference shown: {_excluded(open_ones, comparison.margin, other=False)}")
    if untold:
        parts.append(_untold(untold, other=False))
    return f"Against the baseline {base}, {'; '.join(parts)}." if parts else ""


def _excluded(found: list[Difference], margin: float, other: bool = True) -> str:
    """Candidates with the difference that their interval excludes."""
    words = []
    for one in found:
        name = one.other if other else one.candidate
        if not math.isfinite(one.excluded):
            words.append(f"{name} (no interval)")
        else:
            within = ", which is within the margin" if one.excluded < margin else ""
            words.append(f"{name} (more than {short(one.excluded)} is excluded{within})")
    return joined(words)


def _untold(found: list[Difference], other: bool = True) -> str:
    """That nothing can be told of these candidates, those with one reason together."""
    names: dict[str, list[str]] = {}
    for one in found:
        names.setdefault(one.reason, []).append(one.other if other else one.candidate)
    words = [f"{joined(members)} cannot be told" + f" ({reason})" * bool(reason) for reason, members in names.items()]
    return ", and ".join(words)


def _seed_sentences(comparison: Comparison) -> list[str]:
    """What claims of better or worse leave open where few trainings stand behind them."""
    best = next(iter(ranked(comparison)), None)
    found = [difference(comparison, best, name) for name in comparison.candidates if name != best] if best else []
    claims = [one for one in [*found, *differences(comparison)] if one is not None and (one.better or one.worse)]
    behind: dict[int, set[str]] = {}
    for one in claims:
        sides = {name: len(comparison.runs[name]) for name in (one.candidate, one.other)}
        fewest = min(sides.values())
        behind.setdefault(fewest, set()).update(name for name, n_runs in sides.items() if n_runs == fewest)
    named = {n: [name for name in comparison.candidates if name in behind.get(n, ())] for n in (1, 2)}
    sentences = []
    if named[1]:
        are = "are" if len(named[1]) > 1 else "is"
        each = "one training each" if len(named[1]) > 1 else "one training"
        sentences.append(f"{joined(named[1])} {are} {each}: what another seed would give is not in these intervals.")
    if named[2]:
        sentences.append(
            f"Intervals over two training seeds ({joined(named[2])}) hold the truth less often than they say; three or "
            "more seeds are better."
        )
    return sentences


def _front_sentence(comparison: Comparison) -> str:
    if comparison.kind == "classifier" or len(sizes(comparison)) < 2:
        return ""
    front = on_front(comparison)
    words = [
        f"{name} ({number(own(comparison, name, 'latent_elements')):.0f} latent elements, "
        f"{short(number(own(comparison, name, 'delta_auroc')), sign=True)})"
        for name in front
    ]
    are, these = ("are", "these") if len(front) > 1 else ("is", "this")
    return (
        f"On the Pareto front of latent size and macro AUROC {are} {joined(words)}: no other candidate beats {these} "
        "in one without being behind in the other, by the values alone."
    )


def _label_sentence(comparison: Comparison) -> str:
    """Labels of which every candidate surely loses something; only of reconstructions."""
    if comparison.kind == "classifier":
        return ""
    lost = []
    for label in comparison.labels:
        rows = [comparison.of(name, "delta_auroc", label, main_condition(comparison)) for name in comparison.candidates]
        if label not in comparison.left_out and all(number(row, "ci_hi") < 0 for row in rows):
            least = max(label_value(comparison, name, label) for name in comparison.candidates)
            lost.append(f"{comparison.display.get(label, label)} ({short(least, sign=True)} at best)")
    if not lost:
        return "No label is lost with certainty in every candidate."
    return f"Every candidate loses, with intervals of each label by itself: {joined(lost)}."

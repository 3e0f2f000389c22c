"""Comparisons made by hand: what the statistics fill in, with the odd cells that real runs have."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from layerscope.artifacts import COMPARISON_COLUMNS, PAIRWISE_COLUMNS
from layerscope.report.comparison.result import RECON, Comparison
from layerscope.report.rows import MACRO, Row

NAN = math.nan
LABELS = ("ma", "hard exudate", "cup|disc", "$x_1$", "rare")
DISPLAY = {
    "ma": "Microaneurysm",
    "hard exudate": "Hard exudate",
    "cup|disc": "Cup|disc",
    "$x_1$": "$x_1$",
    "rare": "Rare",
}
CONTROLS = {
    "roundtrip8": -0.0001,
    "jpeg_q95": -0.0004,
    "jpeg_q75": -0.006,
    "down2": -0.011,
    "down4": -0.05,
    "down8": -0.19,
}
TEN = {
    f"{family}_{width}ch": (loss * scale, width * 1024)
    for family, scale in (("base", 1.0), ("feat", 0.55), ("feat_noisy", 0.62))
    for width, loss in ((4, -0.058), (8, -0.027), (16, -0.012))
} | {"pretrained <SD> `1.5`|$x": (-0.058, 4096)}


def row(candidate: str, metric: str, value: float, half: float = NAN, **cells: Any) -> Row:
    """A row of comparison.csv; at recon and macro unless said otherwise."""
    empty: Row = dict.fromkeys(COMPARISON_COLUMNS, NAN)
    place = {"run": "", "condition": RECON, "label": MACRO, "n_runs": 1, "rank": None, "flag": ""}
    ends = {"value": value, "ci_lo": value - half, "ci_hi": value + half}
    return {**empty, "candidate": candidate, "metric": metric, **place, **ends, **cells}


def pair(candidate: str, other: str, value: float, half: float, margin: float = 0.02, **cells: Any) -> Row:
    """A row of pairwise.csv: macro difference at recon, its simultaneous interval 1.4 times as wide as its own."""
    lo, hi = value - 1.4 * half, value + 1.4 * half
    small = max(abs(lo), abs(hi)) < margin
    inside = "no difference shown" + ", one of .02 excluded" * small
    outcome = "cannot be told" if math.isnan(value) else "better" if lo > 0 else "worse" if hi < 0 else inside
    empty: Row = dict.fromkeys(PAIRWISE_COLUMNS, NAN)
    text = {
        "condition": RECON,
        "label": MACRO,
        "metric": "auroc",
        "family": "macro",
        "outcome": outcome,
        "flag": "",
    }
    ends = {"difference": value, "ci_lo": value - half, "ci_hi": value + half, "ci_sim_lo": lo, "ci_sim_hi": hi}
    p = 0.0004 if outcome in ("better", "worse") else 0.4
    return {
        **empty,
        "candidate": candidate,
        "other": other,
        **text,
        **ends,
        "p": p,
        "p_adjusted": min(3 * p, 1.0),
        **cells,
    }


def bottlenecks(
    candidates: Mapping[str, tuple[float, float]] = TEN,
    baseline: str | None = None,
    mismatches: Sequence[str] = (),
    steps: Sequence[float] = (6.0, 3.0, 0.5, -2.0),
    labels: Sequence[str] = LABELS,
    half: float = 0.006,
) -> Comparison:
    """Candidates to macro ΔAUROC and latent elements; two seeds for every third, some cells missing."""
    names, rows, real = list(candidates), [], 0.93
    for place, (name, (loss, elements)) in enumerate(candidates.items()):
        seeds = 2 if place % 3 == 1 else 1
        one = {"n_runs": seeds, "seed_sd": 0.003 if seeds > 1 else NAN}
        rank = {"rank": 1 + sum(other > loss for other, _ in candidates.values())}
        rows.append(row(name, "delta_auroc", loss, half, **one, **rank))
        rows.append(row(name, "auroc", real + loss, 0.012, **one))
        rows.append(row(name, "delta_ap", 1.6 * loss, 2 * half, **one))
        rows += [row(name, "delta_auroc", loss + k, half, run=f"{name}/{k}") for k in (-0.003, 0.003) if seeds > 1]
        rows.append(row(name, "flip_rate", -loss / 2, 0.004))
        rows.append(row(name, "collapse_log_snr_eff", 0.4 - 30 * loss, 0.3, condition=""))
        rows.append(row(name, "retained_area", 0.7 + 3 * loss, condition=""))
        rows.append(row(name, "psnr_db", 29 + 100 * loss, 0.2, label=""))
        rows.append(row(name, "latent_elements", elements, condition="", label=""))
        rows.append(row(name, "latent_bits", 16 * elements, condition="", label=""))
        if place % 4 != 3:
            rows.append(row(name, "encode_seconds", 0.0123 + elements * 1e-7, condition="", label=""))
        for step, snr in enumerate(steps):
            value = 0.5 + (real + loss - 0.5) / (1 + math.exp(-(snr - 0.4 + 15 * loss)))
            eff = snr + 0.05 * (place % 3)
            rows.append(row(name, "auroc", value, 0.013, condition=f"t{step * 100}", log_snr_eff=eff))
        for k, label in enumerate(labels):
            value = NAN if (place, k) == (1, 3) else loss * (1.9 - 0.45 * k)
            rows.append(row(name, "delta_auroc", value, 2 * half, label=label, flag="rough" * (k == 4)))
    pairs = [
        pair(first, second, candidates[first][0] - candidates[second][0], half)
        for place, first in enumerate(names)
        for second in names[place + 1 :]
    ]
    left_out = {"rare": "fewer than 10 positives"} if "rare" in labels else {}
    return _comparison("bottleneck", names, baseline, labels, left_out, rows, pairs, mismatches)


def classifiers(baseline: str | None = "teacher a", names: Sequence[str] = ("teacher a", "b", "c|d")) -> Comparison:
    """Teachers on real images."""
    rows, value = [], {name: 0.93 - 0.025 * place for place, name in enumerate(names)}
    for name in names:
        rows += [
            row(name, "auroc", value[name], 0.01, condition="real"),
            row(name, "ap", value[name] - 0.3, 0.02, condition="real"),
        ]
        rows += [
            row(name, "auroc", value[name] - 0.03 * k, 0.02, condition="real", label=label)
            for k, label in enumerate(LABELS)
        ]
    pairs = [
        pair(first, second, value[first] - value[second], 0.008, condition="real")
        for place, first in enumerate(names)
        for second in names[place + 1 :]
    ]
    return _comparison(
        "classifier", list(names), baseline, LABELS, {"rare": "fewer than 10 positives"}, rows, pairs, ()
    )


def _comparison(
    kind: Any,
    names: Sequence[str],
    baseline: str | None,
    labels: Sequence[str],
    left_out: Mapping[str, str],
    rows: Sequence[Row],
    pairs: Sequence[Row],
    mismatches: Sequence[str],
) -> Comparison:
    seeds = {
        name: list(dict.fromkeys(one["run"] for one in rows if one["candidate"] == name and one["run"]))
        for name in names
    }
    return Comparison(
        kind=kind,
        candidates=names,
        runs={name: seeds[name] or [name] for name in names},
        baseline=baseline,
        labels=labels,
        display={label: DISPLAY.get(label, label) for label in labels},
        left_out=left_out,
        figures=rows,
        pairwise=pairs,
        controls=CONTROLS if kind == "bottleneck" else {},
        auroc_real=0.93,
        margin=0.02,
        level=0.95,
        n_samples=350,
        n_groups=120,
        mismatches=mismatches,
        not_measured=[{"what": "lpips", "reason": "no run has it"}],
    )

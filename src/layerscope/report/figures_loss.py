"""What the clean reconstruction costs: ΔAUROC with its margin, and flips. Made from table rows alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from layerscope.report.figure_rows import Names, Row, column_heading, column_text
from layerscope.report.figure_style import (
    BLACK,
    GREY,
    LIGHT,
    SKY,
    SMALL,
    VERDICT_COLOURS,
    VERDICT_MARKERS,
    VERMILION,
    WIDTH,
    label_names,
    new_figure,
    percent,
    quiet_grid,
    signed_ticks,
)
from layerscope.report.rows import MACRO
from layerscope.report.sentences import short


def forest_figure(
    per_label: Sequence[Row],
    verdict: Mapping[str, Any],
    margin_macro: float,
    margin_label: float,
    display: Names = None,
) -> Figure | None:
    """ΔAUROC on reconstructions per label and macro, with intervals, the margins, and verdict colours.

    per_label: the CSV table, for the interval of each label alone (thick). verdict: ``verdict`` of summary.json, which
    decides: its words give colours and markers, its intervals, simultaneous over labels, are the thin lines. Hollow: a
    label that is withheld because it has too few samples. The macro average is the one that was judged.
    """
    overall, entries = verdict["overall"], sorted(verdict["per_label"], key=_loss)
    if not entries:
        return None
    alone = {row["label"]: row for row in per_label if row["metric"] == "auroc" and row["condition"] == "recon"}
    names = [*label_names([entry["label"] for entry in entries], display), _macro_name(overall)]
    figure, (ax,) = new_figure(WIDTH, 1.45 + 0.29 * len(names))
    shown: dict[tuple[str, bool], None] = {}
    edges = [0.0, -margin_label, -margin_macro]
    column_heading(ax, "AUROC\nreal", 34, "right")
    column_heading(ax, "ΔAUROC [interval]", 48, "left")
    column_heading(ax, "posi-\ntives", 184, "right")
    for place, entry in enumerate([*entries, overall]):
        real, delta, lo, hi = (_number(entry[key]) for key in ("auroc_real", "delta_auroc", "ci_lo", "ci_hi"))
        column_text(ax, place, str(entry.get("n_pos", "")), 184, "right")
        if not math.isfinite(delta):
            column_text(ax, place, f"undefined: {entry['reason']}", 48, "left")
            continue
        column_text(ax, place, short(real, 2), 34, "right")
        column_text(
            ax, place, f"{short(delta, sign=True)}  [{short(lo, sign=True)}, {short(hi, sign=True)}]", 48, "left"
        )
        look = (entry["verdict"], _is_withheld(entry))
        shown[look] = None
        colour = VERDICT_COLOURS[look[0]]
        thick = (lo, hi)
        if entry is not overall:
            thick = (alone[entry["label"]]["delta_ci_lo"], alone[entry["label"]]["delta_ci_hi"])
            ax.plot([lo, hi], [place, place], color=colour, linewidth=1.2, solid_capstyle="butt")
        ax.plot(thick, [place, place], color=colour, linewidth=3, solid_capstyle="butt")
        ax.plot(delta, place, zorder=4, **_verdict_look(*look))
        edges += [value for value in (lo, hi, delta, *thick) if math.isfinite(value)]
    span = max(edges) - min(edges)
    last = len(names) - 1
    ax.axvline(0, color=GREY, linewidth=0.9, zorder=0)
    ax.plot([-margin_label] * 2, [-0.6, last - 0.5], color=BLACK, linewidth=1.0, linestyle=(0, (4, 3)), zorder=0)
    ax.plot([-margin_macro] * 2, [last - 0.5, last + 0.5], color=BLACK, linewidth=1.0, linestyle=(0, (4, 3)), zorder=0)
    ax.axhline(last - 0.5, color=LIGHT, linewidth=0.8)
    ax.set_xlim(min(edges) - 0.05 * span, max(edges) + 0.05 * span)
    ax.set_ylim(last + 0.5, -0.6)
    ax.set_yticks(range(len(names)), names)
    signed_ticks(ax, "x")
    ax.set_xlabel("ΔAUROC of the reconstruction (recon − real)")
    handles: list[Any] = []
    for word in VERDICT_COLOURS:
        for few in (False, True):
            if (word, few) in shown:
                note = {"undefined": "undefined: not recognised on real images"}.get(word, word)
                name = f"{word}: too few samples" if few else note
                handles.append(Line2D([], [], linestyle="none", label=name, **_verdict_look(word, few)))
    sure = percent(overall["level"])
    handles.append(Line2D([], [], color=BLACK, linewidth=1.0, linestyle=(0, (4, 3)), label="margin"))
    handles.append(Line2D([], [], color=GREY, linewidth=3, label=f"{sure}, one label (or the average) alone"))
    handles.append(Line2D([], [], color=GREY, linewidth=1.2, label=f"{sure}, all labels jointly (in brackets)"))
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=SMALL, frameon=False)
    return figure


def _is_withheld(entry: Mapping[str, Any]) -> bool:
    """Whether there were too few samples for any other verdict ("only 3 positives", "every label has too few")."""
    return entry["verdict"] == "inconclusive" and entry["reason"].startswith(("only ", "every label has too few"))


def _verdict_look(verdict: str, too_few: bool) -> dict[str, Any]:
    """Marker of a verdict; hollow where it was withheld because of too few samples."""
    colour = VERDICT_COLOURS[verdict]
    look: dict[str, Any] = {"color": colour, "marker": VERDICT_MARKERS[verdict], "markersize": 6}
    if too_few:
        return {**look, "markerfacecolor": "white", "markeredgewidth": 1.5}
    return look if look["marker"] == "x" else {**look, "markeredgecolor": "white", "markeredgewidth": 0.5}


def _macro_name(overall: Mapping[str, Any]) -> str:
    left_out = len(overall["labels_left_out"])
    return f"macro average\n({overall['n_labels_used']} labels; {left_out} left out)" if left_out else "macro average"


def _number(value: float | None) -> float:
    """Undefined numbers are null in summary.json."""
    return math.nan if value is None else float(value)


def _loss(entry: Mapping[str, Any]) -> float:
    """Sorts the largest loss first and undefined labels last."""
    delta = _number(entry["delta_auroc"])
    return delta if math.isfinite(delta) else math.inf


def flips_figure(rows: Sequence[Row], display: Names = None, condition: str = "recon") -> Figure | None:
    """Share of decisions that flip at the global threshold, split into right-to-wrong and wrong-to-right.

    rows: agreement.csv. None where no threshold was given.
    """
    found = {
        (row["label"], row["metric"]): row
        for row in rows
        if row["condition"] == condition and row["draw"] in (None, "mean") and row["metric"].endswith("flip_rate")
    }
    labels = [
        label for label, metric in found if metric == "flip_rate" and math.isfinite(found[label, metric]["value"])
    ]
    if not labels:
        return None
    ordered = sorted(
        (label for label in labels if label != MACRO), key=lambda label: -found[label, "flip_rate"]["value"]
    )
    ordered += [label for label in labels if label == MACRO]
    names = [*label_names([label for label in ordered if label != MACRO], display)]
    names += ["macro average"] * (MACRO in ordered)
    figure, (ax,) = new_figure(WIDTH * 0.8, 1.15 + 0.27 * len(ordered))
    quiet_grid(ax, "x")
    widest = 0.0
    for place, label in enumerate(ordered):
        negative, positive, both = (
            found[label, metric] for metric in ("negative_flip_rate", "positive_flip_rate", "flip_rate")
        )
        bad, good = 100 * negative["value"], 100 * positive["value"]
        ax.barh(place, bad, color=VERMILION, height=0.6)
        ax.barh(place, good, left=bad, color=SKY, height=0.6, hatch="///", edgecolor="white", linewidth=0)
        lo, hi = 100 * both["ci_lo"], 100 * both["ci_hi"]
        ax.plot([lo, hi], [place, place], color=BLACK, linewidth=1.1)
        ax.plot([lo, hi], [place, place], "|", color=BLACK, markersize=5)
        widest = max(widest, bad + good, hi if math.isfinite(hi) else 0.0)
    ax.set_yticks(range(len(ordered)), names)
    ax.set_ylim(len(ordered) - 0.4, -0.6)
    ax.set_xlim(0, max(1.06 * widest, 0.5))
    ax.set_xlabel("decisions that flip on the reconstruction (%)")
    handles = [
        Patch(color=VERMILION, label="right → wrong"),
        Patch(facecolor=SKY, hatch="///", edgecolor="white", linewidth=0, label="wrong → right"),
        Line2D([], [], color=BLACK, marker="|", markersize=5, linewidth=1.1, label="interval of the sum"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=SMALL, frameon=False)
    return figure

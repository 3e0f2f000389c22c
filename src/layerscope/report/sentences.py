"""Verdicts as plain English, and how numbers are written in it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

MINUS = "−"


def short(value: float, digits: int = 3, sign: bool = False) -> str:
    """A number below one as the field writes it: no leading zero, a true minus sign.

    >>> short(-0.0345), short(0.02, sign=True), short(1.25, 2), short(float("nan"))
    ('−.035', '+.020', '1.25', 'n/a')
    """
    if not math.isfinite(value):
        return "n/a"
    text = f"{abs(value):.{digits}f}"
    zero = float(text) == 0
    text = text[1:] if text.startswith("0.") else text
    if value < 0 and not zero:
        return MINUS + text
    return f"+{text}" if sign and not zero else text


def significant(value: float, digits: int = 3) -> str:
    """A number of any size with that many telling digits, written like ``short``.

    >>> significant(0.03456), significant(12.345), significant(1234.5), significant(-2e-7), significant(0.0)
    ('.0346', '12.3', '1234', '−2.00e−7', '0')
    """
    if not math.isfinite(value) or value == 0:
        return "n/a" if value else "0"
    power = math.floor(math.log10(abs(float(f"{abs(value):.{digits - 1}e}"))))
    if power < -4:
        return re.sub(r"e-0*", f"e{MINUS}", f"{value:.{digits - 1}e}").replace("-", MINUS)
    return short(value, max(0, digits - 1 - power))


def joined(items: Sequence[str]) -> str:
    """``a, b and c``."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


def control_in_words(name: str) -> str:
    """A control's name as a phrase.

    >>> control_in_words("down4"), control_in_words("jpeg_q75"), control_in_words("my_control")
    ('downsampling by 4', 'JPEG at quality 75', 'my_control')
    """
    patterns = (
        (r"down(\d+)", "downsampling by {}"),
        (r"jpeg_q(\d+)", "JPEG at quality {}"),
        (r"blur(\d+)", "a box blur of {} px"),
        (r"shift(\d+)", "a shift by {} px"),
        (r"roundtrip(\d+)", "rounding to {} bits"),
    )
    for pattern, phrase in patterns:
        if match := re.fullmatch(pattern, name):
            return phrase.format(match[1])
    return name


def overall_sentence(overall: Mapping[str, Any], labels: Sequence[Mapping[str, Any]], level: float) -> str:
    """The verdict of a bottleneck diagnosis in a few sentences.

    overall, labels: the records of ``BottleneckAnalysis.verdict``. level: of the intervals, in (0, 1).
    """
    sentences = [_macro_sentence(overall, level), _label_sentence(overall, labels)]
    shifted = [label for label in labels if label["score_shift"]]
    if shifted or overall["score_shift"]:
        sentences.append(_shift_sentence(overall, shifted))
    sentences.append(_noise_sentence(overall))
    return " ".join(sentence for sentence in sentences if sentence)


def _macro_sentence(overall: Mapping[str, Any], level: float) -> str:
    delta, lo, hi = overall["delta_auroc"], overall["ci_lo"], overall["ci_hi"]
    if not math.isfinite(delta):
        return "Nothing can be said about this VAE: no label has both positives and negatives."
    if overall["verdict"] == "undefined":
        return f"The diagnosis says nothing: {overall['reason']}."
    confidence = f"{100 * level:g} % CI"
    margin = f"margin {short(overall['margin'])}"
    if delta == lo == hi == 0:
        return (
            f"The VAE is not a bottleneck for this teacher: on its reconstructions the ranking of every label is "
            f"unchanged (macro AUROC difference 0, {margin})."
        )
    moves = "falls" if delta < 0 else "rises"
    drop, first, last = (-delta, -hi, -lo) if delta < 0 else (delta, lo, hi)
    if short(delta) == short(0.0):
        moves, first, last = "changes", lo, hi
    left_out = len(overall["labels_left_out"])
    averaged = f" over {overall['n_labels_used']} labels ({left_out} with too few samples left out)" * (left_out > 0)
    figures = f"macro AUROC{averaged} {moves} by {short(drop)} ({confidence} {short(first)} to {short(last)}, {margin})"
    if control := overall.get("nearest_control"):
        figures += f", comparable to {control_in_words(control)}"
    elif control := overall.get("exceeded_control"):
        figures += f", more than {control_in_words(control)}"
    match overall["verdict"]:
        case "bottleneck":
            return f"The VAE is a bottleneck for this teacher: {figures}."
        case "not a bottleneck":
            return f"On average the VAE is not a bottleneck for this teacher: {figures}."
        case _:
            needs = overall.get("needed_positives")
            remedy = f"; {overall['reason']}" if overall.get("reason") else ""
            remedy += f"; about {needs} positives per label would decide it" if needs else ""
            return f"It stays open whether the VAE is a bottleneck for this teacher: {figures}{remedy}."


def _label_sentence(overall: Mapping[str, Any], labels: Sequence[Mapping[str, Any]]) -> str:
    parts: list[str] = []
    verdicts = {label["label"]: label["verdict"] for label in labels}
    if overall["ci_lo"] == overall["ci_hi"] == 0 and set(verdicts.values()) == {"not a bottleneck"}:
        return ""
    lost = sorted((e for e in labels if e["verdict"] == "bottleneck"), key=lambda e: e["delta_auroc"])
    if lost:
        parts.append(f"lost: {', '.join(_with_drop(e) for e in lost)}")
    kept = [e["display"] for e in labels if e["verdict"] == "not a bottleneck"]
    if kept:
        parts.append(f"not a bottleneck for {joined(kept)}")
    open_ones = [e["display"] + _in_brackets(e) for e in labels if e["verdict"] == "inconclusive"]
    if open_ones:
        parts.append(f"inconclusive: {', '.join(open_ones)}")
    undefined = [f"{e['display']} ({e['reason']})" for e in labels if e["verdict"] == "undefined"]
    if undefined:
        parts.append(f"undefined: {', '.join(undefined)}")
    if not parts:
        return ""
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _in_brackets(label: Mapping[str, Any]) -> str:
    """Why a label is open and how many positives would settle it, as far as either is known."""
    needed = label["needed_positives"]
    parts = [label["reason"], f"needs about {needed} positives" if needed else ""]
    return f" ({'; '.join(filter(None, parts))})" if any(parts) else ""


def _with_drop(label: Mapping[str, Any]) -> str:
    return f"{label['display']} ({short(label['delta_auroc'], 2)})"


def _shift_sentence(overall: Mapping[str, Any], shifted: Sequence[Mapping[str, Any]]) -> str:
    if shifted:
        names = joined([f"{e['display']} (flip rate {100 * e['flip_rate']:.1f} %)" for e in shifted])
    else:
        names = f"all labels together (flip rate {100 * overall['flip_rate']:.1f} %)"
    return (
        f"Score shift without loss of ranking for {names}: F1 at the fixed threshold falls although AUROC holds, "
        "and a refitted threshold brings most of it back."
    )


def _noise_sentence(overall: Mapping[str, Any]) -> str:
    if overall["n_timesteps"] == 0 or not math.isfinite(overall["delta_auroc"]):
        return ""
    onset, t = overall["onset_log_snr"], overall["onset_t"]
    first = f"the first noise step measured (log-SNR {short(overall['highest_log_snr'], 1)})"
    if overall["onset_withheld"]:
        text = "Under latent noise no onset is told, since some labels have too few samples for certainty"
    elif overall["verdict"] == "bottleneck":
        text = "The macro AUROC lies below the margin without any latent noise"
    elif not math.isfinite(onset):
        text = (
            "Under latent noise the macro AUROC never falls below the margin with certainty, down to log-SNR "
            f"{short(overall['lowest_log_snr'], 1)}"
        )
    elif onset >= overall["highest_log_snr"]:
        text = f"Under latent noise the macro AUROC lies below the margin from {first} on"
    else:
        text = (
            f"Under latent noise the macro AUROC lies below the margin from log-SNR {short(onset, 1)} (t = {t:.0f}) on"
        )
    match overall["collapse_state"]:
        case "collapsed" if overall["collapse_is_bound"]:
            text += f" and has lost half of what it had above chance by {first}"
        case "collapsed":
            text += (
                f" and has lost half of what it had above chance at log-SNR {short(overall['collapse_log_snr'], 1)} "
                f"(t = {overall['collapse_t']:.0f})"
            )
        case "collapsed_at_recon":
            text += "; half of what it had above chance is lost already without noise"
        case _:
            pass
    return f"{text}."

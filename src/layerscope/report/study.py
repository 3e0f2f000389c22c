"""What a study found, as one page: each question with the runs that answer it, read from their summaries."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from layerscope.artifacts import read_summary
from layerscope.report.markdown import escaped, markdown_table
from layerscope.report.sentences import control_in_words, short, significant

_RESEARCH = "For research only; not for clinical use."


def study_summaries(runs: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Name to summary.json of the finished runs of a study, without those that have none, such as a phantom."""
    return {name: read_summary(run) for name, run in runs.items() if (run / "summary.json").exists()}


def study_document(title: str, root: Path, runs: Mapping[str, Path], open_runs: Sequence[str]) -> str:
    """Markdown for a file in ``root``.

    Args:
        runs: name and directory of the finished runs, in order.
        open_runs: names of those that did not finish.
    """
    found = study_summaries(runs)
    parts = [f"# Study: {escaped(title)}"]
    if open_runs:
        steps = Counter(name.partition("/")[0] for name in open_runs)
        counted = ", ".join(
            f"{escaped(step)} ({number})" if number > 1 else escaped(step) for step, number in steps.items()
        )
        parts.append(
            f"**Not finished: {counted}.** The same command goes on with them; study.csv says how far each is."
        )
    for heading, task, rows in (
        ("E0: classifiers on real images", "classifier", _classifiers),
        ("E1 and E2: what each autoencoder costs", "vae_bottleneck", _diagnoses),
    ):
        chosen = {name: summary for name, summary in found.items() if summary["task"] == task}
        if chosen:
            parts += [f"## {heading}", rows(chosen)]
    for name, summary in found.items():
        if summary["task"] == "comparison":
            subject = "E3: autoencoders" if summary["kind"] == "bottleneck" else "Final evaluation: classifiers"
            title = f"## {subject} side by side ({escaped(name)})"
            parts += [title, *_comparison(runs[name].relative_to(root), summary)]
    rest = {name: s for name, s in found.items() if s["task"] not in ("classifier", "vae_bottleneck", "comparison")}
    if rest:
        parts += ["## Other runs", markdown_table(["run", "task", "figure", "value"], list(map(_other, rest.items())))]
    return "\n\n".join([*parts, _RESEARCH]) + "\n"


def comparison_sentences(runs: Mapping[str, Path]) -> list[str]:
    """What the comparisons among the runs say, for the terminal."""
    found = study_summaries(runs)
    return [
        f"{name}: {sentence}"
        for name, summary in found.items()
        if summary["task"] == "comparison"
        for sentence in summary["sentences"]
    ]


def _classifiers(found: Mapping[str, dict[str, Any]]) -> str:
    rows = []
    for name, summary in found.items():
        macro = summary["metrics"]["macro"]
        figures = [_with_interval(macro[metric]) for metric in ("auroc", "ap")]
        rows.append([name, summary["split"], summary["counts"]["images"], *figures])
    return markdown_table(["run", "split", "images", "macro AUROC", "mAP"], rows)


def _diagnoses(found: Mapping[str, dict[str, Any]]) -> str:
    rows = []
    for name, summary in found.items():
        verdict = summary["verdict"]["overall"]
        drop = {"value": verdict["delta_auroc"], "ci_lo": verdict["ci_lo"], "ci_hi": verdict["ci_hi"]}
        psnr = (summary.get("reconstruction") or {}).get("psnr_db", {}).get("value")
        like = verdict.get("nearest_control")
        rows.append(
            [
                name,
                summary["split"],
                verdict["verdict"],
                _with_interval(drop, sign=True),
                "" if like is None else control_in_words(like),
                f"{100 * verdict['flip_rate']:.1f}",
                "n/a" if psnr is None else f"{psnr:.1f}",
            ]
        )
    header = ["run", "split", "verdict", "Δ macro AUROC", "about like", "flips %", "PSNR dB"]
    why = {f"{s['verdict']['overall']['reason']}" for s in found.values()} - {""}
    notes = [f"{escaped(reason)[0].upper()}{escaped(reason)[1:]}." for reason in sorted(why)]
    return "\n\n".join([markdown_table(header, rows), *notes])


def _comparison(place: Path, summary: Mapping[str, Any]) -> list[str]:
    sentences = "\n".join(f"- {escaped(sentence)}" for sentence in summary["sentences"])
    where = place.as_posix()
    return [sentences, f"[All tables]({where}/comparison.md)", f"![Overview]({where}/comparison.png)"]


def _other(entry: tuple[str, Mapping[str, Any]]) -> list[str]:
    name, summary = entry
    headline = summary.get("headline") or {}
    value = headline.get("value")
    return [name, summary["task"], headline.get("figure") or "", "" if value is None else significant(float(value))]


def _with_interval(figure: Mapping[str, Any], sign: bool = False) -> str:
    value, lo, hi = (math.nan if figure[key] is None else float(figure[key]) for key in ("value", "ci_lo", "ci_hi"))
    return f"{short(value, sign=sign)} [{short(lo, sign=sign)}, {short(hi, sign=sign)}]"

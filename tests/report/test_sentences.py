"""What the verdict says in words, and the table of the terminal."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from synthetic_scores import make_scores, replaced

from layerscope.artifacts import open_run_directory, read_summary
from layerscope.report.bottleneck import AnalysisSettings, analyse_bottleneck
from layerscope.report.console import classifier_table, verdict_table
from layerscope.report.sentences import overall_sentence


def overall(**changes: Any) -> dict[str, Any]:
    return {
        "verdict": "bottleneck",
        "delta_auroc": -0.034,
        "ci_lo": -0.047,
        "ci_hi": -0.021,
        "margin": 0.02,
        "needed_positives": None,
        "score_shift": False,
        "flip_rate": 0.02,
        "nearest_control": None,
        "n_timesteps": 3,
        "lowest_log_snr": -5.4,
        "highest_log_snr": 6.0,
        "exceeded_control": None,
        "onset_withheld": False,
        "collapse_is_bound": False,
        "n_labels_used": 4,
        "labels_left_out": [],
        "onset_log_snr": 1.2,
        "onset_t": 330.0,
        "collapse_state": "not_reached",
        "collapse_log_snr": math.nan,
        "collapse_t": math.nan,
        **changes,
    }


def label(name: str, verdict: str, delta: float = 0.0, **changes: Any) -> dict[str, Any]:
    return {
        "label": name,
        "display": name,
        "verdict": verdict,
        "delta_auroc": delta,
        "needed_positives": None,
        "score_shift": False,
        "flip_rate": 0.08,
        "reason": "",
        **changes,
    }


def test_a_bottleneck_is_named_with_its_labels_and_the_noise_level() -> None:
    labels = [
        label("drusen", "not a bottleneck", -0.01),
        label("microaneurysm", "bottleneck", -0.12),
        label("haemorrhage", "inconclusive", -0.05, needed_positives=210),
        label("laser scar", "undefined", math.nan, reason="no positives"),
    ]
    assert overall_sentence(overall(nearest_control="down4"), labels, 0.95) == (
        "The VAE is a bottleneck for this teacher: macro AUROC falls by .034 (95 % CI .021 to .047, margin .020), "
        "comparable to downsampling by 4. "
        "Lost: microaneurysm (−.12); not a bottleneck for drusen; inconclusive: haemorrhage (needs about 210 "
        "positives); undefined: laser scar (no positives). "
        "The macro AUROC lies below the margin without any latent noise."
    )


KEPT = {"verdict": "not a bottleneck", "ci_lo": -0.015, "ci_hi": 0.004, "delta_auroc": -0.005}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            KEPT,
            "is not a bottleneck",
        ),
        (KEPT, "CI −.004 to .015"),
        ({"verdict": "not a bottleneck", "ci_lo": 0.001, "ci_hi": 0.009, "delta_auroc": 0.005}, "rises by .005"),
        ({"verdict": "inconclusive", "needed_positives": 400}, "It stays open whether the VAE is a bottleneck"),
        ({"verdict": "inconclusive", "needed_positives": 400}, "about 400 positives per label would decide it"),
        ({"verdict": "not a bottleneck", "delta_auroc": 0.0, "ci_lo": 0.0, "ci_hi": 0.0}, "ranking of every label is"),
        ({"verdict": "undefined", "delta_auroc": math.nan}, "no label has both positives and negatives"),
        (KEPT, "Under latent noise the macro AUROC lies below the margin from log-SNR 1.2 (t = 330) on."),
        ({**KEPT, "onset_log_snr": 6.0}, "below the margin from the first noise step measured (log-SNR 6.0) on"),
        (
            {**KEPT, "onset_withheld": True, "onset_log_snr": math.nan},
            "no onset is told, since some labels have too few",
        ),
        ({"exceeded_control": "down4"}, "margin .020), more than downsampling by 4."),
        ({"labels_left_out": ["x"]}, "macro AUROC over 4 labels (1 with too few samples left out) falls by .034"),
        ({**KEPT, "onset_log_snr": math.nan}, "never falls below the margin with certainty, down to log-SNR −5.4"),
        ({"collapse_state": "collapsed", "collapse_log_snr": -1.3, "collapse_t": 548.2}, "at log-SNR −1.3 (t = 548)"),
        (
            {"collapse_state": "collapsed", "collapse_log_snr": 6.0, "collapse_is_bound": True},
            "lost half of what it had above chance by the first noise step measured (log-SNR 6.0)",
        ),
        ({"collapse_state": "collapsed_at_recon"}, "lost already without noise"),
        ({"score_shift": True, "verdict": "not a bottleneck"}, "all labels together (flip rate 2.0 %)"),
    ],
)
def test_other_verdicts(changes: dict[str, Any], text: str) -> None:
    assert text in overall_sentence(overall(**changes), [label("a", "not a bottleneck")], 0.95)


def test_a_score_shift_is_said_with_its_flip_rate() -> None:
    shifted = [label("a", "not a bottleneck", score_shift=True), label("b", "not a bottleneck")]
    text = overall_sentence(overall(verdict="not a bottleneck"), shifted, 0.95)
    assert "Score shift without loss of ranking for a (flip rate 8.0 %)" in text


def test_the_table_reads_the_summary_back(tmp_path: Any) -> None:
    scores = make_scores(n_labels=4)
    target = scores.target.copy()
    target[:, 3] = 0
    display = np.array(["Microaneurysm", "網膜出血", "evil\x1b[2J\nname", "Laser scar"])
    analysis = analyse_bottleneck(
        replaced(scores, target=target, label_display=display), AnalysisSettings(n_bootstrap=50)
    )
    run = open_run_directory(tmp_path / "run")
    with run.staged() as stage:
        stage.write_json("summary.json", analysis.summary())
    table = verdict_table(read_summary(tmp_path / "run"))
    assert table == verdict_table(analysis.summary())
    lines = table.splitlines()
    assert "Microaneurysm" in lines[2]
    assert "bottleneck" in lines[2]
    assert "without noise" in lines[2]
    assert lines[7].startswith("macro average")
    assert "Laser scar: no positives" in lines[8:]
    assert "\x1b" not in table


def test_the_summary_is_json_without_nan(tmp_path: Any) -> None:
    analysis = analyse_bottleneck(make_scores(steps=()), AnalysisSettings(n_bootstrap=50))
    run = open_run_directory(tmp_path / "run")
    with run.staged() as stage:
        stage.write_json("summary.json", analysis.summary())

    def refuse(token: str) -> None:
        raise AssertionError(token)

    summary = json.loads((tmp_path / "run/summary.json").read_text(), parse_constant=refuse)
    wanted = {"teacher_metrics_real", "teacher_metrics_recon_t0", "agreement_recon_t0", "t_curve", "verdict"}
    assert wanted <= set(summary)
    assert summary["verdict"]["overall"]["smallest_detectable_drop"] > 0
    assert all(entry["margin"] == 0.05 for entry in summary["verdict"]["per_label"])


def test_the_classifier_table_ends_with_the_macro_average() -> None:
    metrics = {"auroc": 0.9, "ap": 0.5, "f1_fixed": 0.4}
    rows = [
        {"label": name, "metric": metric, "value": value, "ci_lo": 0.8, "ci_hi": 0.95, "n_pos": 12}
        for name in ("a", "macro")
        for metric, value in metrics.items()
    ]
    lines = classifier_table(rows, {"a": "Drusen"}).splitlines()
    assert lines[2].split() == ["Drusen", "12", ".900", "[.800,", ".950]", ".500", ".400"]
    assert lines[-1].startswith("macro average")

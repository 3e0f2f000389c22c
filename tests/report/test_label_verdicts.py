"""When a label's verdict is withheld: too few units, a teacher that knows nothing, rankings that hardly differ."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from synthetic_scores import make_scores, replaced

from layerscope.artifacts import BottleneckScores
from layerscope.errors import ConfigurationError
from layerscope.report.bottleneck import AnalysisSettings, analyse_bottleneck
from layerscope.report.console import verdict_table

SETTINGS = AnalysisSettings(n_bootstrap=50)


def one_label(target: np.ndarray, real: np.ndarray, recon: np.ndarray, **changes: Any) -> BottleneckScores:
    """Scores of a real image and its reconstruction for labels (N, L)."""
    n, n_labels = target.shape
    scores = make_scores(n=n, n_labels=n_labels, steps=(), controls=False, n_stages=0)
    known = np.ones(target.shape, dtype=np.bool_)
    logits = np.stack([real, recon]).astype(np.float32)
    return replaced(scores, target=target.astype(np.uint8), known=known, logits=logits, **changes)


def with_positives(n_pos: int, fall: float, n: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n_pos)
    target = (np.arange(n) < n_pos).astype(int)[:, None]
    real = 4.0 * target + rng.normal(size=(n, 1))
    return target, real, real - fall * target + 0.05 * rng.normal(size=(n, 1))


@pytest.mark.parametrize("n_pos", [1, 2, 3, 9])
@pytest.mark.parametrize("fall", [0.0, 4.0])
def test_a_handful_of_positives_is_inconclusive_whatever_the_interval(n_pos: int, fall: float) -> None:
    analysis = analyse_bottleneck(one_label(*with_positives(n_pos, fall)), SETTINGS)
    [entry] = analysis.verdict["per_label"]
    assert entry["verdict"] == analysis.verdict["overall"]["verdict"] == "inconclusive"
    assert entry["reason"] == f"only {n_pos} positives: intervals are not reliable"
    assert entry["needed_positives"] >= 10
    assert f"nconclusive: Label 0 ({entry['reason']}; needs about" in analysis.verdict["overall"]["sentence"]
    assert entry["reason"] in verdict_table(analysis.summary())


def test_enough_positives_and_unchanged_scores_are_told() -> None:
    [entry] = analyse_bottleneck(one_label(*with_positives(60, 4.0)), SETTINGS).verdict["per_label"]
    assert (entry["verdict"], entry["reason"]) == ("bottleneck", "")
    target, real, _ = with_positives(3, 0.0)
    [entry] = analyse_bottleneck(one_label(target, real, real), SETTINGS).verdict["per_label"]
    assert (entry["verdict"], entry["reason"], entry["ci_lo"]) == ("not a bottleneck", "", 0)


def test_many_images_of_few_patients_are_few() -> None:
    target, real, recon = with_positives(40, 4.0)
    group = np.array([f"patient{i // 10}" for i in range(200)])
    [entry] = analyse_bottleneck(one_label(target, real, recon, group=group), SETTINGS).verdict["per_label"]
    assert entry["verdict"] == "inconclusive"
    assert entry["reason"] == "only 4 groups with positives: intervals are not reliable"
    assert entry["needed_positives"] >= 100


def test_unchanged_auroc_of_changed_scores_is_not_proved_unchanged() -> None:
    # Positives lie among the negatives; both classes keep their places and only swap inside them.
    target = np.tile((np.arange(400) % 10 == 5).astype(int)[:, None], (1, 2))
    real = np.tile(np.arange(400.0)[:, None], (1, 2)) + 100 * target
    recon = real.copy()
    negatives = np.flatnonzero(target[:, 0] == 0)
    recon[negatives[[0, 1]], 0] = real[negatives[[1, 0]], 0]
    recon[:, 1] = np.tanh(real[:, 1] / 400)
    analysis = analyse_bottleneck(one_label(target, real, recon), SETTINGS)
    swapped, contrast = analysis.verdict["per_label"]
    assert 0.5 < swapped["auroc_real"] < 1
    assert (contrast["ci_lo"], contrast["ci_hi"], contrast["verdict"]) == (0, 0, "not a bottleneck")
    # 40 positives; two labels share the 5 %.
    unseen = 1 - 0.025 ** (1 / 40)
    assert swapped["ci_lo"] == pytest.approx(-unseen)
    assert swapped["ci_hi"] == pytest.approx(min(unseen, 1 - swapped["auroc_real"]))
    assert swapped["verdict"] == "inconclusive"
    assert swapped["needed_positives"] == 72


@pytest.mark.parametrize(
    "wrong", [{"level": 95}, {"level": 0.0}, {"margin_label": -0.05}, {"margin_macro": 1.0}, {"n_bootstrap": 0}]
)
def test_settings_that_make_no_sense_are_refused_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        AnalysisSettings(**wrong)


def test_a_teacher_that_knows_nothing_cannot_call_anything_harmless() -> None:
    rng = np.random.default_rng(0)
    target = (rng.random((600, 2)) < 0.3).astype(int)
    real = rng.normal(size=(600, 2))
    recon = real + 0.01 * rng.normal(size=(600, 2))
    verdict = analyse_bottleneck(one_label(target, real, recon), SETTINGS).verdict
    assert verdict["overall"]["verdict"] == "undefined"
    assert verdict["overall"]["sentence"].startswith("The diagnosis says nothing: the teacher does not recognise the")
    for entry in verdict["per_label"]:
        assert entry["verdict"] == "undefined"
        assert entry["reason"].startswith("the teacher does not recognise this label on real images (AUROC .")
    real[:, 0] += 3 * target[:, 0]
    verdict = analyse_bottleneck(one_label(target, real, real), SETTINGS).verdict
    assert [entry["verdict"] for entry in verdict["per_label"]] == ["not a bottleneck", "undefined"]
    assert verdict["overall"]["verdict"] == "not a bottleneck"


def test_a_label_without_a_threshold_leaves_the_average_of_the_others() -> None:
    scores = make_scores(steps=())
    analysis = analyse_bottleneck(replaced(scores, threshold_label=np.array([0.1, np.nan, 0.1])), SETTINGS)
    rows = [row for row in analysis.per_label if (row["condition"], row["metric"]) == ("recon", "f1_fixed_label")]
    assert [row["flag"] for row in rows] == ["", "undefined: no threshold (no positives in val)", ""]
    macro = {row["metric"]: row for row in analysis.t_curve if (row["condition"], row["label"]) == ("recon", "macro")}
    assert macro["f1_fixed_label"]["value"] == pytest.approx((rows[0]["value"] + rows[2]["value"]) / 2)
    assert macro["f1_fixed_label"]["delta_ci_lo"] <= macro["f1_fixed_label"]["delta"]
    assert (macro["f1_fixed_label"]["flag"], macro["f1_fixed"]["flag"]) == ("n_labels_used=2/3", "")
    assert [entry for entry in analysis.not_measured if "own threshold of label1" in entry["what"]]


def test_resamples_without_an_answer_are_counted() -> None:
    # A resample leaves out the only two positives with probability e^-2, 14 %.
    analysis = analyse_bottleneck(one_label(*with_positives(2, 1.0)), AnalysisSettings(n_bootstrap=1000))
    for row in analysis.per_label + analysis.t_curve:
        if row["metric"] in ("ap", "f1_reopt") and row["label"] != "micro":
            share = float(row["flag"].removesuffix(" % of resamples undefined"))
            assert share == pytest.approx(13.5, abs=3.5)
    rows = analyse_bottleneck(one_label(*with_positives(60, 1.0)), SETTINGS).per_label
    assert not any("resamples" in row["flag"] for row in rows)


def test_a_proved_loss_is_told_even_of_a_label_that_was_barely_recognised() -> None:
    # The interval of AUROC itself reaches chance; that of the paired fall does not reach the margin.
    rng = np.random.default_rng(4)
    target = (np.arange(400) < 20).astype(int)[:, None]
    noise = rng.normal(size=(400, 1))
    verdict = analyse_bottleneck(one_label(target, noise + 0.6 * target, noise + 0.1 * noise), SETTINGS).verdict
    [entry] = verdict["per_label"]
    assert entry["ci_hi"] < -entry["margin"]
    assert (entry["verdict"], verdict["overall"]["verdict"]) == ("bottleneck", "bottleneck")


def test_labels_with_a_handful_of_positives_do_not_decide_the_average() -> None:
    # Their spread is missing from the standard error of an average: nothing is lost here, and 20 of 20 intervals of the
    # plain average would be far too narrow.
    false_alarms = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        target = np.zeros((300, 12), dtype=int)
        for k in range(12):
            target[rng.choice(300, 60 if k < 4 else 1, replace=False), k] = 1
        noise = rng.normal(size=target.shape)
        recon = 0.8 * noise + 0.6 * rng.normal(size=target.shape)
        analysis = analyse_bottleneck(one_label(target, noise + 1.5 * target, recon + 1.5 * target), SETTINGS)
        overall = analysis.verdict["overall"]
        false_alarms += overall["verdict"] == "bottleneck"
        assert overall["labels_left_out"] == [f"label{k}" for k in range(4, 12)]
        kept = [entry["delta_auroc"] for entry in analysis.verdict["per_label"][:4]]
        assert overall["delta_auroc"] == pytest.approx(np.mean(kept))
        assert "over 4 labels (8 with too few samples left out)" in overall["sentence"]
    assert false_alarms <= 1
    [row] = [r for r in analysis.t_curve if (r["condition"], r["label"], r["metric"]) == ("recon", "macro", "auroc")]
    assert "8 labels with too few positives or negatives" in row["flag"]


def test_no_onset_is_claimed_from_a_handful_of_positives() -> None:
    scores = make_scores(n=300, n_labels=2)
    few = np.array(scores.target)
    few[np.flatnonzero(few[:, 1])[3:], 1] = 0
    noisy = scores.logits - 30 * few * (scores.kind == "noise")[:, None, None]
    rows = {
        row["label"]: row for row in analyse_bottleneck(replaced(scores, target=few, logits=noisy), SETTINGS).collapse
    }
    assert np.isfinite(rows["label0"]["onset_log_snr"])
    for label in ("label1", "macro"):
        assert np.isnan(rows[label]["onset_log_snr"])
        assert "no onset" in rows[label]["flag"]


def test_what_is_short_is_named_and_a_blind_teacher_is_told_first() -> None:
    rng = np.random.default_rng(0)
    target = (np.arange(60) < 54).astype(int)[:, None]
    real = 2.0 * target + rng.normal(size=(60, 1))
    recon = real + 0.3 * rng.normal(size=(60, 1))
    [entry] = analyse_bottleneck(one_label(target, real, recon), SETTINGS).verdict["per_label"]
    assert (entry["verdict"], entry["needed_positives"]) == ("inconclusive", None)
    assert entry["reason"] == "only 6 negatives: intervals are not reliable"
    blind = -0.5 * target + rng.normal(size=(60, 1))
    [entry] = analyse_bottleneck(one_label(target, blind, blind + 0.1 * real), SETTINGS).verdict["per_label"]
    assert entry["verdict"] == "undefined"
    assert entry["reason"].startswith("the teacher does not recognise this label on real images (AUROC .")

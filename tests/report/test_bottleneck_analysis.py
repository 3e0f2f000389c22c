"""The tables and verdicts against scikit-learn, scipy and plain loops, and the answers the oracles must get."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import entropy, norm
from sklearn.metrics import average_precision_score, brier_score_loss, f1_score, precision_recall_curve, roc_auc_score
from synthetic_scores import STEPS, make_scores, replaced, with_recon

from layerscope.artifacts import LONG_COLUMNS, BottleneckScores
from layerscope.artifacts.tables import COLLAPSE_COLUMNS
from layerscope.errors import ArtifactError, NumericalError
from layerscope.report.bottleneck import AnalysisSettings, BottleneckAnalysis, analyse_bottleneck

SETTINGS = AnalysisSettings(n_bootstrap=200)


@pytest.fixture(scope="module")
def scores() -> BottleneckScores:
    return make_scores()


@pytest.fixture(scope="module")
def analysis(scores: BottleneckScores) -> BottleneckAnalysis:
    return analyse_bottleneck(scores, SETTINGS)


def find(rows: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    matches = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    assert len(matches) == 1, f"{len(matches)} rows for {wanted}"
    return matches[0]


def known_column(scores: BottleneckScores, row: int, label: int) -> tuple[np.ndarray, np.ndarray]:
    mask = scores.known[:, label]
    return scores.target[mask, label], scores.logits[row, mask, label].astype(np.float64)


def reference(metric: str, y: np.ndarray, score: np.ndarray, tau: float, tau_label: float) -> float:
    match metric:
        case "auroc":
            return float(roc_auc_score(y, score))
        case "ap":
            return float(average_precision_score(y, score))
        case "f1_fixed":
            return float(f1_score(y, score >= tau))
        case "f1_fixed_label":
            return float(f1_score(y, score >= tau_label))
        case "f1_reopt":
            precision, recall, _ = precision_recall_curve(y, score)
            return float(np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12)))
        case "brier":
            return float(brier_score_loss(y, expit(score)))
        case _:
            total, p = 0.0, expit(score)
            for b in range(15):
                inside = (p > b / 15) & (p <= (b + 1) / 15)
                if inside.any():
                    total += inside.sum() * abs(p[inside].mean() - y[inside].mean())
            return float(total / len(y))


@pytest.mark.parametrize("metric", ["auroc", "ap", "f1_fixed", "f1_fixed_label", "f1_reopt", "ece", "brier"])
def test_values_per_label_macro_and_draw(scores: BottleneckScores, analysis: BottleneckAnalysis, metric: str) -> None:
    per_row = np.array(
        [
            [
                reference(metric, *known_column(scores, row, k), scores.threshold_global, scores.threshold_label[k])
                for k in range(3)
            ]
            for row in range(len(scores.condition))
        ]
    )
    for row, (name, draw) in enumerate(zip(scores.condition, scores.draw)):
        wanted = int(draw) if draw >= 0 else None
        for k in range(3):
            cell = find(analysis.per_label, condition=name, draw=wanted, label=f"label{k}", metric=metric)
            assert cell["value"] == pytest.approx(per_row[row, k], abs=1e-9)
        cell = find(analysis.t_curve, condition=name, draw=wanted, label="macro", metric=metric)
        assert cell["value"] == pytest.approx(per_row[row].mean(), abs=1e-9)
    # The metric of each draw, then the mean: not the metric of mean probabilities.
    rows = np.flatnonzero(scores.condition == "t330")
    assert len(rows) == 2
    cell = find(analysis.per_label, condition="t330", draw="mean", label="label1", metric=metric)
    assert cell["value"] == pytest.approx(per_row[rows, 1].mean(), abs=1e-9)
    assert cell["delta"] == pytest.approx(per_row[rows, 1].mean() - per_row[0, 1], abs=1e-9)


def test_micro_pools_the_known_pairs(scores: BottleneckScores, analysis: BottleneckAnalysis) -> None:
    y, s = scores.target[scores.known], scores.logits[1][scores.known]
    cell = find(analysis.t_curve, condition="recon", label="micro", metric="auroc")
    assert cell["value"] == pytest.approx(roc_auc_score(y, s))
    assert (cell["n"], cell["n_pos"]) == (len(y), y.sum())
    cell = find(analysis.t_curve, condition="recon", label="micro", metric="ap")
    assert cell["value"] == pytest.approx(average_precision_score(y, s))


def structural_components(y: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """V10 of positives and V01 of negatives by comparing every pair."""
    pairs = (s[y == 1][:, None] > s[y == 0]) + 0.5 * (s[y == 1][:, None] == s[y == 0])
    return pairs.mean(axis=1), pairs.mean(axis=0)


def delong_variance(y: np.ndarray, original: np.ndarray, condition: np.ndarray) -> float:
    v10_o, v01_o = structural_components(y, original)
    v10_c, v01_c = structural_components(y, condition)
    return float(np.var(v10_c - v10_o) / len(v10_o) + np.var(v01_c - v01_o) / len(v01_o))


def test_paired_intervals_are_delongs(scores: BottleneckScores, analysis: BottleneckAnalysis) -> None:
    for k in range(3):
        y, original = known_column(scores, 0, k)
        _, condition = known_column(scores, 1, k)
        half = norm.ppf(0.975) * math.sqrt(delong_variance(y, original, condition))
        cell = find(analysis.per_label, condition="recon", label=f"label{k}", metric="auroc")
        assert cell["delta_ci_lo"] == pytest.approx(max(cell["delta"] - half, -1), abs=1e-9)
        assert cell["delta_ci_hi"] == pytest.approx(min(cell["delta"] + half, 1), abs=1e-9)


def test_holm_at_recon_and_benjamini_hochberg_under_noise(analysis: BottleneckAnalysis) -> None:
    def raw(cell: dict[str, Any]) -> float:
        half = cell["delta_ci_hi"] - cell["delta"]
        return float(2 * norm.sf(abs(cell["delta"]) / (half / norm.ppf(0.975))))

    recon = [find(analysis.per_label, condition="recon", label=f"label{k}", metric="auroc") for k in range(3)]
    order = sorted(range(3), key=lambda k: raw(recon[k]))
    running = 0.0
    for rank, k in enumerate(order):
        running = max(running, (3 - rank) * raw(recon[k]))
        assert recon[k]["p"] == pytest.approx(min(running, 1.0), rel=1e-6)
    noise = [
        row for row in analysis.per_label if row["t"] is not None and row["draw"] == "mean" and row["metric"] == "auroc"
    ]
    assert len(noise) == 9
    smallest = math.inf
    for rank, cell in reversed(list(enumerate(sorted(noise, key=raw), start=1))):
        smallest = min(smallest, raw(cell) * 9 / rank)
        assert cell["p"] == pytest.approx(min(smallest, 1.0), rel=1e-6)


def test_bands_are_wider_than_intervals_and_narrower_than_bonferroni(analysis: BottleneckAnalysis) -> None:
    cases = [
        (find(analysis.per_label, condition="recon", label="label1", metric="auroc"), 3),
        (find(analysis.per_label, condition="t330", draw="mean", label="label1", metric="auroc"), 3),
        (find(analysis.t_curve, condition="t330", draw="mean", label="macro", metric="auroc"), 3),
    ]
    for cell, family in cases:
        pointwise = cell["delta_ci_hi"] - cell["delta"]
        band = cell["ci_sim_hi"] - cell["delta"]
        bonferroni = pointwise * norm.ppf(1 - 0.025 / family) / norm.ppf(0.975)
        assert pointwise < band < 1.05 * bonferroni


def test_patients_widen_the_intervals_as_cluster_sums_say() -> None:
    scores = make_scores(groups=True)
    analysis = analyse_bottleneck(scores, SETTINGS)
    k = 1
    mask = scores.known[:, k]
    y = scores.target[:, k]
    contribution = np.zeros(len(y))
    m, n = (y[mask] == 1).sum(), (y[mask] == 0).sum()
    for row, sign in ((1, 1.0), (0, -1.0)):
        v10, v01 = structural_components(y[mask], scores.logits[row, mask, k].astype(np.float64))
        contribution[mask & (y == 1)] += sign * (v10 - v10.mean()) / m
        contribution[mask & (y == 0)] += sign * (v01 - v01.mean()) / n
    variance = sum(contribution[scores.group == g].sum() ** 2 for g in np.unique(scores.group))
    cell = find(analysis.per_label, condition="recon", label="label1", metric="auroc")
    half = cell["delta_ci_hi"] - cell["delta"]
    assert half == pytest.approx(norm.ppf(0.975) * math.sqrt(variance), rel=1e-9)
    assert analysis.verdict["overall"]["n_groups"] == 60
    assert not [entry for entry in analysis.not_measured if entry["what"] == "clustered intervals"]


def test_missing_groups_are_stated(analysis: BottleneckAnalysis) -> None:
    assert [entry for entry in analysis.not_measured if entry["what"] == "clustered intervals"]
    assert analysis.verdict["overall"]["n_groups"] is None


def test_one_erased_label_is_the_one_that_is_named(analysis: BottleneckAnalysis) -> None:
    verdicts = {entry["label"]: entry["verdict"] for entry in analysis.verdict["per_label"]}
    assert verdicts == {"label0": "bottleneck", "label1": "not a bottleneck", "label2": "not a bottleneck"}
    overall = analysis.verdict["overall"]
    assert overall["verdict"] == "bottleneck"
    assert "Lost: Label 0" in overall["sentence"]
    assert "not a bottleneck for Label 1 and Label 2" in overall["sentence"]
    assert overall["ci_lo"] < overall["delta_auroc"] < overall["ci_hi"] < -overall["margin"]


def test_identical_scores_are_no_bottleneck_with_an_interval_of_zero(scores: BottleneckScores) -> None:
    same = replaced(scores, logits=np.broadcast_to(scores.logits[0], scores.logits.shape).copy())
    analysis = analyse_bottleneck(same, SETTINGS)
    for row in [*analysis.per_label, *analysis.t_curve]:
        if row["condition"] == "real" or row["draw"] not in (None, "mean"):
            continue
        assert row["delta"] == 0
        if row["metric"] not in ("ece",) and not (row["label"] == "micro" and row["metric"] == "ap"):
            assert (row["delta_ci_lo"], row["delta_ci_hi"]) == (0, 0)
        if row["metric"] == "auroc":
            assert row["p"] == 1
    for row in analysis.agreement:
        if row["label"] != "all":
            # The mixture of two equal distributions is rounded; everything else is exactly zero.
            assert row["value"] == pytest.approx(0, abs=1e-15 if row["metric"] == "js" else 0)
    overall = analysis.verdict["overall"]
    assert overall["verdict"] == "not a bottleneck"
    assert {entry["verdict"] for entry in analysis.verdict["per_label"]} == {"not a bottleneck"}
    assert not any(entry["score_shift"] for entry in analysis.verdict["per_label"])
    assert "not a bottleneck" in overall["sentence"]
    assert all(row["state"] == "not_reached" for row in analysis.collapse)


def test_lower_contrast_is_a_score_shift_and_no_loss(scores: BottleneckScores) -> None:
    # Probabilities shrink towards the negative side; the order of the samples stays.
    analysis = analyse_bottleneck(with_recon(scores, scores.logits[0] - 1.5), SETTINGS)
    overall = analysis.verdict["overall"]
    assert overall["verdict"] == "not a bottleneck"
    assert (overall["delta_auroc"], overall["ci_lo"], overall["ci_hi"]) == (0, 0, 0)
    for entry in analysis.verdict["per_label"]:
        assert entry["verdict"] == "not a bottleneck"
        assert entry["score_shift"]
        assert entry["delta_f1_fixed"] < -0.1
        assert entry["delta_f1_reopt"] == 0
        assert entry["flip_rate"] > 0.05
        flags = find(analysis.per_label, condition="recon", label=entry["label"], metric="f1_fixed")["flag"]
        assert flags == "score shift"
    assert "Score shift" in overall["sentence"]
    assert "flip rate" in overall["sentence"]


def test_labels_without_an_answer_are_rows_with_a_reason(scores: BottleneckScores) -> None:
    target, known = np.repeat(scores.target[:, 1:2], 4, axis=1), np.repeat(scores.known[:, 1:2], 4, axis=1)
    target[:, 1] = 0
    known[:, 2] = False
    target[:, 3] = 1
    changed = make_scores(n_labels=4)
    logits = np.repeat(scores.logits[:, :, 1:2], 4, axis=2)
    analysis = analyse_bottleneck(replaced(changed, target=target, known=known, logits=logits), SETTINGS)
    reasons = {1: "no positives", 2: "no known values", 3: "no negatives"}
    for k, reason in reasons.items():
        for condition in ("real", "recon"):
            for metric in ("auroc", "ap", "f1_fixed", "f1_reopt"):
                cell = find(analysis.per_label, condition=condition, label=f"label{k}", metric=metric)
                assert math.isnan(cell["value"])
                assert cell["flag"] == f"undefined: {reason}"
        entry = analysis.verdict["per_label"][k]
        assert (entry["verdict"], entry["reason"]) == ("undefined", reason)
        assert {"what": f"label label{k}", "reason": reason} in analysis.not_measured
        assert find(analysis.collapse, label=f"label{k}")["state"] == "undefined"
    # Macro is the one defined label under every condition.
    for name in ("real", "recon", "jpeg_q75"):
        macro = find(analysis.t_curve, condition=name, label="macro", metric="auroc")
        label = find(analysis.per_label, condition=name, label="label0", metric="auroc")
        assert macro["value"] == label["value"]
        assert macro["flag"] == "n_labels_used=1/4"
    assert analysis.verdict["overall"]["n_labels_used"] == 1


def test_no_label_defined_is_said_and_not_a_crash(scores: BottleneckScores) -> None:
    analysis = analyse_bottleneck(replaced(scores, target=np.zeros_like(scores.target)), SETTINGS)
    assert analysis.verdict["overall"]["verdict"] == "undefined"
    assert "Nothing can be said" in analysis.verdict["overall"]["sentence"]


def test_few_positives_are_inconclusive_with_the_number_that_would_do() -> None:
    scores = make_scores(n=60, n_labels=2, seed=3, steps=(), controls=False, n_stages=0)
    weaker = scores.logits[0] - 1.1 * scores.target * (np.arange(60) % 2 == 0)[:, None]
    analysis = analyse_bottleneck(with_recon(scores, weaker.astype(np.float32)), SETTINGS)
    entries = [entry for entry in analysis.verdict["per_label"] if entry["verdict"] == "inconclusive"]
    assert entries
    for entry in entries:
        assert entry["needed_positives"] > entry["n_pos"]
        assert f"needs about {entry['needed_positives']} positives" in analysis.verdict["overall"]["sentence"]


def test_perfect_ranking_of_a_handful_of_positives_proves_nothing() -> None:
    scores = make_scores(n=40, n_labels=1, steps=(), controls=False, n_stages=0)
    target = np.zeros((40, 1), np.uint8)
    target[:6] = 1
    original = np.where(target == 1, 3.0, -3.0) + np.linspace(-1, 1, 40)[:, None]
    other = np.where(target == 1, 3.0, -3.0) + np.linspace(1, -1, 40)[:, None]
    logits = np.stack([original, other]).astype(np.float32)
    changed = replaced(scores, target=target, known=np.ones_like(target, dtype=np.bool_), logits=logits)
    analysis = analyse_bottleneck(changed, SETTINGS)
    [entry] = analysis.verdict["per_label"]
    assert entry["delta_auroc"] == 0
    assert entry["verdict"] == "inconclusive"
    # None of six positives lost: a loss of 39 % would show none with 5 % probability.
    assert entry["ci_lo"] == pytest.approx(-(1 - 0.05 ** (1 / 6)))
    assert entry["needed_positives"] == 59
    overall = analysis.verdict["overall"]
    assert overall["verdict"] == "inconclusive"
    assert overall["ci_lo"] == pytest.approx(entry["ci_lo"])
    assert "macro AUROC changes by .000 (95 % CI −.393 to .000" in overall["sentence"]
    flag = find(analysis.per_label, condition="recon", label="label0", metric="auroc")["flag"]
    assert "rule of three" in flag


def test_agreement_against_plain_loops(scores: BottleneckScores, analysis: BottleneckAnalysis) -> None:
    k, row = 1, 1
    mask = scores.known[:, k]
    y = scores.target[mask, k].astype(bool)
    o, c = (scores.logits[r, :, k].astype(np.float64) for r in (0, row))
    po, pc = expit(o), expit(c)
    before, after = o[mask] >= scores.threshold_global, c[mask] >= scores.threshold_global
    own = scores.threshold_label[k]
    change = (pc - po)[mask]
    kl = np.mean([entropy([a, 1 - a], [b, 1 - b]) for a, b in zip(po, pc)])
    js = np.mean(
        [
            0.5
            * (
                entropy([a, 1 - a], [(a + b) / 2, 1 - (a + b) / 2])
                + entropy([b, 1 - b], [(a + b) / 2, 1 - (a + b) / 2])
            )
            for a, b in zip(po, pc)
        ]
    )
    expected = {
        "mean_abs_delta_p": np.abs(pc - po).mean(),
        "delta_p": (pc - po).mean(),
        "erased": np.maximum(-change[y], 0).mean(),
        "hallucinated": np.maximum(change[~y], 0).mean(),
        "kl": kl,
        "js": js,
        "flip_rate": (before != after).mean(),
        "negative_flip_rate": ((before == y) & (after != y)).mean(),
        "positive_flip_rate": ((before != y) & (after == y)).mean(),
        "flip_rate_label": ((o[mask] >= own) != (c[mask] >= own)).mean(),
    }
    for metric, value in expected.items():
        cell = find(analysis.agreement, condition="recon", label="label1", metric=metric)
        assert cell["value"] == pytest.approx(value, abs=1e-9), metric
        assert cell["ci_lo"] <= cell["value"] <= cell["ci_hi"]
    flips = [find(analysis.agreement, condition="recon", label=f"label{k}", metric="flip_rate") for k in range(3)]
    macro = find(analysis.agreement, condition="recon", label="macro", metric="flip_rate")
    assert macro["value"] == pytest.approx(np.mean([cell["value"] for cell in flips]))
    half = norm.ppf(0.975) * np.sqrt(np.mean(np.abs(pc - po) ** 2) - np.abs(pc - po).mean() ** 2) / math.sqrt(len(o))
    cell = find(analysis.agreement, condition="recon", label="label1", metric="mean_abs_delta_p")
    assert cell["ci_hi"] - cell["value"] == pytest.approx(half, rel=1e-6)


def test_cosines_stand_beside_their_null(scores: BottleneckScores, analysis: BottleneckAnalysis) -> None:
    null = scores.similarity_null[:, 1].astype(np.float64).mean()
    raw = scores.similarity[1, :, 1].astype(np.float64).mean()
    cell = find(analysis.agreement, condition="recon", label="all", metric="stage0.pooled_cosine")
    assert cell["value"] == pytest.approx(raw)
    cell = find(analysis.agreement, condition="recon", label="all", metric="stage0.pooled_cosine_normalised")
    assert cell["value"] == pytest.approx((raw - null) / (1 - null))
    assert find(analysis.agreement, condition="null", metric="stage0.pooled_cosine")["value"] == pytest.approx(null)


def test_collapse_follows_the_definition(scores: BottleneckScores, analysis: BottleneckAnalysis) -> None:
    row = find(analysis.collapse, label="label1")
    curve = {
        name: find(analysis.per_label, condition=name, draw=draw, label="label1", metric="auroc")["value"]
        for name, draw in (("real", None), ("recon", None), ("t14", "mean"), ("t330", "mean"), ("t875", "mean"))
    }
    threshold = 0.5 + 0.5 * (curve["real"] - 0.5)
    assert row["threshold_auroc"] == pytest.approx(threshold)
    assert curve["t14"] > curve["t330"] > threshold > curve["t875"]
    share = (curve["t330"] - threshold) / (curve["t330"] - curve["t875"])
    assert row["state"] == "collapsed"
    assert row["collapse_log_snr"] == pytest.approx(0.2 + share * (-4.0 - 0.2))
    assert row["collapse_log_snr_eff"] == pytest.approx(row["collapse_log_snr"] - 0.5)
    assert row["collapse_t"] == pytest.approx(330 + share * (875 - 330))
    assert row["ci_lo"] <= row["collapse_log_snr"] <= row["ci_hi"]
    assert find(analysis.collapse, label="label0")["state"] == "collapsed_at_recon"
    upper = {
        name: find(analysis.per_label, condition=name, draw="mean", label="label1", metric="auroc")["ci_sim_hi"]
        for name in ("t14", "t330", "t875")
    }
    proved = [log_snr for name, log_snr in (("t14", 4.3), ("t330", 0.2), ("t875", -4.0)) if upper[name] < -0.05]
    assert row["onset_log_snr"] == max(proved)


def test_the_nearest_control_is_named_only_when_intervals_overlap(scores: BottleneckScores) -> None:
    control = int(np.flatnonzero(scores.condition == "down8")[0])
    analysis = analyse_bottleneck(with_recon(scores, scores.logits[control]), SETTINGS)
    assert analysis.verdict["overall"]["nearest_control"] == "down8"
    assert "comparable to downsampling by 8" in analysis.verdict["overall"]["sentence"]
    noise = np.random.default_rng(1).normal(size=scores.logits[0].shape).astype(np.float32)
    analysis = analyse_bottleneck(with_recon(scores, noise), SETTINGS)
    overall = analysis.verdict["overall"]
    assert (overall["nearest_control"], overall["exceeded_control"]) == (None, "down8")


def test_rows_have_the_documented_columns(analysis: BottleneckAnalysis) -> None:
    for rows in (analysis.per_label, analysis.t_curve, analysis.agreement):
        assert all(tuple(row) == LONG_COLUMNS for row in rows)
        keys = [(row["condition"], row["draw"], row["label"], row["metric"]) for row in rows]
        assert len(set(keys)) == len(keys)
    assert all(tuple(row) == COLLAPSE_COLUMNS for row in analysis.collapse)


def test_the_order_of_samples_does_not_matter(scores: BottleneckScores, analysis: BottleneckAnalysis) -> None:
    order = np.random.default_rng(5).permutation(len(scores.id))
    shuffled = replaced(
        scores,
        id=scores.id[order],
        target=scores.target[order],
        known=scores.known[order],
        logits=scores.logits[:, order],
        similarity=scores.similarity[:, order],
    )
    again = analyse_bottleneck(shuffled, SETTINGS)
    for one, other in zip(analysis.per_label, again.per_label):
        for key in ("value", "delta", "delta_ci_lo", "ci_sim_lo", "p"):
            if one["metric"] in ("auroc", "brier"):
                assert one[key] == pytest.approx(other[key], abs=1e-9, nan_ok=True)


def test_the_same_scores_give_the_same_tables(scores: BottleneckScores, analysis: BottleneckAnalysis) -> None:
    again = analyse_bottleneck(scores, SETTINGS)
    assert repr(again.per_label) == repr(analysis.per_label)
    assert repr(again.collapse) == repr(analysis.collapse)


def test_a_label_called_like_an_average_keeps_apart(scores: BottleneckScores) -> None:
    analysis = analyse_bottleneck(replaced(scores, label=np.array(["macro", "micro", "all"])), SETTINGS)
    assert {row["label"] for row in analysis.per_label} == {"macro (label)", "micro (label)", "all (label)"}


def test_labels_that_are_not_evaluated_stay_out(scores: BottleneckScores) -> None:
    analysis = analyse_bottleneck(replaced(scores, evaluated=np.array([False, True, True])), SETTINGS)
    assert {row["label"] for row in analysis.per_label} == {"label1", "label2"}
    assert analysis.verdict["overall"]["verdict"] == "not a bottleneck"
    with pytest.raises(ArtifactError, match="0 evaluated labels"):
        analyse_bottleneck(replaced(scores, evaluated=np.zeros(3, np.bool_)), SETTINGS)


def test_nan_logits_are_an_error_and_no_number(scores: BottleneckScores) -> None:
    broken = scores.logits.copy()
    broken[1] = np.nan
    with pytest.raises(NumericalError):
        analyse_bottleneck(replaced(scores, logits=broken), SETTINGS)


def test_without_noise_controls_and_features_the_gaps_are_named() -> None:
    scores = make_scores(steps=(), controls=False, n_stages=0)
    analysis = analyse_bottleneck(scores, SETTINGS)
    assert analysis.collapse == []
    assert analysis.t_curve_summary == []
    gaps = {entry["what"] for entry in analysis.not_measured}
    assert {"t curve, collapse and onset", "controls", "embedding and stage cosines"} <= gaps
    assert "Under latent noise" not in analysis.verdict["overall"]["sentence"]


def test_statistics_can_be_redone_from_the_file_alone(tmp_path: Any, scores: BottleneckScores) -> None:
    scores.save(tmp_path / "scores.npz")
    again = analyse_bottleneck(BottleneckScores.load(tmp_path / "scores.npz"), SETTINGS)
    assert repr(again.per_label) == repr(analyse_bottleneck(scores, SETTINGS).per_label)


def test_the_report_imports_no_torch_and_no_lightning() -> None:
    code = (
        "import sys, layerscope.report.console, layerscope.report.figures_bottleneck\n"
        "import layerscope.report.figures_classifier\n"
        "sys.exit(bool({'torch', 'lightning', 'matplotlib.pyplot', 'pandas'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_bootstrapped_intervals_hold_their_value_and_follow_the_spread(analysis: BottleneckAnalysis) -> None:
    for row in [*analysis.per_label, *analysis.t_curve]:
        if row["metric"] in ("ap", "f1_fixed", "f1_fixed_label", "f1_reopt") and math.isfinite(row["ci_lo"]):
            assert row["ci_lo"] <= row["value"] <= row["ci_hi"]
            if math.isfinite(row["delta"]):
                assert row["delta_ci_lo"] <= row["delta"] <= row["delta_ci_hi"]


def test_bootstrap_of_average_precision_against_a_loop(scores: BottleneckScores) -> None:
    rng = np.random.default_rng(7)
    y, s = known_column(scores, 1, 1)
    _, original = known_column(scores, 0, 1)
    drawn = [rng.integers(len(y), size=len(y)) for _ in range(800)]
    pairs = [(y[i], s[i], original[i]) for i in drawn]
    samples = np.array([average_precision_score(t, c) - average_precision_score(t, o) for t, c, o in pairs])
    analysis = analyse_bottleneck(scores, AnalysisSettings(n_bootstrap=2000))
    cell = find(analysis.per_label, condition="recon", label="label1", metric="ap")
    width = np.quantile(samples, 0.975) - np.quantile(samples, 0.025)
    # Two bootstraps of about a thousand resamples agree on the width to a few per cent.
    assert cell["delta_ci_hi"] - cell["delta_ci_lo"] == pytest.approx(width, rel=0.15)
    assert cell["delta"] == pytest.approx(average_precision_score(y, s) - average_precision_score(y, original))


def test_without_thresholds_flips_and_f1_are_undefined_and_named(scores: BottleneckScores) -> None:
    changed = replaced(scores, threshold_global=math.nan, threshold_label=np.full(3, np.nan))
    analysis = analyse_bottleneck(changed, SETTINGS)
    for label in ("label1", "macro"):
        cell = find(analysis.agreement, condition="recon", label=label, metric="flip_rate")
        assert math.isnan(cell["value"])
    assert find(analysis.agreement, condition="recon", label="label1", metric="flip_rate_label")["flag"] == (
        "undefined: no threshold"
    )
    assert math.isnan(find(analysis.per_label, condition="recon", label="label1", metric="f1_fixed")["value"])
    assert find(analysis.per_label, condition="recon", label="label1", metric="f1_reopt")["value"] > 0
    assert "F1 and flips at the fixed threshold" in {entry["what"] for entry in analysis.not_measured}
    assert analysis.verdict["overall"]["verdict"] == "bottleneck"


def test_pure_noise_counts_in_the_tables_and_not_on_the_axis() -> None:
    with_pure = analyse_bottleneck(make_scores(steps=(*STEPS, (1000, -math.inf))), SETTINGS)
    assert find(with_pure.t_curve, condition="t1000", draw="mean", label="macro", metric="auroc")["value"] < 0.6
    assert math.isfinite(find(with_pure.collapse, label="label1")["collapse_log_snr"])
    assert with_pure.verdict["overall"]["lowest_log_snr"] == -4.0

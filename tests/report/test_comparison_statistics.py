"""A comparison against scripts of its own: scikit-learn, plain loops, and the diagnoses of single runs."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from compared_runs import NOISE, write_run
from scipy.stats import norm
from scipy.stats import t as student
from sklearn.metrics import average_precision_score, roc_auc_score
from synthetic_scores import classifier_scores, make_scores, replaced, with_recon

from layerscope.artifacts import BottleneckScores
from layerscope.artifacts.tables import COMPARISON_COLUMNS, PAIRWISE_COLUMNS, format_csv
from layerscope.functional.bootstrap import resample_weights
from layerscope.report.bottleneck import AnalysisSettings, analyse_bottleneck
from layerscope.report.comparison.analysis import compare_runs
from layerscope.report.comparison.reading import reading
from layerscope.report.comparison.result import HIGHER_IS_BETTER, Comparison
from layerscope.report.comparison.runs import read_runs

SETTINGS = AnalysisSettings(n_bootstrap=200)


def noisier(scores: BottleneckScores, jitter: float, seed: int = 9) -> BottleneckScores:
    """The same images under a VAE that adds noise of its own to what the teacher sees."""
    rng = np.random.default_rng(seed)
    logits = scores.logits.copy()
    logits[1:] = np.round(logits[1:] + jitter * rng.standard_normal(logits[1:].shape), 2)
    quality = scores.quality - np.float32(jitter)
    return replaced(scores, logits=logits, quality=quality)


def compared(tmp_path: Path, settings: AnalysisSettings = SETTINGS, **scores: BottleneckScores) -> Comparison:
    paths = [str(write_run(tmp_path / name, one)) for name, one in scores.items()]
    return compare_runs(read_runs(paths), settings=settings)


def delong(scores: BottleneckScores, row: int) -> tuple[np.ndarray, np.ndarray]:
    """Macro AUROC by scikit-learn, and each image's influence on it (N,) by counting pairs."""
    n, n_labels = scores.target.shape
    areas, psi = [], np.zeros(n)
    for k in range(n_labels):
        known = scores.known[:, k]
        score, y = scores.logits[row, :, k], scores.target[:, k] == 1
        areas.append(roc_auc_score(y[known], score[known]))
        positive, negative = np.flatnonzero(known & y), np.flatnonzero(known & ~y)
        for i in positive:
            won = np.mean((score[i] > score[negative]) + 0.5 * (score[i] == score[negative]))
            psi[i] += n / len(positive) * (won - areas[-1]) / n_labels
        for j in negative:
            won = np.mean((score[positive] > score[j]) + 0.5 * (score[positive] == score[j]))
            psi[j] += n / len(negative) * (won - areas[-1]) / n_labels
    return np.mean(areas), psi


def patients(scores: BottleneckScores, psi: np.ndarray) -> float:
    """Standard error with patients as units."""
    return math.sqrt(sum(psi[scores.group == one].sum() ** 2 for one in set(scores.group))) / len(psi)


def test_differences_are_those_of_a_script(tmp_path: Path) -> None:
    one = make_scores(n=160, groups=True)
    other = noisier(one, 1.0)
    settings = AnalysisSettings(n_bootstrap=40)
    found = compared(tmp_path, settings, one=one, other=other)
    rows = {name: [k for k, c in enumerate(one.condition) if c == name] for name in ("recon", "t330")}
    pairs = {}
    for condition, members in rows.items():
        parts = [[delong(scores, row) for row in members] for scores in (one, other)]
        delta = np.mean([p[0] for p in parts[0]]) - np.mean([p[0] for p in parts[1]])
        psi = np.mean([p[1] for p in parts[0]], axis=0) - np.mean([p[1] for p in parts[1]], axis=0)
        pairs[condition] = delta, patients(one, psi)
        row = found.pair("one", "other", "auroc", condition=condition)
        assert row is not None
        delta, se = pairs[condition]
        assert row["difference"] == pytest.approx(delta)
        assert [row["ci_lo"], row["ci_hi"]] == pytest.approx([delta - 1.959964 * se, delta + 1.959964 * se])
        assert row["p"] == pytest.approx(2 * norm.sf(abs(delta) / se))
    # One pair is a family of its own; the three noise steps are another.
    recon, step = (found.pair("one", "other", "auroc", condition=name) for name in rows)
    assert recon is not None
    assert step is not None
    assert recon["p_adjusted"] == recon["p"]
    assert recon["ci_sim_lo"] == recon["ci_lo"]
    assert step["p_adjusted"] > step["p"]
    assert step["ci_sim_lo"] < step["ci_lo"]
    assert recon["outcome"].startswith("better")
    assert "one training seed" in recon["flag"]

    weights = resample_weights(len(one.id), 40, 0, one.group).astype(int)

    def ap(scores: BottleneckScores, drawn: np.ndarray) -> float:
        values = []
        for k in range(3):
            take = np.repeat(np.arange(len(drawn)), drawn)
            take = take[scores.known[take, k]]
            for row, sign in ((1, 1), (0, -1)):
                values.append(sign * average_precision_score(scores.target[take, k], scores.logits[row, take, k]) / 3)
        return sum(values)

    once = np.ones(len(one.id), dtype=int)
    delta = ap(one, once) - ap(other, once)
    drawn = np.array([ap(one, w) - ap(other, w) for w in weights])
    lo, hi = np.quantile(drawn, [0.025, 0.975]) - drawn.mean() + delta
    row = found.pair("one", "other", "ap")
    assert row is not None
    assert [row["difference"], row["ci_lo"], row["ci_hi"]] == pytest.approx([delta, lo, hi])
    assert row["p"] == pytest.approx(2 * norm.sf(abs(delta) / drawn.std(ddof=1)))

    # Quality differs by the same for every image, so that nothing is left to chance.
    row = found.pair("one", "other", "psnr_db", label="")
    assert row is not None
    assert row["difference"] == pytest.approx(1.0)
    assert row["outcome"] == "better"
    # Retained area by the trapezoid rule on the three steps, which both have at the same places.
    steps = [("t875", -4.5), ("t330", -0.3), ("t14", 3.8)]
    for name, scores in (("one", one), ("other", other)):
        curve = [np.mean([delong(scores, r)[0] for r in np.flatnonzero(scores.condition == c)]) for c, _ in steps]
        share = np.trapezoid(np.array(curve) - 0.5, [x for _, x in steps]) / (delong(scores, 0)[0] - 0.5) / 8.3
        own = found.of(name, "retained_area", condition="")
        assert own is not None
        assert own["value"] == pytest.approx(share)


def test_the_retained_area_has_the_spread_of_its_bootstrap(tmp_path: Path) -> None:
    """Whole patients drawn again, the area of each resample by counted pairs and numpy."""
    one = make_scores(n=400, groups=True, controls=False, n_labels=2)
    found = compared(tmp_path, one=one, other=noisier(one, 0.5)).of("one", "retained_area", condition="")
    assert found is not None
    weights = resample_weights(len(one.id), 600, 5, one.group)
    auroc: dict[str, list[np.ndarray]] = {}
    for row, name in enumerate(one.condition):
        for k in range(2):
            known, y, score = one.known[:, k], one.target[:, k] == 1, one.logits[row, :, k]
            won = (np.sign(score[known & y][:, None] - score[known & ~y][None]) + 1) / 2
            m, n = weights[:, known & y], weights[:, known & ~y]
            auroc.setdefault(str(name), []).append(((m @ won) * n).sum(axis=1) / m.sum(axis=1) / n.sum(axis=1))
    mean = {name: np.mean(values, axis=0) for name, values in auroc.items()}
    curves = np.stack([mean[name] for name in ("t875", "t330", "t14")], axis=1)
    areas = np.trapezoid(curves - 0.5, [-4.0, 0.2, 4.3], axis=1) / 8.3 / (mean["real"] - 0.5)
    assert (found["ci_hi"] - found["ci_lo"]) / 2 / 1.96 == pytest.approx(np.std(areas), rel=0.12)


@pytest.mark.parametrize("thin", [False, True])
def test_a_run_alone_says_what_its_diagnosis_says(tmp_path: Path, thin: bool) -> None:
    one = make_scores(n=240, groups=True)
    if thin:
        target = one.target.copy()
        target[:, 2] = 0
        target[:12, 2] = 1
        one = replaced(one, target=target)
    analysis = analyse_bottleneck(one, SETTINGS)
    found = compared(tmp_path, one=one, other=noisier(one, 0.5))
    overall = analysis.verdict["overall"]
    assert list(found.left_out) == overall["labels_left_out"]
    macro = found.of("one", "delta_auroc")
    assert macro is not None
    assert [macro[name] for name in ("value", "ci_lo", "ci_hi")] == [
        overall[name] for name in ("delta_auroc", "ci_lo", "ci_hi")
    ]
    assert found.auroc_real == overall["auroc_real"]
    tables = {(r["metric"], r["label"]): r for r in analysis.per_label if r["condition"] == "recon"}
    for name in found.labels:
        for metric in ("auroc", "ap"):
            own, lost = found.of("one", metric, name), found.of("one", f"delta_{metric}", name)
            assert own is not None
            assert lost is not None
            expected = tables[metric, name]
            ends = [expected[c] for c in ("value", "ci_lo", "ci_hi", "delta", "delta_ci_lo", "delta_ci_hi")]
            assert [row[c] for row in (own, lost) for c in ("value", "ci_lo", "ci_hi")] == pytest.approx(ends)
    for row in analysis.agreement:
        if row["condition"] == "recon" and row["label"] == "macro":
            own = found.of("one", row["metric"])
            if own is not None:
                assert [own[c] for c in ("value", "ci_lo", "ci_hi")] == pytest.approx(
                    [row[c] for c in ("value", "ci_lo", "ci_hi")]
                )
    for row in analysis.collapse:
        own = found.of("one", "collapse_log_snr_eff", row["label"], "")
        assert own is not None
        if row["label"] != "macro" or not thin:
            assert own["value"] == pytest.approx(row["collapse_log_snr_eff"], nan_ok=True)
    for row in analysis.t_curve:
        if row["metric"] == "auroc" and row["label"] == "macro" and row["draw"] == "mean" and not thin:
            own = found.of("one", "delta_auroc", condition=row["condition"])
            assert own is not None
            assert [own[c] for c in ("value", "ci_lo", "ci_hi")] == pytest.approx(
                [row[c] for c in ("delta", "delta_ci_lo", "delta_ci_hi")]
            )
    if thin:
        label = found.pair("one", "other", "auroc", label="label2")
        assert label is not None
        assert label["outcome"] == "cannot be told"
        assert "only" in label["flag"]


def test_collapse_points_vary_as_in_the_full_bootstrap(tmp_path: Path) -> None:
    one = make_scores(
        n=1200, n_labels=2, groups=True, controls=False, steps=((14, 4.3), (330, 0.2), (700, -2.0), (875, -4.0))
    )
    settings = AnalysisSettings(n_bootstrap=400)
    own = compared(tmp_path, settings, one=one, other=noisier(one, 0.5)).of("one", "collapse_log_snr_eff", "label1", "")
    [full] = [row for row in analyse_bottleneck(one, settings).collapse if row["label"] == "label1"]
    assert own is not None
    # Log-SNR and effective log-SNR are 0.5 apart here.
    width = full["ci_hi"] - full["ci_lo"]
    assert own["ci_lo"] == pytest.approx(full["ci_lo"] - 0.5, abs=0.1 * width)
    assert own["ci_hi"] == pytest.approx(full["ci_hi"] - 0.5, abs=0.1 * width)


def test_identical_candidates_tie(tmp_path: Path) -> None:
    one = make_scores(groups=True)
    third = noisier(one, 1.5)
    quality = one.quality.copy()
    quality[0, 0] = np.inf
    one = replaced(one, quality=quality)
    found = compared(tmp_path, a=one, b=one, worse=third)
    for row in found.pairwise:
        if (row["candidate"], row["other"]) == ("a", "b"):
            cells = ("difference", "ci_lo", "ci_hi", "ci_sim_lo", "ci_sim_hi")
            assert [row[name] for name in cells] == [0] * 5, row
            assert row["p"] == row["p_adjusted"] == 1
            assert row["outcome"] in ("no change of ranking", "no difference shown")
    for row in found.figures:
        if row["candidate"] == "a":
            twin = found.of("b", row["metric"], row["label"], row["condition"])
            assert twin is not None
            assert twin["rank"] == row["rank"]
    psnr = [found.of(name, "psnr_db", label="") for name in ("a", "b", "worse")]
    assert [row and row["value"] for row in psnr[:2]] == [math.inf, math.inf]
    assert [row and row["rank"] for row in psnr] == [1, 1, 3]
    assert {row["metric"] for row in found.figures} <= set(HIGHER_IS_BETTER)
    # Both tables are what their files hold, and every place occurs once.
    format_csv(found.figures, COMPARISON_COLUMNS)
    format_csv(found.pairwise, PAIRWISE_COLUMNS)
    places = [tuple(row[c] for c in ("candidate", "run", "condition", "label", "metric")) for row in found.figures]
    assert len(set(places)) == len(places)


def test_samples_that_only_change_places_within_their_class(tmp_path: Path) -> None:
    """Perfect separation under both: no spread, but other orders; the rule of three says what may be unseen."""
    one = make_scores(n=200, n_labels=1, controls=False, steps=())
    known = np.ones_like(one.known)
    rng = np.random.default_rng(0)
    apart = [10.0 * one.target + rng.random(one.target.shape) for _ in range(3)]
    logits = np.stack([apart[0], apart[1]]).astype(np.float32)
    one = replaced(one, known=known, logits=logits)
    other = with_recon(one, apart[2].astype(np.float32))
    row = compared(tmp_path, one=one, other=other).pair("one", "other", "auroc")
    assert row is not None
    smallest = min(int(one.target.sum()), int((1 - one.target).sum()))
    assert row["difference"] == 0
    assert row["ci_hi"] == 0
    assert row["p"] == 1
    assert row["ci_lo"] == pytest.approx(-(1 - 0.05 ** (1 / smallest)))
    assert row["outcome"] == "no difference shown"


def test_nothing_is_told_where_the_teacher_is_at_chance(tmp_path: Path) -> None:
    """Near chance nothing can be lost: two VAEs that hardly differ there are not shown to be equal."""
    one = make_scores(n=160, steps=(), controls=False)
    rng = np.random.default_rng(5)
    chance = replaced(one, logits=np.repeat(rng.standard_normal((1, 160, 3)), 2, axis=0).astype(np.float32))
    found = compared(tmp_path, a=noisier(chance, 0.01), b=noisier(chance, 0.01, seed=3))
    row = found.pair("a", "b", "auroc")
    assert row is not None
    assert max(abs(row["ci_sim_lo"]), abs(row["ci_sim_hi"])) < found.margin
    assert row["outcome"] == "cannot be told"
    assert any("cannot be told (the teacher does not recognise the labels" in sentence for sentence in reading(found))


def test_a_difference_is_not_shown_where_the_widened_interval_holds_0(tmp_path: Path) -> None:
    """The first label is apart under both VAEs, in other orders: what few images cannot show widens the average."""
    n, rng = 200, np.random.default_rng(0)
    target = (rng.random((n, 2)) < 0.3).astype(np.uint8)
    base = 1.5 * target + rng.standard_normal((n, 2))
    logits = []
    for jitter in (0.2, 0.5):
        seen = np.stack([base, base + jitter * rng.standard_normal((n, 2))])
        seen[:, :, 0] = 10 * target[:, 0] + rng.random((2, n))
        seen[0, :, 0] = 10 * target[:, 0]
        logits.append(seen.astype(np.float32))
    scores = make_scores(n=n, n_labels=2, steps=(), controls=False)
    scores = replaced(scores, target=target, known=np.ones((n, 2), dtype=np.bool_))
    found = compared(tmp_path, **{name: replaced(scores, logits=one) for name, one in zip("ab", logits)})
    row = found.pair("a", "b", "auroc")
    assert row is not None
    assert row["p_adjusted"] < 0.05
    assert row["ci_sim_lo"] < 0 < row["ci_sim_hi"]
    assert row["outcome"] == "no difference shown"


def test_a_baseline_has_families_of_its_own(tmp_path: Path) -> None:
    one = make_scores(n=160)
    paths = [write_run(tmp_path / name, noisier(one, 0.3 * k, seed=k)) for k, name in enumerate("abc")]
    found = compare_runs(read_runs(list(map(str, paths))), baseline="b", settings=SETTINGS)
    macro = [
        row for row in found.pairwise if (row["metric"], row["label"], row["condition"]) == ("auroc", "macro", "recon")
    ]
    assert [(row["candidate"], row["other"]) for row in macro] == [("a", "b"), ("c", "b"), ("a", "c")]
    # Two are corrected together, by at most Bonferroni's factor; the third stands alone.
    for row in macro[:2]:
        assert row["p"] < row["p_adjusted"] <= 2 * row["p"]
    assert macro[2]["p_adjusted"] == macro[2]["p"]
    families = [row["family"] for row in macro]
    assert families[0] == families[1] != families[2]
    assert "pairs with b" in families[0]


def test_training_seeds_are_paired_by_name_or_apart(tmp_path: Path) -> None:
    base = make_scores(n=160, groups=True, controls=False)
    jitters = enumerate((("x", 0.4), ("y", 1.2)))
    arms = {f"{arm}_seed{s}": noisier(base, j, seed=10 * s + k) for k, (arm, j) in jitters for s in (1, 2, 3)}
    found = compared(tmp_path, **arms)
    assert found.runs == {"x": ["x_seed1", "x_seed2", "x_seed3"], "y": ["y_seed1", "y_seed2", "y_seed3"]}
    each = {name: delong(scores, 1) for name, scores in arms.items()}
    differences = np.array([each[f"x_seed{s}"][0] - each[f"y_seed{s}"][0] for s in (1, 2, 3)])
    psi = np.mean([each[f"x_seed{s}"][1] - each[f"y_seed{s}"][1] for s in (1, 2, 3)], axis=0)
    images, seeds = patients(base, psi) ** 2, differences.var(ddof=1) / 3
    df = (images + seeds) ** 2 / (images**2 / (len(set(base.group)) - 1) + seeds**2 / 2)
    half = student.ppf(0.975, df) * math.sqrt(images + seeds)
    row = found.pair("x", "y", "auroc")
    assert row is not None
    delta = differences.mean()
    assert [row["difference"], row["ci_lo"], row["ci_hi"]] == pytest.approx([delta, delta - half, delta + half])
    assert row["p"] == pytest.approx(2 * student.sf(abs(delta) / math.sqrt(images + seeds), df))
    assert "training seed" not in row["flag"]
    own = found.of("x", "delta_auroc")
    alone = [row for row in found.figures if row["run"] and row["metric"] == "delta_auroc" and row["label"] == "macro"]
    assert own is not None
    assert own["n_runs"] == 3
    values = [row["value"] for row in alone if row["condition"] == "recon" and row["candidate"] == "x"]
    assert own["value"] == pytest.approx(np.mean(values))
    assert own["seed_sd"] == pytest.approx(np.std(values, ddof=1))

    # Of two seeds against three there are no pairs: Welch's variance.
    unpaired = compare_runs(read_runs([str(tmp_path / name) for name in list(arms)[:5]]), settings=SETTINGS)
    row = unpaired.pair("x", "y", "auroc")
    x, y = (np.array([each[f"{arm}_seed{s}"][0] for s in of]) for arm, of in (("x", (1, 2, 3)), ("y", (1, 2))))
    psi = np.mean([each[f"x_seed{s}"][1] for s in (1, 2, 3)], axis=0) - np.mean(
        [each[f"y_seed{s}"][1] for s in (1, 2)], axis=0
    )
    parts = [patients(base, psi) ** 2, x.var(ddof=1) / 3, y.var(ddof=1) / 2]
    assert row is not None
    assert "two training seeds" in row["flag"]
    df = sum(parts) ** 2 / sum(v**2 / n for v, n in zip(parts, (len(set(base.group)) - 1, 2, 1)))
    half = student.ppf(0.975, df) * math.sqrt(sum(parts))
    assert (row["ci_hi"] - row["ci_lo"]) / 2 == pytest.approx(half)


def test_collapse_states_are_ranked(tmp_path: Path) -> None:
    """Never lost is best, lost by the reconstruction alone is worst, equal states tie."""
    real = make_scores(n=300, n_labels=1, controls=False)
    keeps = np.repeat(real.logits[:1], len(real.logits), axis=0)
    lost = keeps.copy()
    lost[1:] = np.random.default_rng(0).standard_normal(lost[1:].shape)
    half = keeps.copy()
    half[-2:] = lost[-2:]
    kinds = {"keeps": keeps, "keeps_too": keeps, "half": half, "lost": lost}
    found = compared(tmp_path, **{name: replaced(real, logits=logits) for name, logits in kinds.items()})
    rows = [found.of(name, "collapse_log_snr_eff", condition="") for name in kinds]
    assert [row and row["rank"] for row in rows] == [1, 1, 3, 4]
    assert [bool(row and math.isfinite(row["value"])) for row in rows] == [False, False, True, False]
    assert rows[0] is not None
    assert rows[3] is not None
    assert "not reached" in rows[0]["flag"]
    assert "collapsed at recon" in rows[3]["flag"]
    pair = found.pair("keeps", "lost", "collapse_log_snr_eff", condition="")
    assert pair is not None
    assert pair["difference"] == pytest.approx(-4.5 - 3.8)


def test_one_noise_step_has_no_area_and_no_point_of_its_own(tmp_path: Path) -> None:
    one = make_scores(n=120, n_labels=1, steps=((14, 4.3),), controls=False)
    one = replaced(one, logits=np.repeat(one.logits[:1], 3, axis=0))
    found = compared(tmp_path, one=one, other=noisier(one, 0.1))
    point, area = (found.of("one", m, condition="") for m in ("collapse_log_snr_eff", "retained_area"))
    assert point is not None
    assert area is not None
    assert math.isnan(point["value"])
    assert point["rank"] == 1
    assert math.isnan(area["value"])
    assert "fewer than two noise steps" in area["flag"]
    assert found.pair("one", "other", "collapse_log_snr_eff", condition="") is None


def test_other_noise_is_not_compared_step_by_step(tmp_path: Path) -> None:
    one = make_scores(n=120)
    same = write_run(tmp_path / "same", one)
    shape = write_run(tmp_path / "shape", noisier(one, 0.2), noise={**NOISE, "latent_shape": [16, 32, 32]})
    seed = write_run(tmp_path / "seed", noisier(one, 0.3), noise={**NOISE, "noise_seed": 1}, device="cuda")
    found = compare_runs(read_runs([str(same), str(shape), str(seed)]), settings=SETTINGS)
    step = found.pair("same", "shape", "auroc", condition="t330")
    assert step is not None
    assert "other latent shape" in step["flag"]
    assert found.pair("same", "seed", "auroc", condition="t330") is None
    assert found.pair("same", "seed", "retained_area", condition="") is not None
    own = found.of("same", "auroc", condition="t330")
    assert own is not None
    assert own["rank"] is None
    elements = [found.of(name, "latent_elements", "", "") for name in ("same", "shape")]
    assert [row and (row["value"], row["rank"]) for row in elements] == [(4096, 1), (16384, 3)]
    named = " ".join(entry["what"] for entry in found.not_measured)
    for what in ("noise_seed", "other shapes", "the same device", "training seeds", "encode_seconds", "clustered"):
        assert what in named


def test_steps_of_one_name_may_be_other_noise(tmp_path: Path) -> None:
    """A schedule of one's own, and latents of another scale: what is called t330 is not the same noise."""
    one = make_scores(n=120)
    at = one.condition == "t330"
    other = noisier(one, 0.3)
    moved = {
        "own": replaced(other, log_snr=one.log_snr - at, log_snr_eff=one.log_snr_eff.copy()),
        "scaled": replaced(other, log_snr_eff=one.log_snr_eff - 0.5 * at),
        "measured": replaced(other, log_snr_eff=one.log_snr_eff - 0.09 * at),
    }
    for name, scores in moved.items():
        found = compared(tmp_path / name, one=one, other=scores)
        told = [entry["what"] for entry in found.not_measured if "as one noise" in entry["what"]]
        agrees = name == "measured"
        assert told == ([] if agrees else ["noise steps t330 as one noise"])
        for step, compares in (("t330", agrees), ("t14", True), ("recon", True)):
            own = found.of("one", "auroc", condition=step)
            assert own is not None
            assert (own["rank"] is not None) == compares
            assert (found.pair("one", "other", "auroc", condition=step) is not None) == compares


def test_a_run_measured_less_far_does_not_rank_better_for_it(tmp_path: Path) -> None:
    """Lost at -2 by one, not lost by the other, which was measured to 0.2 only: nothing there tells them apart."""
    far = make_scores(n=300, n_labels=1, controls=False, steps=((14, 4.3), (100, 3.0), (330, 0.2), (875, -4.0)))
    logits = np.repeat(far.logits[:1], len(far.logits), axis=0)
    logits[far.condition == "t875"] = np.random.default_rng(0).standard_normal(logits[0].shape)
    far = replaced(far, logits=logits)
    rows = far.condition != "t875"
    names = ("condition", "kind", "t", "draw", "log_snr", "log_snr_eff", "similarity")
    near = replaced(far, logits=logits[rows], **{name: getattr(far, name)[rows] for name in names})
    found = compared(tmp_path, far=far, near=near)
    cells = [found.of(name, "collapse_log_snr_eff", condition="") for name in ("far", "near")]
    assert [row and row["rank"] for row in cells] == [1, 1]
    assert cells[0] is not None
    # What was measured of it stays.
    assert -4.5 < cells[0]["value"] < -0.3


def test_adjusted_p_is_never_below_p_where_no_resample_differs(tmp_path: Path) -> None:
    """Lost by the reconstruction or never, in every resample: as little as the number of resamples can tell."""
    real = make_scores(n=300, n_labels=1, controls=False)
    keeps = np.repeat(real.logits[:1], len(real.logits), axis=0)
    lost = keeps.copy()
    lost[1:] = np.random.default_rng(0).standard_normal(lost[1:].shape)
    kinds = {"lost": lost} | {f"keeps{k}": keeps for k in range(4)}
    found = compared(tmp_path, **{name: replaced(real, logits=logits) for name, logits in kinds.items()})
    pairs = [row for row in found.pairwise if row["metric"] == "collapse_log_snr_eff"]
    assert [row["p"] for row in pairs[:4]] == pytest.approx([2 / 201] * 4)
    assert all(row["p_adjusted"] >= row["p"] for row in pairs)
    assert all(row["ci_sim_lo"] == row["difference"] for row in pairs[:4])


def test_classifiers_are_compared_on_real_images(tmp_path: Path) -> None:
    one = classifier_scores(absent=True)
    noise = np.random.default_rng(1).standard_normal(one.logits.shape)
    weak = replace(one, logits=(one.logits + 3 * noise).astype(np.float32), threshold_global=0.9)
    paths = [write_run(tmp_path / "strong", one), write_run(tmp_path / "weak", weak, data_hash="d" * 64)]
    found = compare_runs(read_runs(list(map(str, paths))), settings=SETTINGS)
    for k in range(2):
        known = one.known[:, k]
        values = [roc_auc_score(one.target[known, k], s.logits[known, k]) for s in (one, weak)]
        own = found.of("strong", "auroc", f"label{k}", "real")
        row = found.pair("strong", "weak", "auroc", f"label{k}", "real")
        assert own is not None
        assert own["value"] == pytest.approx(values[0])
        assert row is not None
        assert row["difference"] == pytest.approx(values[0] - values[1])
    macro = found.pair("strong", "weak", "auroc", condition="real")
    assert macro is not None
    assert macro["outcome"] == "better"
    assert found.left_out == {"label2": "no positives"}
    assert {row["metric"] for row in found.figures} == {"auroc", "ap"}

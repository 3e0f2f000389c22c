"""Means, effects, intervals and rankings of layers against plain loops and closed forms; every flag."""

from __future__ import annotations

import re

import numpy as np
import pytest
from synthetic_layers import BUMP, DECODER, changed, layer_scores

from layerscope.artifacts.layer_scores import DIFFERENCES, LOCALISATION, POINTS, LayerScores
from layerscope.errors import ConfigurationError, DataError
from layerscope.functional.bootstrap import resample_weights
from layerscope.functional.resampled_moments import resampled_moments
from layerscope.report.layer_effects import LayerAnalysis, Method, PairSettings, analyse_layers
from layerscope.report.layer_table import layer_table
from layerscope.report.sentences import short, significant

FAST = PairSettings(n_bootstrap=200)
SQNR = DIFFERENCES.index("sqnr_db")
RELATIVE = DIFFERENCES.index("relative_l2")
AUROC = LOCALISATION.index("auroc")


def drawn(n: int, resamples: int, seed: int) -> list[np.ndarray]:
    """Which pairs each resample holds, written out one by one."""
    weights = resample_weights(n, resamples, seed)
    return [np.repeat(np.arange(n), row.astype(int)) for row in weights]


def names(analysis: LayerAnalysis, rows: list[int]) -> list[str]:
    return [analysis.scores.layer[row] for row in rows]


def test_means_and_effects_and_their_intervals_are_those_of_a_plain_loop() -> None:
    scores = layer_scores(n=17, n_floor=9)
    settings = PairSettings(level=0.9, n_bootstrap=150, seed=5)
    table = analyse_layers(scores, settings).differences
    pairs, floors = drawn(17, 150, 5), drawn(9, 150, 6)
    for layer in (0, 8, 16):
        for column in range(len(DIFFERENCES)):
            x, y = scores.values[:, layer, column], scores.floor[:, layer, column]
            means, effects = [], []
            for some, other in zip(pairs, floors):
                a, b = x[some], y[other]
                means.append(a.mean())
                effects.append((a.mean() - b.mean()) / np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2))
            cell = (layer, column)
            assert table.pairs.mean[cell] == pytest.approx(x.mean(), rel=1e-12)
            assert table.pairs.std[cell] == pytest.approx(x.std(ddof=1), rel=1e-9)
            expected = (x.mean() - y.mean()) / np.sqrt((x.var(ddof=1) + y.var(ddof=1)) / 2)
            assert table.effect[cell] == pytest.approx(expected, rel=1e-9)
            interval = [table.pairs.lo[cell], table.pairs.hi[cell]]
            np.testing.assert_allclose(interval, np.quantile(means, [0.05, 0.95]), rtol=1e-9)
            interval = [table.effect_lo[cell], table.effect_hi[cell]]
            np.testing.assert_allclose(interval, np.quantile(effects, [0.05, 0.95]), rtol=1e-9)
            assert (table.pairs.n[cell], table.floor.n[cell]) == (17, 9)


def test_the_interval_of_a_mean_agrees_with_the_normal_one() -> None:
    scores = layer_scores(n=400)
    means = analyse_layers(scores, PairSettings(n_bootstrap=2000)).differences.pairs
    half = 1.96 * means.std / np.sqrt(400)
    np.testing.assert_allclose((means.hi - means.lo) / 2, half, rtol=0.06)


def test_patients_are_drawn_whole() -> None:
    """Every pair twice under one patient's name is no more evidence than once."""
    once = layer_scores(n=20, masks=False)
    doubled = changed(
        once,
        id=[f"{name} {copy}" for name in once.id for copy in "ab"],
        group=[name for name in once.id for _ in "ab"],
        values=np.repeat(once.values, 2, axis=0),
        localisation=np.repeat(once.localisation, 2, axis=0),
        control=np.repeat(once.control, 2, axis=0),
        mask_fraction=np.repeat(once.mask_fraction, 2),
    )
    single, twice = (analyse_layers(scores, FAST).differences.pairs for scores in (once, doubled))
    np.testing.assert_allclose(twice.lo, single.lo, rtol=1e-9)
    np.testing.assert_allclose(twice.hi, single.hi, rtol=1e-9)
    assert (twice.n == 40).all()
    assert (twice.units == 20).all()


def test_the_floor_is_resampled_on_its_own() -> None:
    """Drawn along with the pairs, a floor of the very same values would give an effect of exactly 0, always."""
    scores = layer_scores(n=20)
    table = analyse_layers(changed(scores, floor=scores.values), FAST).differences
    assert np.allclose(table.effect, 0)
    assert (table.effect_lo < -0.2).all()
    assert (table.effect_hi > 0.2).all()


def test_moments_keep_their_digits_far_from_zero() -> None:
    values = 1e6 + np.random.default_rng(0).normal(0, 1e-3, size=(50, 3))
    _, mean, variance = resampled_moments(values, np.ones((1, 50)))
    np.testing.assert_allclose(variance[0], values.var(axis=0, ddof=1), rtol=1e-6)
    np.testing.assert_allclose(mean[0], values.mean(axis=0), rtol=1e-15)
    with pytest.raises(DataError, match="must be"):
        resampled_moments(values, np.ones((1, 49)))


def test_layers_are_ranked_by_the_effect_of_relative_l2_and_points_never() -> None:
    analysis = analyse_layers(layer_scores(relative=(0.9, 0.9, *BUMP[2:-1], 0.9)), FAST)
    ranking = analysis.ranking
    assert (ranking.metric, ranking.statistic, ranking.fallback) == ("relative_l2", "effect", "")
    assert sorted(names(analysis, ranking.layers)) == sorted(DECODER)
    effects = analysis.differences.effect[ranking.layers, RELATIVE]
    assert (np.diff(effects) <= 0).all()
    assert "decoder.conv_out" not in names(analysis, analysis.top_ranked())
    for metric in (*DIFFERENCES, "linear_cka"):
        assert not set(names(analysis, analysis.order(metric))) & set(POINTS)


def test_where_smaller_means_more_different_the_smallest_comes_first() -> None:
    analysis = analyse_layers(layer_scores(), FAST)
    table = analysis.differences
    for statistic, values in (("mean", table.pairs.mean), ("effect", table.effect)):
        order = analysis.order("sqnr_db", statistic)  # type: ignore[arg-type]
        assert (np.diff(values[order, SQNR]) >= 0).all()
    assert (np.diff(analysis.cka.value[analysis.order("linear_cka")]) >= 0).all()
    by_sqnr = analyse_layers(layer_scores(), PairSettings(n_bootstrap=20, rank_by="sqnr_db")).ranking
    assert by_sqnr.layers == analysis.order("sqnr_db")
    assert set(analysis.top("sqnr_db")) == set(analysis.top("relative_l2"))


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        (layer_scores(n=1), "fewer than two pairs"),
        (layer_scores(n_floor=0), "no noise floor"),
        (layer_scores(n_floor=1), "fewer than two floor pairs"),
        (layer_scores(spread=0, noise=0), "neither pairs nor floor vary"),
    ],
    ids=["one pair", "no floor", "one floor pair", "no spread"],
)
def test_without_effects_the_mean_ranks_and_the_reason_is_told(scores: object, reason: str) -> None:
    analysis = analyse_layers(scores, FAST)  # type: ignore[arg-type]
    assert analysis.ranking.statistic == "mean"
    assert reason in analysis.ranking.fallback
    assert analysis.ranking.layers == analysis.order("relative_l2")
    assert len(analysis.ranking.layers) == len(DECODER)
    assert np.isnan(analysis.differences.effect).all()
    assert reason in layer_table(analysis)


def test_every_undefined_or_rough_cell_says_why() -> None:
    def flags(**options: object) -> str:
        return analyse_layers(layer_scores(**options), FAST).differences.flag[5][RELATIVE]  # type: ignore[arg-type]

    assert flags() == ""
    assert flags(n=1) == "one pair: no interval; no effect: one pair"
    assert flags(n_floor=0) == "no effect: no noise floor"
    assert flags(n_floor=1) == "no effect: one floor pair"
    assert flags(spread=0, noise=0) == "no effect: no spread in pairs and floor"
    assert flags(n=9) == "fewer than 10 pairs: interval is rough"
    assert flags(n_floor=9) == "fewer than 10 floor pairs: effect is rough"
    scores = layer_scores()
    one_patient = analyse_layers(changed(scores, group=["p"] * 40), FAST).differences
    assert one_patient.flag[5][RELATIVE] == "one patient: no interval"
    assert np.isnan(one_patient.effect_lo).all()
    assert np.isnan(one_patient.pairs.lo).all()
    assert np.isfinite(one_patient.effect).all()


def test_identical_pairs_are_left_out_of_sqnr_and_counted() -> None:
    scores = layer_scores()
    values, floor = scores.values.copy(), scores.floor.copy()
    values[:3, 4] = [0, 0, 0, 0, np.inf]
    values[:, 5] = [0, 0, 0, 0, np.inf]
    values[7, 6, SQNR] = -np.inf
    floor[:2, 4, SQNR] = np.inf
    floor[:, 7] = [0, 0, 0, 0, np.inf]
    table = analyse_layers(changed(scores, values=values, floor=floor), FAST).differences
    assert table.flag[4][SQNR] == "3 identical pairs left out; 2 identical floor pairs left out"
    assert table.pairs.mean[4, SQNR] == pytest.approx(scores.values[3:, 4, SQNR].mean())
    assert table.pairs.n[4, SQNR] == 37
    assert table.pairs.n[4, RELATIVE] == 40
    assert table.pairs.mean[4, RELATIVE] == pytest.approx(scores.values[3:, 4, RELATIVE].sum() / 40)
    assert table.flag[5][SQNR] == "40 identical pairs left out; no pair has a value"
    assert table.flag[6][SQNR] == "1 pair without a signal left out"
    assert table.flag[7][SQNR] == "24 identical floor pairs left out; no effect: no floor pair has a value"
    # A floor without any difference has no spread, the pairs have: the effect is defined.
    assert table.flag[7][RELATIVE] == ""
    x = scores.values[:, 7, RELATIVE]
    assert table.effect[7, RELATIVE] == pytest.approx(x.mean() / np.sqrt(x.var(ddof=1) / 2))
    assert table.effect[5, RELATIVE] < 0


def test_skipped_pairs_change_nothing_for_the_others() -> None:
    whole = layer_scores(n=12)
    rows = [0, *range(2, 12)]
    values = whole.values.copy()
    values[1] = np.nan
    skipped = analyse_layers(changed(whole, values=values, skipped=[(whole.id[1], "broken file")]), FAST)
    fields = ("values", "localisation", "control", "mask_fraction")
    rest = changed(whole, id=[whole.id[k] for k in rows], **{name: getattr(whole, name)[rows] for name in fields})
    without = analyse_layers(rest, FAST)
    np.testing.assert_array_equal(skipped.differences.effect_lo, without.differences.effect_lo)
    np.testing.assert_array_equal(skipped.localisation.difference.hi, without.localisation.difference.hi)
    assert skipped.n_pairs == 11


def test_localisation_is_paired_with_its_control_and_counts_what_it_leaves_out() -> None:
    scores = layer_scores()
    share, own, control = scores.mask_fraction.copy(), scores.localisation.copy(), scores.control.copy()
    share[:3], share[3:5], share[5] = np.nan, 0.0, 1.0
    # What is recorded for pairs without a usable mask must not count, whatever it is.
    own[:6], control[:6] = 1.0, 0.0
    own[6:8, 4], control[6:8, 4] = np.nan, np.nan
    analysis = analyse_layers(changed(scores, mask_fraction=share, localisation=own, control=control), FAST)
    table = analysis.localisation
    assert (table.no_mask, table.empty_mask, table.whole_mask) == (3, 2, 1)
    assert table.nothing[4] == 2
    assert table.nothing.sum() == 2
    assert table.mask.n[4, AUROC] == 32
    assert table.mask.n[3, AUROC] == 34
    change = own[6:, 3, AUROC] - control[6:, 3, AUROC]
    assert table.difference.mean[3, AUROC] == pytest.approx(change.mean())
    # Resamples of all 40 pairs, of which the usable ones count.
    means = [change[some[some >= 6] - 6].mean() for some in drawn(40, 200, 0)]
    # Student's quantile for 34 pairs is 2.0345.
    lower = change.mean() - 2.0345 * np.sqrt(34 / 33) * np.std(means, ddof=1)
    assert table.difference.lo[3, AUROC] == pytest.approx(lower, rel=1e-4)
    assert table.at_lesion(3)
    assert not analyse_layers(changed(scores, control=scores.localisation), FAST).localisation.at_lesion(3)
    assert not analyse_layers(layer_scores(masks=False), FAST).localisation.measured


def test_an_empty_run_is_reported_and_no_crash() -> None:
    analysis = analyse_layers(layer_scores(n=0, n_floor=0), FAST)
    assert analysis.ranking.layers == []
    assert analysis.differences.flag[2][0] == "no pair has a value"
    only_points = analyse_layers(layer_scores(relative=(0.1, 0.1), layer=("input", "latent")), FAST)
    assert only_points.ranking.layers == []
    assert "latent" in layer_table(only_points)


def test_settings_that_would_mislead_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="do not compare layers"):
        PairSettings(rank_by="l2")  # type: ignore[arg-type]
    for wrong in ({"level": 1.0}, {"n_bootstrap": 0}, {"seed": -1}):
        with pytest.raises(ConfigurationError, match=next(iter(wrong))):
            PairSettings(**wrong)  # type: ignore[arg-type]


def test_the_table_shows_the_top_layers_of_every_metric_with_their_ranks() -> None:
    analysis = analyse_layers(layer_scores(), FAST)
    text = layer_table(analysis)
    lines = {line.split()[0]: line for line in text.splitlines()}
    first = names(analysis, analysis.top_ranked(1))[0]
    assert f"{analysis.differences.effect[analysis.ranking.layers[0], RELATIVE]:.2f} (1)" in lines[first]
    for metric in (*DIFFERENCES, "linear_cka"):
        assert set(names(analysis, analysis.top(metric))) <= set(lines)
    assert text.count("(1)") == 8  # the effect, six metrics, the explanation
    assert not any(re.search(r"\(\d\)", lines[point]) for point in POINTS)
    auroc = analysis.localisation.mask.mean[analysis.scores.layer.index(first), LOCALISATION.index("auroc")]
    assert f"{short(float(auroc))} (" in lines[first]
    assert text.splitlines()[-1] == "For research only; not for clinical use."
    assert max(map(len, text.splitlines())) <= 152
    for row in analysis.top_ranked():
        expected = significant(float(analysis.scores.floor[:, row, RELATIVE].mean()))
        assert expected in lines[analysis.scores.layer[row]].replace("(", " ").split()


def headings(scores: LayerScores, method: Method, settings: PairSettings = FAST) -> str:
    line = layer_table(analyse_layers(scores, settings), method=method).splitlines()[0]
    return " ".join(line.split())


def test_the_table_leaves_out_what_the_method_does_not_ask_for_and_a_floor_that_is_not_there() -> None:
    scores = layer_scores()
    assert headings(scores, "both").endswith("CI relative L2 floor 1 − cosine SQNR dB RMS L2 CKA AUROC (shifted)")
    assert headings(scores, "l2").endswith("CI relative L2 floor SQNR dB RMS L2 CKA AUROC (shifted)")
    assert headings(scores, "cosine").endswith("CI relative L2 floor 1 − cosine SQNR dB CKA AUROC (shifted)")
    assert "AUROC" not in headings(layer_scores(masks=False), "both")
    assert "neither compares layers" not in layer_table(analyse_layers(scores, FAST), method="cosine")
    by_cosine = PairSettings(n_bootstrap=20, rank_by="cosine_dissimilarity")
    assert "1 − cosine" in headings(scores, "l2", by_cosine)
    assert "floor" not in headings(layer_scores(n_floor=0), "both")
    assert "floor" in headings(layer_scores(n=1, n_floor=1), "both")
    assert "1 floor pair (pairs of negatives)" in layer_table(analyse_layers(layer_scores(n=1, n_floor=1), FAST))

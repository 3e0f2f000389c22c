"""Linear CKA over groups: value and interval against plain loops, every flag, and why it is missing."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_layers import changed, cka_hsic, layer_scores

from layerscope.artifacts.layer_scores import LayerScores
from layerscope.report.layer_cka import cka_not_measured, layer_cka
from layerscope.report.layer_effects import PairSettings, analyse_layers
from layerscope.report.layer_rows import summary_of
from layerscope.report.layer_table import layer_table

FAST = PairSettings(n_bootstrap=50)
ROUGH = "fewer than 10 groups: interval is rough"


def hsic_of_pairs(groups: int, layers: int, seed: int) -> np.ndarray:
    """(groups, layers, 3) of groups of four random pairs, straight from the definition."""
    rng = np.random.default_rng(seed)

    def hsic(k: np.ndarray, l: np.ndarray) -> float:  # noqa: E741
        one = np.ones(4)
        k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))  # noqa: E741
        cross = one @ k @ l @ one
        return float((np.trace(k @ l) + (one @ k @ one) * (one @ l @ one) / 6 - cross) / 4)

    found = np.empty((groups, layers, 3))
    for group in range(groups):
        for layer in range(layers):
            x = rng.normal(size=(4, 8))
            y = x + 0.5 * (layer + 1) * rng.normal(size=(4, 8))
            k, l = x @ x.T, y @ y.T  # noqa: E741
            found[group, layer] = hsic(k, l), hsic(k, k), hsic(l, l)
    return found


def ratio(hsic: np.ndarray) -> float:
    kl, kk, ll = hsic.sum(axis=0)
    return float(kl / np.sqrt(kk * ll)) if kk > 0 and ll > 0 else np.nan


def bootstrap(hsic: np.ndarray, resamples: int, seed: int) -> list[float]:
    """Of one layer's groups (G, 3), each resample written out."""
    rng = np.random.default_rng(seed)
    return [ratio(hsic[rng.integers(len(hsic), size=len(hsic))]) for _ in range(resamples)]


def test_value_and_interval_are_those_of_a_plain_bootstrap_over_groups() -> None:
    hsic = hsic_of_pairs(groups=20, layers=3, seed=0)
    found = layer_cka(hsic, level=0.9, n_resamples=400, seed=0)
    assert found.groups.tolist() == [20] * 3
    for layer in range(3):
        assert found.value[layer] == pytest.approx(ratio(hsic[:, layer]), rel=1e-12)
        # Other draws, and many: the interval is that of the bootstrap but for its own few draws.
        lo, hi = np.quantile(bootstrap(hsic[:, layer], 20_000, seed=7), [0.05, 0.95])
        assert [found.lo[layer], found.hi[layer]] == pytest.approx([lo, hi], abs=0.15 * (hi - lo))
        # The same draws exactly: row by row from one generator.
        same = np.quantile(bootstrap(hsic[:, layer], 400, seed=0), [0.05, 0.95])
        np.testing.assert_allclose([found.lo[layer], found.hi[layer]], same, rtol=1e-9)


def test_a_group_without_a_number_is_left_out_of_its_layer_alone() -> None:
    hsic = hsic_of_pairs(groups=12, layers=2, seed=1)
    hsic[3, 0, 2] = np.nan
    hsic[5, 0, 0] = np.inf
    found = layer_cka(hsic, 0.95, 200, 0)
    assert found.groups.tolist() == [10, 12]
    assert found.value[0] == pytest.approx(ratio(np.delete(hsic[:, 0], [3, 5], axis=0)), rel=1e-12)
    assert found.value[1] == pytest.approx(ratio(hsic[:, 1]), rel=1e-12)
    assert (found.lo < found.value).all()
    assert (found.value < found.hi).all()


def test_every_undefined_or_rough_value_says_why() -> None:
    def of(groups: int) -> tuple[float, float, str]:
        found = layer_cka(cka_hsic(np.array([0.7]), groups), 0.95, 200, 0)
        return float(found.value[0]), float(found.hi[0] - found.lo[0]), found.flag[0]

    value, width, flag = of(10)
    assert (value, flag) == (pytest.approx(0.7), "")
    assert 0 < width < 0.5
    assert of(9)[2] == of(2)[2] == ROUGH
    value, width, flag = of(1)
    assert (value, flag) == (pytest.approx(0.7), "one group: no interval")
    assert np.isnan(width)
    assert np.isnan(of(0)[0])
    assert of(0)[2] == "no group has a value"
    hsic = cka_hsic(np.array([0.7, 0.7]), 12)
    hsic[:, 0, 1] = 0
    hsic[:11, 1, 2], hsic[11, 1, 2] = -0.1, 2.0  # positive in all only where the last group is drawn
    still, unsure = layer_cka(hsic, 0.95, 200, 0).flag
    assert still == "the layer does not vary over pairs, or too few groups tell whether it does"
    absent = sum(np.isnan(bootstrap(hsic[:, 1], 200, 0)))
    assert absent > 20
    assert unsure == f"undefined in {absent} of 200 resamples, which the interval leaves out"


@pytest.mark.parametrize("groups", [1, 2, 9])
def test_layers_are_not_ranked_from_few_groups(groups: int) -> None:
    analysis = analyse_layers(layer_scores(n=4 * groups), FAST)
    assert np.isfinite(analysis.cka.value).all()
    assert analysis.order("linear_cka") == []
    summary = summary_of(analysis)
    assert "linear_cka" not in summary["top5"]
    assert f"{groups} group" in {row["what"]: row["reason"] for row in summary["not_measured"]}["rank by linear CKA"]
    text = layer_table(analysis)
    assert f"CKA ranks no layers: {groups} group" in text
    # Every column but CKA ranks, the effect where there is a spread; the explanation has one more.
    assert text.count("(1)") == 1 + len({*summary["top5"]} - {"effect_cosine_dissimilarity", "effect_sqnr_db"})


def test_with_enough_groups_they_are_ranked() -> None:
    analysis = analyse_layers(layer_scores(n=40), FAST)
    assert len(summary_of(analysis)["top5"]["linear_cka"]) == 5
    assert "CKA ranks no layers" not in layer_table(analysis)


def reasons(scores: LayerScores) -> dict[str, str]:
    rows = cka_not_measured(scores, layer_cka(scores.cka_hsic, 0.95, 20, 0))
    return {row["what"]: row["reason"] for row in rows}


def test_lost_groups_are_told_apart_from_impossible_ones() -> None:
    whole = layer_scores(n=48)
    assert reasons(whole) == {}
    lost = changed(whole, cka_hsic=whole.cka_hsic[2:])
    assert reasons(lost) == {
        "part of linear CKA": "2 of 12 groups of 4 pairs are broken by skipped pairs: a skipped pair takes its group's "
        "up to 3 others along"
    }
    counts = summary_of(analyse_layers(lost, FAST))["counts"]
    assert (counts["cka_groups"], counts["cka_groups_lost"]) == (10, 2)
    none = whole.cka_hsic[:0]
    assert reasons(changed(whole, cka_hsic=none))["linear CKA"].startswith("12 of 12 groups of 4 pairs are broken")
    odd = changed(whole, cka_hsic=none, cka_possible=0)
    assert reasons(odd)["linear CKA"].endswith("data.init_args.batch_size must be a multiple of 4")
    assert summary_of(analyse_layers(odd, FAST))["counts"]["cka_groups_lost"] == 0
    assert reasons(layer_scores(n=3))["linear CKA"] == "too few pairs: 3, and a group takes 4"
    still = changed(whole, cka_hsic=0 * whole.cka_hsic)
    assert reasons(still) == {
        "linear CKA": "the layer does not vary over pairs, or too few groups tell whether it does"
    }

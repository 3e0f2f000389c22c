"""Result files of a pair diagnosis hold the scores, read back the same, and are strict JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_layers import DECODER, changed, layer_scores

from layerscope.artifacts import LOCALISATION_COLUMNS, PAIR_COLUMNS, read_csv, write_table
from layerscope.artifacts.layer_scores import DIFFERENCES, LOCALISATION, LayerScores
from layerscope.report.attribution import NOTICE
from layerscope.report.layer_effects import PairSettings, analyse_layers
from layerscope.report.layer_rows import aggregated_json, layer_json, localisation_rows, pair_rows, summary_of

FAST = PairSettings(n_bootstrap=50)


def awkward() -> LayerScores:
    """Identical pairs, skipped pairs, masks of every kind, layers without CKA, names that spreadsheets would run."""
    scores = layer_scores()
    values, share, own = (part.copy() for part in (scores.values, scores.mask_fraction, scores.localisation))
    hsic = scores.cka_hsic[1:].copy()  # without the group of the skipped pair
    values[2, 4] = [0, 0, 0, 0, np.inf]
    values[5] = np.nan
    share[0], share[1], share[5] = np.nan, 0.0, np.nan
    own[2, 4] = np.nan
    hsic[:, 3, 1] = 0
    pooled = scores.pooled.copy()
    pooled[4, 4] = np.inf
    return changed(
        scores,
        id=["=case", *scores.id[1:]],
        values=values,
        mask_fraction=share,
        localisation=own,
        cka_hsic=hsic,
        pooled=pooled,
        skipped=[(scores.id[5], "broken file")],
    )


def strict(record: Any) -> Any:
    """Through JSON that knows no NaN, and back unchanged."""
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    return record


def test_one_pair_as_json() -> None:
    scores = awkward()
    record = strict(layer_json(scores, 2))
    assert list(record) == scores.layer
    layer = record["decoder.conv_in"]
    row = scores.layer.index("decoder.conv_in")
    expected = dict(zip(("l2_value", "rms", "relative_l2", "cosine_value", "sqnr_db"), scores.values[2, row]))
    assert {name: layer[name] for name in expected} == expected
    assert layer["shape"] == [1, *scores.shape[row]]
    assert layer["auroc"] == scores.localisation[2, row, LOCALISATION.index("auroc")]
    assert layer["shifted_lift"] == scores.control[2, row, LOCALISATION.index("lift")]
    relative = DIFFERENCES.index("relative_l2")
    assert layer["floor_relative_l2"] == pytest.approx(scores.floor[:, row, relative].mean())
    assert "floor_relative_l2" not in layer_json(layer_scores(n_floor=0), 2)["latent"]
    assert "identical" not in layer
    identical = record[scores.layer[4]]
    assert (identical["sqnr_db"], identical["identical"], identical["l2_value"]) == (None, True, 0.0)
    assert identical["auroc"] is None
    assert "auroc" not in strict(layer_json(scores, 0))["latent"]
    with pytest.raises(ValueError, match="skipped"):
        layer_json(scores, 5)


def test_the_method_leaves_out_the_other_difference() -> None:
    scores = layer_scores()
    assert "cosine_value" not in layer_json(scores, 0, "l2")["latent"]
    assert "l2_value" not in layer_json(scores, 0, "cosine")["latent"]
    for method in ("l2", "cosine"):
        assert {"rms", "relative_l2", "sqnr_db"} <= set(layer_json(scores, 0, method)["latent"])  # type: ignore[arg-type]


def test_all_pairs_as_json() -> None:
    analysis = analyse_layers(awkward(), FAST)
    record = strict(aggregated_json(analysis))
    assert list(record) == analysis.scores.layer
    table = analysis.differences
    layer = record["decoder.up_blocks.1.resnets.0"]
    row = analysis.scores.layer.index("decoder.up_blocks.1.resnets.0")
    cell = (row, DIFFERENCES.index("rms"))
    assert layer["rms"] == {
        "mean": table.pairs.mean[cell],
        "std": table.pairs.std[cell],
        "n": 39,
        "ci_lo": table.pairs.lo[cell],
        "ci_hi": table.pairs.hi[cell],
        "floor_mean": table.floor.mean[cell],
        "floor_std": table.floor.std[cell],
        "floor_n": 24,
        "effect": table.effect[cell],
        "effect_ci_lo": table.effect_lo[cell],
        "effect_ci_hi": table.effect_hi[cell],
        "flag": "",
    }
    assert layer["linear_cka"] == {
        "value": analysis.cka.value[row],
        "ci_lo": analysis.cka.lo[row],
        "ci_hi": analysis.cka.hi[row],
        "groups": 9,
        "flag": "fewer than 10 groups: interval is rough",
    }
    assert layer["module"] == "ResnetBlock2D"
    assert layer["pooled"] == dict(zip(DIFFERENCES, analysis.scores.pooled[row]))
    assert layer["localisation"]["auroc"]["n"] == 37
    assert layer["localisation"]["auroc"]["difference_ci_lo"] > 0
    other = record[analysis.scores.layer[4]]
    assert other["sqnr_db"]["flag"] == "1 identical pair left out"
    assert (other["pooled"]["sqnr_db"], other["pooled"]["identical"]) == (None, True)
    assert other["localisation"]["nothing_to_localise"] == 1
    still = record[analysis.scores.layer[3]]["linear_cka"]
    assert (still["value"], still["ci_lo"], still["ci_hi"], still["groups"]) == (None, None, None, 9)
    assert still["flag"].startswith("the layer does not vary over pairs")
    for few in (layer_scores(n=1, n_floor=0, masks=False), layer_scores(n=0)):
        single = strict(aggregated_json(analyse_layers(few, FAST)))
        assert single["latent"]["rms"]["effect"] is None
        assert single["latent"]["rms"]["ci_lo"] is None
    assert "localisation" not in single["latent"]


def test_pairs_and_floor_read_back_from_csv(tmp_path: Path) -> None:
    scores = awkward()
    write_table(tmp_path / "pairs.csv", pair_rows(scores), PAIR_COLUMNS)
    rows = read_csv(tmp_path / "pairs.csv")
    assert len(rows) == (39 + 24) * len(scores.layer) * len(DIFFERENCES) + 1
    found = {(row["id"], row["role"], row["layer"], row["metric"]): row for row in rows}
    assert len(found) == len(rows)
    for column, metric in enumerate(DIFFERENCES):
        assert found["=case", "pair", "latent", metric]["value"] == scores.values[0, 1, column]
        assert found[scores.floor_id[3], "floor", "latent", metric]["value"] == scores.floor[3, 1, column]
    identical = found[scores.id[2], "pair", scores.layer[4], "sqnr_db"]
    assert math.isnan(identical["value"])
    assert identical["flag"] == "identical"
    assert found[scores.id[5], "pair", "", ""]["flag"] == "skipped: broken file"
    assert "inf" not in (tmp_path / "pairs.csv").read_text()


def test_localisation_reads_back_from_csv(tmp_path: Path) -> None:
    scores = awkward()
    write_table(tmp_path / "localisation.csv", localisation_rows(scores), LOCALISATION_COLUMNS)
    rows = read_csv(tmp_path / "localisation.csv")
    assert tuple(rows[0]) == LOCALISATION_COLUMNS
    assert len(rows) == 37 * len(scores.layer) + 3
    found = {(row["id"], row["layer"]): row for row in rows}
    row = found[scores.id[9], "decoder.conv_out"]
    place = scores.layer.index("decoder.conv_out")
    assert [row[name] for name in LOCALISATION] == scores.localisation[9, place].tolist()
    assert [row[f"shifted_{name}"] for name in LOCALISATION] == scores.control[9, place].tolist()
    assert row["mask_fraction"] == scores.mask_fraction[9]
    assert found["=case", ""]["flag"] == "no mask"
    assert found[scores.id[1], ""]["flag"] == "empty mask"
    assert found[scores.id[5], ""]["flag"] == "skipped: broken file"
    nothing = found[scores.id[2], scores.layer[4]]
    assert nothing["flag"] == "nothing to localise"
    assert math.isnan(nothing["auroc"])
    assert list(localisation_rows(layer_scores(masks=False))) == []


def test_the_summary_leads_with_what_was_found() -> None:
    analysis = analyse_layers(layer_scores(), FAST)
    summary = strict(summary_of(analysis))
    assert summary["ranking"]["metric"] == "relative_l2"
    assert summary["ranking"]["statistic"] == "effect"
    assert len(summary["ranking"]["layers"]) == len(DECODER)
    first = summary["ranking"]["layers"][0]
    assert first["ci_lo"] < first["value"] < first["ci_hi"]
    column = DIFFERENCES.index("relative_l2")
    for one in summary["ranking"]["layers"]:
        row = analysis.scores.layer.index(one["layer"])
        assert one["mean"] == pytest.approx(analysis.scores.values[:, row, column].mean())
        assert one["floor_mean"] == pytest.approx(analysis.scores.floor[:, row, column].mean())
    assert summary["attribution"]["steps"][0]["floor_factor"] > 0
    assert summary["top5"]["effect_relative_l2"] == [one["layer"] for one in summary["ranking"]["layers"][:5]]
    assert summary["top5"]["relative_l2"][0] == analysis.scores.layer[analysis.top("relative_l2")[0]]
    assert set(summary["top5"]) >= {*DIFFERENCES, "linear_cka"}
    assert "decoder.up_blocks.1" in summary["attribution"]["sentence"]
    assert summary["notice"] == NOTICE
    assert summary["counts"]["pairs"] == 40
    assert summary["counts"]["localised_pairs"] == 40
    assert [row["what"] for row in summary["not_measured"]] == ["clustered intervals"]


def test_what_is_missing_is_a_row_with_its_reason() -> None:
    def missing(scores: LayerScores) -> dict[str, str]:
        return {row["what"]: row["reason"] for row in strict(summary_of(analyse_layers(scores, FAST)))["not_measured"]}

    scores = layer_scores(n=3, n_floor=0, masks=False)
    rows = missing(scores)
    assert rows["effects"] == "there is no noise floor"
    assert rows["linear CKA"] == "too few pairs: 3, and a group takes 4"
    assert rows["localisation"] == "no pair has a mask"
    rows = missing(awkward())
    assert rows["pair case 05"] == "broken file"
    assert "1 without a mask, 1 with an empty mask" in rows["localisation of some pairs"]
    assert f"part of the localisation in {awkward().layer[4]}" in rows
    assert rows[f"linear CKA of {awkward().layer[3]}"].startswith("the layer does not vary over pairs")
    assert rows["part of linear CKA"].startswith("1 of 10 groups of 4 pairs is broken by skipped pairs")
    assert "up to 1 pair" in rows["part of sqnr_db"]
    rows = missing(layer_scores(n=1))
    assert rows["effects"] == "fewer than two pairs were measured"
    assert rows["intervals"] == "fewer than two pairs were measured"
    still = layer_scores()
    values, floor = still.values.copy(), still.floor.copy()
    values[:, 6], floor[:, 6] = values[0, 6], floor[0, 6]
    rows = missing(changed(still, values=values, floor=floor))
    assert rows[f"rank of {still.layer[6]}"] == "no effect: no spread in pairs and floor"
    assert "clustered intervals" not in missing(changed(still, group=still.id))
    twice = layer_scores((0.1, 0.1, 0.1, 0.1), layer=("input", "latent", "decoder.conv_in", "decoder.conv_in:2"))
    assert "another part of the image" in missing(twice)["stages and thirds of decoder.conv_in"]


def test_pairs_without_a_shifted_mask_are_left_out_and_counted() -> None:
    scores = layer_scores()
    control = scores.control.copy()
    control[:7] = np.nan
    summary = summary_of(analyse_layers(changed(scores, control=control), FAST))
    assert (summary["counts"]["localised_pairs"], summary["counts"]["without_shifted_mask"]) == (33, 7)
    rows = {row["what"]: row["reason"] for row in summary["not_measured"]}
    assert rows["localisation of some pairs"] == "pairs 7 whose shifted masks all overlap the lesion"
    cell = aggregated_json(analyse_layers(changed(scores, control=control), FAST))["latent"]["localisation"]["auroc"]
    assert cell["mean"] == pytest.approx(scores.localisation[7:, 1, LOCALISATION.index("auroc")].mean())
    assert cell["difference_mean"] == pytest.approx(cell["mean"] - cell["shifted_mean"])
    assert cell["n"] == cell["shifted_n"] == cell["difference_n"] == 33
    analysis = analyse_layers(changed(scores, control=np.full_like(control, np.nan)), FAST)
    assert "localisation" not in aggregated_json(analysis)["latent"]
    rows = {row["what"]: row["reason"] for row in summary_of(analysis)["not_measured"]}
    assert "there is no control" in rows["localisation"]

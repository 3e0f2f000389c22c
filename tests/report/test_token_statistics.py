"""Means, intervals and paired differences of token figures against plain loops; rows, summary, sentences and table."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import t as student
from synthetic_tokens import FIGURES, LATER, changed_tokens, token_scores

from layerscope.artifacts import AGGREGATE_COLUMNS, TOKEN_COLUMNS, read_csv, write_table
from layerscope.artifacts.token_scores import TokenScores, ViewScores
from layerscope.errors import ConfigurationError
from layerscope.functional.bootstrap import resample_weights
from layerscope.report.attribution import NOTICE
from layerscope.report.token_rows import aggregate_rows, image_rows, token_summary
from layerscope.report.token_sentences import token_sentences
from layerscope.report.token_statistics import TokenSettings, analyse_tokens, change_ratio
from layerscope.report.token_table import token_table

FAST = TokenSettings(n_bootstrap=100)


def with_values(scores: TokenScores, **values: np.ndarray) -> TokenScores:
    """The same views with other values."""
    views = [replace(view, values=values.get(view.view, view.values)) for view in scores.views]
    return changed_tokens(scores, views=views)


def other_models(**options: Any) -> TokenScores:
    return token_scores(views=("other_model",), layers=6, other_layers=4, **options)


def said(scores: TokenScores) -> str:
    return " ".join(token_sentences(analyse_tokens(scores, FAST)))


def not_measured(scores: TokenScores) -> dict[str, str]:
    return {row["what"]: row["reason"] for row in token_summary(analyse_tokens(scores, FAST))["not_measured"]}


def test_means_differences_and_ratios_are_those_of_a_plain_loop() -> None:
    scores = token_scores(n=15, layers=3)
    analysis = analyse_tokens(scores, TokenSettings(level=0.9, n_bootstrap=150, seed=4))
    draws = [np.repeat(np.arange(15), row.astype(int)) for row in resample_weights(15, 150, 4)]
    image, later = scores.views[0].values, scores.views[1].values
    for layer in range(3):
        for column, figure in enumerate(FIGURES):
            x = image[:, layer, column]
            found = analysis.views[0].at(figure, layer)
            assert (found.value, found.std) == (pytest.approx(x.mean()), pytest.approx(x.std(ddof=1)))
            expected = np.quantile([x[some].mean() for some in draws], [0.05, 0.95])
            np.testing.assert_allclose([found.lo, found.hi], expected, rtol=1e-9)
            d = later[:, layer, column] - x
            assert analysis.views[1].difference_at(figure, layer).value == pytest.approx(d.mean())
    drop, shifted = FIGURES.index("border_drop"), FIGURES.index("shifted_border_drop")
    above = analysis.views[0].above_control_at("border_drop")
    assert above.value == pytest.approx((image[:, -1, drop] - image[:, -1, shifted]).mean())
    a, b = (view.values[:, -1, LATER.index("token_change")] for view in scores.views[1:])
    ratio = change_ratio(analysis, analysis.views[1], analysis.views[2])
    assert ratio.value == pytest.approx(a.mean() / b.mean())
    expected = np.quantile([a[some].mean() / b[some].mean() for some in draws], [0.05, 0.95])
    np.testing.assert_allclose([ratio.lo, ratio.hi], expected, rtol=1e-9)


def test_the_interval_of_one_difference_is_that_of_students_paired_test() -> None:
    scores = token_scores(n=60, layers=1, views=("reconstruction",))
    found = analyse_tokens(scores, TokenSettings(n_bootstrap=4000)).views[1].difference_at("effective_rank")
    column = FIGURES.index("effective_rank")
    d = scores.views[1].values[:, 0, column] - scores.views[0].values[:, 0, column]
    half = student.ppf(0.975, 59) * d.std(ddof=1) / np.sqrt(60)
    np.testing.assert_allclose([found.lo, found.hi], [d.mean() - half, d.mean() + half], atol=0.05 * half)


@pytest.mark.parametrize("n", [6, 30], ids=["few images share the risk equally", "many"])
def test_the_band_of_differences_holds_in_all_layers_at_once(n: int) -> None:
    """Of views that differ by chance alone, intervals of single layers would miss 0 somewhere in half of the runs."""
    rng, missed, runs = np.random.default_rng(0), 0, 120
    names = [str(layer) for layer in range(10)]
    for _ in range(runs):
        values = rng.normal(size=(2, n, 10, 1))
        views = [
            ViewScores(view, "m", names, ["norm_max"], one, (), "")
            for view, one in zip(("image", "reconstruction"), values)
        ]
        analysis = analyse_tokens(TokenScores([str(row) for row in range(n)], None, views), FAST)
        missed += any(analysis.views[1].difference_at("norm_max", layer).sure for layer in range(10))
    # At 5 %, more than 14 of 120 would be seen once in a thousand times.
    assert missed <= 14


def test_patients_are_drawn_whole() -> None:
    """Every image twice under one patient's name is no more evidence than once."""
    once = token_scores(n=20, layers=2)
    doubled = changed_tokens(
        with_values(once, **{view.view: np.repeat(view.values, 2, axis=0) for view in once.views}),
        id=[f"{name} {copy}" for name in once.id for copy in "ab"],
    )
    grouped = changed_tokens(doubled, group=[name for name in once.id for _ in "ab"])
    single, twice, apart = (analyse_tokens(scores, FAST) for scores in (once, grouped, doubled))
    for before, after in zip(single.views, twice.views):
        np.testing.assert_allclose(after.means.lo, before.means.lo, rtol=1e-9)
        np.testing.assert_allclose(after.difference.hi, before.difference.hi, rtol=1e-9)
    wider, narrower = (one.views[0].means.hi - one.views[0].means.lo for one in (twice, apart))
    assert np.median(wider / narrower) == pytest.approx(np.sqrt(2), rel=0.15)
    assert token_summary(twice)["counts"] == {"images": 40, "skipped": 0, "patients": 20, "layers": 2}


def test_identical_views_differ_by_exactly_nothing() -> None:
    scores = token_scores(views=("reconstruction",))
    values = scores.views[1].values.copy()
    values[:, :, : len(FIGURES)] = scores.views[0].values
    values[:, :, LATER.index("token_change")] = 0
    same = with_values(scores, reconstruction=values)
    view = analyse_tokens(same, FAST).views[1]
    for figure in FIGURES:
        found = view.difference_at(figure)
        assert (found.value, found.lo, found.hi, found.sure) == (0, 0, 0, False)
    text = said(same)
    assert "the similarity of neighbours is the same at encoder.layers.11." in text
    assert "surely in" not in text
    assert "changes tokens by 0 [0, 0]" in text


def awkward() -> TokenScores:
    """Images without mask, without a border, skipped; a name that a spreadsheet would run; a map without contrast."""
    scores = token_scores(n=14, layers=3)
    views = {}
    for view in scores.views:
        values = view.values.copy()
        of_mask = [column for column, name in enumerate(view.figure) if "border" in name or "side_" in name]
        of_mask += [column for column, name in enumerate(view.figure) if name.endswith("auroc")]
        values[0][:, of_mask] = np.nan
        gone = ("border_similarity", "border_drop", "shifted_border_drop")
        values[1][:, [view.figure.index(name) for name in gone]] = np.nan
        values[2][:, view.figure.index("shifted_border_drop")] = np.nan
        values[3] = np.nan
        views[view.view] = values
    views["reconstruction"][4, 1, LATER.index("map_correlation")] = np.nan
    views["jpeg_q75"][5] = np.nan
    named = changed_tokens(
        scores,
        id=["=case", *scores.id[1:]],
        skipped=[(scores.id[3], "broken file")],
        with_mask=~np.isin(np.arange(14), (0, 3)),
    )
    return with_values(named, **views)


def test_what_has_no_value_is_left_out_counted_and_explained() -> None:
    scores = awkward()
    analysis = analyse_tokens(scores, FAST)
    flags = {(row["view"], row["layer"], row["figure"]): row for row in aggregate_rows(analysis)}
    row = flags["image", "encoder.layers.2", "border_drop"]
    rest = [r for r in range(14) if r not in (0, 1, 3)]
    x = scores.views[0].values[rest][:, 2, FIGURES.index("border_drop")]
    assert (row["n"], row["mean"]) == (11, pytest.approx(x.mean()))
    assert row["flag"] == "1 image left out: no mask; 1 image left out: no border in the patch grid"
    assert row["difference_from"] == "shifted_border_drop"
    # The control is compared over the ten images that have one.
    x, control = x[1:], scores.views[0].values[rest[1:]][:, 2, FIGURES.index("shifted_border_drop")]
    assert row["difference"] == pytest.approx((x - control).mean())
    assert "no shifted mask" in flags["image", "encoder.layers.0", "shifted_border_drop"]["flag"]
    assert flags["image", "encoder.layers.0", "norm_max"]["flag"] == ""
    assert flags["image", "encoder.layers.0", "norm_max"]["n"] == 13
    assert flags["reconstruction", "encoder.layers.1", "map_correlation"]["flag"] == (
        "1 image left out: a map without contrast"
    )
    row = flags["jpeg_q75", "encoder.layers.1", "effective_rank"]
    assert (row["n"], row["flag"]) == (12, "1 image left out: not measured in this view")
    assert row["difference_from"] == "image"
    missing = {row["what"]: row["reason"] for row in token_summary(analysis)["not_measured"]}
    assert missing[f"image {scores.id[3]}"] == "broken file"
    assert missing["border_drop of some images"] == "1 image: no mask; 1 image: no border in the patch grid"


def test_skipped_images_change_nothing_for_the_others() -> None:
    scores = awkward()
    rows = [row for row in range(14) if row != 3]
    rest = with_values(scores, **{view.view: view.values[rows] for view in scores.views})
    assert scores.with_mask is not None
    rest = changed_tokens(rest, id=[scores.id[row] for row in rows], skipped=[], with_mask=scores.with_mask[rows])
    for one, other in zip(analyse_tokens(scores, FAST).views, analyse_tokens(rest, FAST).views):
        np.testing.assert_array_equal(one.means.lo, other.means.lo)
        np.testing.assert_array_equal(one.difference.hi, other.difference.hi)


def test_tables_read_back_as_they_were_written(tmp_path: Path) -> None:
    scores = awkward()
    analysis = analyse_tokens(scores, FAST)
    for name, rows, columns in (
        ("images.csv", list(image_rows(scores)), TOKEN_COLUMNS),
        ("aggregate.csv", list(aggregate_rows(analysis)), AGGREGATE_COLUMNS),
    ):
        write_table(tmp_path / name, rows, columns)
        for written, read in zip(rows, read_csv(tmp_path / name), strict=True):
            assert list(read) == list(columns)
            for column in columns:
                same = written[column] == read[column]
                assert same or (math.isnan(written[column]) and math.isnan(read[column]))
    rows = list(image_rows(scores))
    assert len(rows) == 13 * 3 * (len(FIGURES) + 2 * len(LATER)) + 1
    assert rows[-1]["flag"] == "skipped: broken file"
    assert all(bool(row["flag"]) == math.isnan(row["value"]) for row in rows)
    assert rows[0]["id"] == "=case"


def test_one_image_has_no_intervals_and_says_so() -> None:
    scores = token_scores(n=1)
    analysis = analyse_tokens(scores, FAST)
    for row in aggregate_rows(analysis):
        ends = ("std", "ci_lo", "ci_hi", "difference_ci_lo", "difference_ci_hi")
        assert all(math.isnan(row[name]) for name in ends)
        assert "one image: no interval" in row["flag"]
        assert row["n"] == 1
    text = said(scores)
    assert "(mean cosine in one image)" in text
    assert "One image: no intervals" in text
    assert "[" not in text
    assert "surely" not in text
    assert "[" not in token_table(analysis)
    assert {"what": "intervals", "reason": "fewer than two images were measured"} in token_summary(analysis)[
        "not_measured"
    ]
    one_patient = changed_tokens(token_scores(n=5), group=["p"] * 5)
    assert "One patient: no intervals" in said(one_patient)


def test_another_model_is_compared_in_the_last_layers_only() -> None:
    scores = other_models()
    analysis = analyse_tokens(scores, FAST)
    view = analysis.views[1]
    d = scores.views[1].values[:, -1, 0] - scores.views[0].values[:, -1, 0]
    found = view.difference_at("neighbour_similarity")
    assert found.value == pytest.approx(d.mean())
    assert found.lo < d.mean() < found.hi < 0
    assert not view.difference_at("neighbour_similarity", 2).known
    rows = [
        row for row in aggregate_rows(analysis) if row["view"] == "other_model" and row["figure"] == "effective_rank"
    ]
    assert [row["flag"] for row in rows[:3]] == ["no difference: not the layers of image"] * 3
    assert rows[3]["flag"] == "difference between the last layers, that of image: encoder.layers.5"
    assert "no common directions" in not_measured(scores)["token_change of other_model"]
    assert "Not in this table" in token_table(analysis)


def test_levels_of_two_models_are_told_and_not_judged() -> None:
    scores = other_models()
    first, second = (f"{view.values[:, -1, 0].mean():.2f}".removeprefix("0") for view in scores.views)
    text = said(scores)
    assert f"In the other model (dinov2) neighbouring tokens are alike by {second} [" in text
    assert f"] at blocks.3, in clip by {first} [" in text
    assert "at encoder.layers.5; levels of two models are not comparable by themselves." in text
    # Two models whose layers have the same names are two models still.
    twins = [replace(view, layer=scores.views[0].layer[:4]) for view in scores.views]
    twins[0] = replace(twins[0], values=scores.views[0].values[:, :4])
    same_names = changed_tokens(scores, views=twins)
    assert analyse_tokens(same_names, FAST).views[1].same_layers
    for one in (text, said(same_names)):
        assert "differs by" not in one
        assert "surely in" not in one


UNIT, KIND = "no common unit in two models", "compared with another kind of token"


@pytest.mark.parametrize(
    ("metric", "source", "expected"),
    [
        ("cosine", "cls", {"norm_median": UNIT, "norm_max": UNIT}),
        ("cosine", "pooled", {"norm_median": UNIT, "norm_max": UNIT, "cls_similarity": KIND}),
        (
            "dot_product",
            "pooled",
            dict.fromkeys([name for name in FIGURES if name not in ("high_norm_share", "effective_rank")], UNIT),
        ),
    ],
)
def test_no_difference_without_a_common_unit(metric: str, source: str, expected: dict[str, str]) -> None:
    scores = other_models()
    views = [scores.views[0], replace(scores.views[1], cls_source=source)]
    scores = changed_tokens(scores, views=views, similarity_metric=metric)
    analysis = analyse_tokens(scores, FAST)
    view = analysis.views[1]
    for column, figure in enumerate(FIGURES):
        assert view.at(figure).known
        assert view.difference_at(figure).known == (figure not in expected)
        if figure in expected:
            assert view.flag[-1][column] == f"no difference: {expected[figure]}"
    found = not_measured(scores)
    for reason in set(expected.values()):
        names = ", ".join(figure for figure in FIGURES if expected.get(figure) == reason)
        assert found[f"differences of other_model: {names}"] == reason
    # Within one model all of them have a unit.
    within = analyse_tokens(changed_tokens(token_scores(), similarity_metric=metric), FAST).views[1]
    assert all(within.difference_at(figure).known for figure in FIGURES)


def test_the_summary_tells_how_much_a_reconstruction_changes_beside_the_controls() -> None:
    analysis = analyse_tokens(token_scores(views=("reconstruction", "jpeg_q75", "jpeg_q95")), FAST)
    record = token_summary(analysis)
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    found = record["comparison"]["reconstruction"]
    assert found["largest_token_change"]["layer"] == "encoder.layers.8"
    assert found["token_change"]["layer"] == "encoder.layers.11"
    assert list(found["controls"]) == ["jpeg_q75", "jpeg_q95"]
    ratio = found["controls"]["jpeg_q75"]["ratio"]
    assert ratio["ci_lo"] < ratio["value"] < ratio["ci_hi"]
    assert ratio["value"] == pytest.approx(found["token_change"]["mean"] / found["controls"]["jpeg_q75"]["mean"])
    # The synthetic reconstruction lowers this one everywhere and leaves the norm's share of high ones alone.
    assert len(found["differences"]["neighbour_similarity"]["layers_that_differ"]) == 12
    assert found["differences"]["high_norm_share"]["layers_that_differ"] == []
    assert "controls" not in record["comparison"]["jpeg_q75"]
    assert record["views"]["image"]["figures"]["border_drop"]["above_control"]["ci_lo"] > 0
    assert record["sentence"] == " ".join(record["sentences"])
    without = token_summary(analyse_tokens(token_scores(views=("reconstruction",)), FAST))
    assert "a measure for token_change" in [row["what"] for row in without["not_measured"]]


def test_sentences_say_what_was_found_and_how_surely() -> None:
    scores = token_scores()
    analysis = analyse_tokens(scores, FAST)
    text = said(scores)
    found = analysis.views[0].at("neighbour_similarity")
    numbers = (f"{part:.2f}".removeprefix("0") for part in (found.value, found.lo, found.hi))
    where = "At encoder.layers.11, before the final norm, neighbouring tokens are alike by {} [{}, {}]"
    assert where.format(*numbers) in text
    share = 100 * analysis.views[0].at("high_norm_share").value
    told = f"At encoder.layers.11, {share:.1f} % of the patch tokens have a high norm (mean over 24 images)."
    assert told in text
    assert "(mean cosine over 24 images)" in text
    assert "at the lesion's border (24 images with a mask), by .01 at shifted borders: surely more" in text
    assert "The reconstruction changes tokens by .0" in text
    assert "JPEG at quality 75 by .0" in text
    assert "; ratio 1." in text
    assert "The mean change is largest at encoder.layers.8" in text
    assert "In brackets: 95 % intervals over 24 images." in text
    values = scores.views[0].values.copy()
    values[:, :, FIGURES.index("shifted_border_drop")] = values[::-1, :, FIGURES.index("border_drop")]
    assert "not surely different" in said(with_values(scores, image=values))
    values[:, :, FIGURES.index("border_drop")] *= -1
    assert re.search(r"drops by −\.1.*a negative drop is a rise", said(with_values(scores, image=values)))
    assert "surely less" in said(with_values(scores, image=values))
    assert "border" not in said(token_scores(masks=False))
    assert "CLS" not in said(token_scores(cls=False))
    assert "The other image's tokens differ by" in said(token_scores(views=("other",)))
    assert "JPEG at quality 75 changes tokens by" in said(token_scores(views=("jpeg_q75",)))
    assert "mean dot product" in said(changed_tokens(scores, similarity_metric="dot_product"))
    after = changed_tokens(scores, norm="after")
    assert "At encoder.layers.11, after the final norm, neighbouring" in said(after)
    assert "over 24 images; tokens after the final norm." in token_table(analyse_tokens(after, FAST))
    assert "rough with fewer than 10" in said(token_scores(n=9))
    assert said(token_scores(n=0)) == "Nothing can be said about the tokens: no image was measured."


def test_what_stands_before_the_patches_tells_why_there_is_no_cls_token() -> None:
    def reason(*prefix: str) -> str:
        scores = token_scores(cls=False, views=())
        return not_measured(changed_tokens(scores, views=[replace(scores.views[0], prefix=prefix)]))[
            "cls_similarity of image"
        ]

    assert reason().startswith("the model has no CLS token; before its patches: no token. pooled: true")
    assert "before its patches: register (4)." in reason(*["register"] * 4)
    pooled = token_scores(views=())
    pooled = changed_tokens(pooled, views=[replace(pooled.views[0], prefix=(), cls_source="pooled")])
    assert "like the pooled token by" in said(pooled)
    assert "pooled" in token_table(analyse_tokens(pooled, FAST)).splitlines()[0]


def test_a_mask_that_no_pair_of_patches_crosses_is_a_mask() -> None:
    """On a single patch no figure of a mask is defined, and the image has one all the same."""
    scores = token_scores(n=3, layers=1, views=())
    values = scores.views[0].values.copy()
    values[:, :, FIGURES.index("border_similarity") :] = np.nan
    scores = changed_tokens(with_values(scores, image=values), with_mask=np.array([True, True, False]))
    assert not_measured(scores)["border_drop"] == "2 images: no border in the patch grid; 1 image: no mask"
    flags = {(row["id"], row["figure"]): row["flag"] for row in image_rows(scores)}
    assert flags["case 00", "inside_similarity"] == "no neighbours inside the mask"
    assert flags["case 02", "inside_similarity"] == "no mask"
    assert not_measured(changed_tokens(scores, with_mask=None))["border_drop"] == "no image has a mask"


@pytest.mark.parametrize(
    "scores",
    [
        token_scores(),
        token_scores(views=("reconstruction", "jpeg_q75", "jpeg_q95", "down2", "other_model"), n=8),
        token_scores(views=(), masks=False, cls=False, layers=1),
        token_scores(n=0),
    ],
    ids=["compared", "many controls", "bare", "no image"],
)
def test_the_table_fits_a_terminal_and_names_what_it_leaves_out(scores: TokenScores) -> None:
    analysis = analyse_tokens(scores, FAST)
    lines = token_table(analysis).splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[-1] == NOTICE
    if not analysis.n_images:
        return
    assert [line.split()[0] for line in lines[2 : 2 + len(scores.views[0].layer)]] == scores.views[0].layer
    shown = lines[0] + " ".join(lines[2 + len(scores.views[0].layer) :])
    for view in scores.views[1:5]:
        assert f"Δ {view.view.replace('reconstruction', 'recon')}" in shown
    assert ("CLS" in lines[0]) == (analysis.views[0].curve("cls_similarity") is not None)


def test_settings_that_would_mislead_are_refused() -> None:
    for wrong in ({"level": 1.0}, {"n_bootstrap": 0}, {"seed": -1}):
        with pytest.raises(ConfigurationError, match=next(iter(wrong))):
            TokenSettings(**wrong)  # type: ignore[arg-type]

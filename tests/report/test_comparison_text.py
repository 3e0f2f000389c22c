"""What a comparison says and writes: sentences by rule, tables, escaping, files."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_comparison import TEN, bottlenecks, classifiers

from layerscope.artifacts import COMPARISON_COLUMNS, open_run_directory, read_csv, read_summary
from layerscope.functional.contrasts import CANNOT_BE_TOLD
from layerscope.report.comparison.cells import difference
from layerscope.report.comparison.console import comparison_text
from layerscope.report.comparison.document import comparison_document
from layerscope.report.comparison.files import headline, write_comparison
from layerscope.report.comparison.reading import reading
from layerscope.report.comparison.result import FORCED_FLAG, SEED_FLAGS
from layerscope.report.comparison.sources import Sources
from layerscope.report.comparison.table import main_table, pair_tables, seed_table

THREE = {"small": (-0.05, 1024.0), "middle": (-0.016, 2048.0), "large": (-0.012, 4096.0)}
SOURCES = Sources({"small": ["runs/a|b"]}, "a" * 64, None, "test")


def test_a_difference_is_the_same_read_from_either_side() -> None:
    comparison = bottlenecks(THREE)
    one, back = difference(comparison, "small", "large"), difference(comparison, "large", "small")
    assert one is not None
    assert back is not None
    assert (one.value, one.ci_lo, one.sim_hi) == (-back.value, -back.ci_hi, -back.sim_lo)
    assert one.worse
    assert back.better
    assert one.p_adjusted == back.p_adjusted
    turned = [{**row, "outcome": "worse, by less than .02"} for row in comparison.pairwise]
    small = difference(replace(comparison, pairwise=turned), "large", "small")
    assert small is not None
    assert small.outcome == "better, by less than .02"
    assert difference(comparison, "small", "unknown") is None


def test_the_best_is_told_with_what_is_shown_and_what_is_excluded() -> None:
    said = reading(bottlenecks(THREE))
    assert said[0].startswith("Without noise, large loses least: macro AUROC changes by −.012")
    assert said[1] == "That large is better is shown against small (corrected for the number of comparisons)."
    # The difference is .004 ± 1.4 · .006.
    assert said[2] == (
        "No difference is shown between large and middle (more than .012 is excluded, which is within the margin)."
    )
    assert said[3].startswith("On the Pareto front of latent size and macro AUROC are small (1024 latent elements")
    assert "Every candidate loses" in said[4]
    assert "Microaneurysm" in said[4]
    assert "Rare" not in said[4]
    wide = " ".join(reading(bottlenecks(THREE, half=0.05)))
    assert "That large is better is not shown against any other" in wide
    assert "within the margin" not in wide
    assert "No label is lost with certainty" in wide
    sure = " ".join(reading(bottlenecks(THREE, half=0.001)))
    assert "That large is the best is shown: it differs from every other" in sure
    assert "No difference is shown" not in sure


def test_ties_missing_values_and_single_candidates_are_told_as_what_they_are() -> None:
    tie = reading(bottlenecks({"a": (-0.02, 1.0), "b": (-0.02, 2.0), "c": (-0.05, 2.0)}))
    assert tie[0].startswith("Without noise, a and b lose least")
    assert "On the Pareto front" in tie[3]
    assert " is a (1 latent elements" in tie[3]
    assert reading(bottlenecks({"a": (math.nan, 1.0), "b": (math.nan, 2.0)}))[0].startswith("Nothing can be said")
    assert reading(bottlenecks({"a": (-0.02, 1.0), "b": (math.nan, 2.0)}))[0].startswith(
        "Only a has a macro AUROC: −.020"
    )
    undecided = replace(bottlenecks(THREE), pairwise=[])
    assert "large was not compared with middle and small." in reading(undecided)


def test_a_baseline_is_told_apart_from_the_best() -> None:
    said = " ".join(reading(bottlenecks(THREE, baseline="small")))
    assert "Against the baseline small, better: middle (+.034) and large (+.038)." in said
    said = " ".join(reading(bottlenecks(THREE, baseline="middle")))
    assert "worse: small (−.034); no difference shown: large (more than .012 is excluded" in said
    assert "Against the baseline" not in " ".join(reading(bottlenecks(THREE, baseline="large")))
    assert headline(bottlenecks(THREE, baseline="small")).figure == "macro AUROC of large less that of small"
    assert headline(bottlenecks(THREE)).value == -0.012


def test_what_cannot_be_told_is_not_said_to_be_excluded() -> None:
    few = "only 6 positives: intervals are not reliable"
    chance = "the teacher does not recognise the labels on real images (AUROC .51 [.45, .57])"
    flags = {"small": few, "middle": f"{chance}; {SEED_FLAGS[1]}; {FORCED_FLAG}"}
    comparison = bottlenecks(THREE, baseline="small")
    untold = [
        {**row, "outcome": CANNOT_BE_TOLD, "flag": flags[row["candidate"]]} if row["other"] == "large" else row
        for row in comparison.pairwise
    ]
    said = reading(replace(comparison, pairwise=untold))
    assert f"Whether large differs from middle cannot be told ({chance}), and small cannot be told ({few})." in said
    assert f"Against the baseline small, better: middle (+.034); large cannot be told ({few})." in said
    assert not any("excluded" in sentence for sentence in said)


def test_claims_that_stand_on_few_training_seeds_say_so() -> None:
    comparison = bottlenecks(THREE)
    runs = {"small": ["s1", "s2"], "middle": ["m"], "large": ["l1", "l2", "l3"]}
    said = reading(replace(comparison, runs=runs))
    # Only large against small is claimed: one candidate has two seeds, and middle is in no claim.
    assert said[-1].startswith("Intervals over two training seeds (small) hold the truth less often")
    assert not any("one training" in sentence for sentence in said)
    said = reading(replace(comparison, runs={name: [name] for name in THREE}))
    assert said[-1] == (
        "small and large are one training each: what another seed would give is not in these intervals."
    )
    for none in (
        reading(replace(comparison, runs={name: list("abc") for name in THREE})),
        reading(bottlenecks(THREE, half=0.05)),
    ):
        assert not any("training" in sentence for sentence in none)


def test_classifiers_are_ranked_by_auroc() -> None:
    said = reading(classifiers())
    assert said[0] == "teacher a ranks best: macro AUROC .930 (95 % CI .920 to .940)."
    assert not any("Pareto" in one or "loses" in one for one in said)
    text = comparison_text(classifiers())
    assert "to baseline" in text
    assert "−.025" in text


def test_tables_hold_ranks_intervals_and_seeds() -> None:
    header, rows = main_table(bottlenecks(THREE))
    cells = {row[0]: dict(zip(header, row)) for row in rows}
    assert cells["large"]["ΔAUROC"] == "−.012 [−.018, −.006] (1)"
    assert cells["small"]["latent elements"] == "1024"
    assert "LPIPS" not in header
    seeds = seed_table(bottlenecks(THREE))
    assert seeds is not None
    assert seeds[1][0][:5] == ["middle", "ΔAUROC", "−.016", "2", ".003"]
    assert seed_table(classifiers()) is None
    assert [row[0:2] for row in pair_tables(bottlenecks(THREE))[0][1]] == [
        ["small", "middle"],
        ["small", "large"],
        ["middle", "large"],
    ]


def test_pairs_without_the_baseline_stand_apart_and_say_why_they_cannot_be_told() -> None:
    comparison = bottlenecks(THREE, baseline="small")
    flag = "one training seed: spread between seeds unknown; only 3 positives: intervals are not reliable"
    pairs = [
        {**row, "outcome": "cannot be told", "flag": flag} if "small" not in (row["candidate"], row["other"]) else row
        for row in comparison.pairwise
    ]
    doubtful = replace(comparison, pairwise=pairs)
    (header, rows), (other_header, others) = pair_tables(doubtful)
    assert [row[:2] for row in rows] == [["small", "middle"], ["small", "large"]]
    assert "reason" not in header
    assert other_header[-1] == "reason"
    assert [row[-2:] for row in others] == [["cannot be told", "only 3 positives: intervals are not reliable"]]
    text = comparison_document(doubtful, SOURCES, [], [])
    assert text.index("## Differences") < text.index("### Pairs without the baseline small") < text.index("## Labels")


def test_times_of_one_column_have_the_same_number_of_decimals() -> None:
    comparison = bottlenecks(THREE)
    seconds = dict(zip(THREE, (0.00896, 0.0126, 0.1)))
    rows = [
        {**row, "value": seconds[row["candidate"]]} if row["metric"] == "encode_seconds" else row
        for row in comparison.figures
    ]
    header, cells = main_table(replace(comparison, figures=rows))
    assert [row[header.index("encode ms")] for row in cells] == ["9.0", "12.6", "100.0"]


def test_the_terminal_shows_names_whole_where_there_is_room() -> None:
    name = "an autoencoder with a name of 39 letters"
    assert name in comparison_text(classifiers(None, (name, "b")))


def test_markdown_shows_names_as_they_are() -> None:
    odd = {"a|b `c` <script>": (-0.02, 1.0), "[x](y) *z*\n# h": (-0.03, 2.0)}
    comparison = bottlenecks(odd, baseline="a|b `c` <script>", mismatches=["The data | differ."])
    text = comparison_document(comparison, SOURCES, ["comparison.png", "figures/pareto.png"], [])
    assert "<script>" not in text
    assert r"a\|b \`c\` &lt;script&gt;" in text
    assert r"\[x\](y) \*z\* \# h" in text
    widths = [
        {len(re.split(r"(?<!\\)\|", line)) for line in table.splitlines()}
        for table in text.split("\n\n")
        if table.startswith("| ")
    ]
    assert len(widths) >= 3
    assert all(len(width) == 1 for width in widths)
    assert "![figures/pareto.png](figures/pareto.png)" in text
    assert "**Not comparable: forced.**" in text
    assert r"The data \| differ" in text
    assert "350 images, 120 patients" in text
    assert "For research only" in text


def test_the_terminal_gets_lines_of_100_characters_and_no_control_characters() -> None:
    names = {f"candidate \x1b[31m with a long name {k}": value for k, value in enumerate(TEN.values())}
    text = comparison_text(bottlenecks(names, mismatches=["The split differs."]))
    assert max(map(len, text.splitlines())) <= 100
    assert "\x1b" not in text
    assert text.startswith("NOT COMPARABLE (forced); 350 images, 120 patients")


def test_files_of_a_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "layerscope.report.comparison.files.comparison_figures", lambda _: ({}, [{"what": "a", "reason": "b"}])
    )
    comparison = bottlenecks(THREE, mismatches=["The split differs."])
    with open_run_directory(tmp_path / "out").staged() as stage:
        write_comparison(comparison, SOURCES, stage)
    summary = read_summary(tmp_path / "out")
    assert summary["task"] == "comparison"
    assert summary["forced"] == ["The split differs."]
    assert summary["candidates"]["small"] == ["runs/a|b"]
    assert summary["headline"]["figure"].endswith("of large")
    assert {"what": "a", "reason": "b"} in summary["not_measured"]
    assert "layerscope" in summary["versions"]
    rows = read_csv(tmp_path / "out/comparison.csv")
    assert tuple(rows[0]) == COMPARISON_COLUMNS
    assert len(rows) == len(comparison.figures)
    assert rows[0]["value"] == -0.05
    assert rows[0]["run"] == ""
    assert rows[0]["rank"] == 3
    assert len(read_csv(tmp_path / "out/pairwise.csv")) == 3
    content = json.loads((tmp_path / "out/comparison.json").read_text(encoding="utf-8"))
    assert content["schema_version"] == 1
    assert content["forced"]
    assert len(content["figures"]) == len(rows)
    assert set(vars(comparison)) <= set(content)
    assert (
        (tmp_path / "out/comparison.md").read_text(encoding="utf-8").startswith("# Comparison of 3 autoencoders (not")
    )

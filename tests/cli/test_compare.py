"""``layerscope compare`` through the command line: autoencoders whose order is known, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from compared_runs import write_run
from synthetic_scores import make_scores

from layerscope.artifacts import read_csv, read_summary
from layerscope.cli import main

AUTOENCODER = "--model.init_args.autoencoder"
REPORT = "layerscope.callbacks.bottleneck_report.BottleneckReport"
SMALL = (
    "--model.init_args.noise.timesteps=[0, 330]",
    "--data.init_args.limit=200",
    "--trainer.logger=false",
    f'--trainer.callbacks=[{{"class_path": "{REPORT}", "init_args": {{"n_bootstrap": 50}}}}]',
)


def cell(rows: list[dict[str, Any]], **wanted: str) -> dict[str, Any]:
    (row,) = (row for row in rows if all(row[name] == value for name, value in wanted.items()))
    return row


def test_the_oracle_that_keeps_more_ranks_above(
    diagnose: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Four and eight cosines of each block, and the identity twice: the order is known, and so is the tie."""
    runs = [
        diagnose(
            f"{AUTOENCODER}=oracles.BlockCosines", f"{AUTOENCODER}.init_args.channels={channels}", *SMALL, name=name
        )
        for name, channels in (("cosines4", 4), ("cosines8", 8))
    ]
    runs.append(diagnose(*SMALL, name="identity"))
    runs.append(Path(shutil.copytree(runs[-1], runs[-1].with_name("again"))))
    out = runs[0].parent / "comparison"
    capsys.readouterr()
    assert main(["compare", *map(str, runs), "--baseline", "cosines4", "--output", str(out)]) == 0
    printed = capsys.readouterr().out
    rows, pairs = read_csv(out / "comparison.csv"), read_csv(out / "pairwise.csv")
    place = {"run": "", "metric": "delta_auroc", "label": "macro", "condition": "recon"}
    drops = {name: cell(rows, candidate=name, **place) for name in ("cosines4", "cosines8", "identity", "again")}
    assert [row["rank"] for row in drops.values()] == [4, 3, 1, 1]
    assert drops["cosines4"]["ci_hi"] < drops["cosines8"]["value"] < 0
    for run, row in zip(runs, drops.values()):
        assert row["value"] == pytest.approx(read_summary(run)["headline"]["value"])
    macro = {"metric": "auroc", "label": "macro", "condition": "recon"}
    more = cell(pairs, candidate="cosines8", other="cosines4", **macro)
    assert more["ci_sim_lo"] > 0
    assert more["outcome"].startswith("better")
    same = cell(pairs, candidate="identity", other="again", **macro)
    assert [same[name] for name in ("difference", "ci_lo", "ci_hi", "p")] == [0, 0, 0, 1]
    sizes = {"run": "", "metric": "latent_elements"}
    assert cell(rows, candidate="cosines8", **sizes)["value"] == 2 * cell(rows, candidate="cosines4", **sizes)["value"]
    assert "cosines8" in printed
    assert (out / "comparison.md").read_text().startswith("# Comparison of 4 autoencoders")
    assert {file.name for file in (out / "figures").iterdir()} >= {"pareto.png", "t_curves.png", "labels.png"}
    assert json.loads((out / "comparison.json").read_text())["baseline"] == "cosines4"
    assert read_summary(out)["task"] == "comparison"


@pytest.fixture
def two(tmp_path: Path) -> list[str]:
    return [str(write_run(tmp_path / name, make_scores(n=60, seed=1, steps=()))) for name in ("base_4ch", "feat_8ch")]


def compare(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    status = main(["compare", *arguments])
    return status, " ".join(capsys.readouterr().err.split())


def test_wrong_usage_is_told(two: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--output", str(tmp_path / "out")]
    for arguments, said in (
        (out, "RUN"),
        (two, "--output"),
        ([*two, *out, "--margin", "2"], "between 0 and 1, got '2'"),
        ([*two, *out, "--level", "x"], "between 0 and 1, got 'x'"),
        ([*two, *out, "--base", "a"], "unrecognized arguments: --base"),
        ([*two, *out, "--baseline", "base4ch"], "Did you mean 'base_4ch'? They are base_4ch, feat_8ch"),
        ([*two, *out, "--baseline", "zzz"], "is none of the candidates. They are"),
        ([two[0], *out], "two"),
    ):
        status, told = compare(capsys, *arguments)
        assert (status, said in told) == (2, True), told
    assert not (tmp_path / "out").exists()


def test_directories_without_a_finished_result_are_told(
    two: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    unfinished = write_run(tmp_path / "unfinished", make_scores(n=60, steps=()))
    (unfinished / "UNFINISHED").touch()
    newer = write_run(tmp_path / "newer", make_scores(n=60, steps=()))
    summary = json.loads((newer / "summary.json").read_text())
    (newer / "summary.json").write_text(json.dumps(summary | {"schema_version": 99}))
    trained = write_run(tmp_path / "trained", make_scores(n=60, steps=()), task="AutoencoderTraining")
    for path, said in (
        (tmp_path / "empty", "holds no summary.json"),
        (unfinished, "is unfinished"),
        (newer, "schema version 99"),
        (trained, "AutoencoderTraining"),
        (tmp_path / "nowhere", "does not exist"),
    ):
        status, told = compare(capsys, two[0], str(path), "--output", str(tmp_path / "out"))
        assert (status != 0, said in told) == (True, True), told
    assert not (tmp_path / "out").exists()


def test_mismatched_runs_are_refused_and_forced_ones_marked_everywhere(
    two: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = str(write_run(tmp_path / "other", make_scores(n=60, seed=1, steps=()), data_hash="e" * 64))
    out = tmp_path / "out"
    status, told = compare(capsys, two[0], other, "--output", str(out))
    assert status == 2
    assert "dddddddddddd" in told
    assert "eeeeeeeeeeee" in told
    assert not out.exists()
    assert main(["compare", two[0], other, "--output", str(out), "--force"]) == 0
    assert "NOT COMPARABLE" in capsys.readouterr().out
    assert "not comparable" in (out / "comparison.md").read_text().lower()
    for table in ("comparison.csv", "pairwise.csv"):
        assert all("not comparable" in row["flag"] for row in read_csv(out / table))
    assert json.loads((out / "comparison.json").read_text())["mismatches"]
    assert read_summary(out)["forced"]
    status, told = compare(capsys, two[0], two[1], "--output", str(out))
    assert status == 2
    assert "--overwrite" in told

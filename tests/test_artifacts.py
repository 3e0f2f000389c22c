"""Run directories appear whole or not at all; tables, scores and thresholds come back as they were written."""

from __future__ import annotations

import csv
import errno
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layerscope import artifacts
from layerscope.artifacts import Thresholds, open_run_directory, read_csv, read_summary, safe_file_name
from layerscope.artifacts import run_directory as module
from layerscope.artifacts.tables import format_csv
from layerscope.errors import ArtifactError, ConfigurationError


def write_result(path: Path, value: int, overwrite: bool = False, extra: str | None = None) -> None:
    run = open_run_directory(path, overwrite)
    with run.staged() as stage:
        stage.write_csv("per_label.csv", [{"label": "a", "value": float(value)}], ["label", "value"])
        stage.write_bytes("figures/plot.png", bytes([value]))
        stage.write_npz("scores.npz", {"logits": np.full(3, value, np.float32)})
        if extra is not None:
            stage.write_text(extra, "text")
        stage.write_json("summary.json", {"value": value})


def tree(path: Path) -> dict[str, bytes]:
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_a_finished_run_is_complete_and_versioned(tmp_path: Path) -> None:
    write_result(tmp_path / "run", 7)
    assert set(tree(tmp_path / "run")) == {"per_label.csv", "figures/plot.png", "scores.npz", "summary.json"}
    summary = read_summary(tmp_path / "run")
    assert summary["value"] == 7
    assert summary["schema_version"] == artifacts.SCHEMA_VERSION
    assert summary["files"] == ["figures/plot.png", "per_label.csv", "scores.npz", "summary.json"]


def test_a_finished_result_is_never_overwritten_silently(tmp_path: Path) -> None:
    write_result(tmp_path / "run", 1)
    before = tree(tmp_path / "run")
    with pytest.raises(ConfigurationError, match=r"--overwrite") as error:
        open_run_directory(tmp_path / "run")
    assert "experiment_name" in str(error.value)
    assert error.value.exit_status == 2
    assert tree(tmp_path / "run") == before


def test_overwrite_keeps_the_old_result_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "run"
    write_result(path, 1, extra="worst_samples/a_orig.png")
    (path / "notes.txt").write_text("the user's own")
    run = open_run_directory(path, overwrite=True)
    assert read_summary(path)["value"] == 1
    with run.staged() as stage:
        stage.write_text("per_label.csv", "new")
        stage.write_json("summary.json", {"value": 2})
        assert read_summary(path)["value"] == 1
        assert (path / "worst_samples/a_orig.png").exists()
    assert read_summary(path)["value"] == 2
    # Old results are gone, folders with them; what layerscope did not write stays.
    assert sorted(p.name for p in path.iterdir()) == ["notes.txt", "per_label.csv", "summary.json"]


def test_an_unfinished_run_says_so_and_may_be_repeated(tmp_path: Path) -> None:
    open_run_directory(tmp_path / "run")
    assert (tmp_path / "run/UNFINISHED").exists()
    with pytest.raises(ArtifactError, match="unfinished"):
        read_summary(tmp_path / "run")
    write_result(tmp_path / "run", 3)
    assert read_summary(tmp_path / "run")["value"] == 3


def test_a_block_without_summary_leaves_the_run_unfinished_for_a_later_block(tmp_path: Path) -> None:
    run = open_run_directory(tmp_path / "run")
    with run.staged() as stage:
        stage.write_text("first.txt", "1")
    with pytest.raises(ArtifactError, match="unfinished"):
        read_summary(tmp_path / "run")
    with run.staged() as stage:
        stage.write_json("summary.json", {})
    assert read_summary(tmp_path / "run")["files"] == ["first.txt", "summary.json"]


def test_a_directory_with_other_things_is_left_alone_even_with_overwrite(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(ConfigurationError, match=r"thesis\.tex"):
            open_run_directory(tmp_path, overwrite)
    assert tree(tmp_path) == {"thesis.tex": b"years of work"}


def test_a_logger_may_have_been_there_first(tmp_path: Path) -> None:
    (tmp_path / "run/tensorboard").mkdir(parents=True)
    write_result(tmp_path / "run", 1)
    assert read_summary(tmp_path / "run")["value"] == 1


def test_a_file_in_the_place_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("x")
    with pytest.raises(ConfigurationError, match="is a file"):
        open_run_directory(tmp_path / "run")
    with pytest.raises(ArtifactError, match="could not be written"):
        open_run_directory(tmp_path / "run" / "below")


class FullDisk:
    """Fails from the n-th call of the system functions through which every result file goes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, after: int, error: Callable[[], BaseException]) -> None:
        self.calls = 0
        self.failed = False
        for name in ("fsync", "replace"):
            monkeypatch.setattr(module.os, name, self.wrap(getattr(os, name), after, error))

    def wrap(self, function: Callable[..., Any], after: int, error: Callable[[], BaseException]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            self.calls += 1
            if self.calls == after:
                self.failed = True
                raise error()
            return function(*args)

        return call


@pytest.mark.parametrize("existing", [False, True], ids=["new", "overwrite"])
@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (lambda: OSError(errno.ENOSPC, "No space left on device", "scores.npz"), ArtifactError),
        (KeyboardInterrupt, KeyboardInterrupt),
    ],
    ids=["full disk", "ctrl-c"],
)
def test_a_failure_at_any_write_shows_nothing_of_the_new_result(
    tmp_path: Path, raised: Callable[[], BaseException], expected: type[BaseException], existing: bool
) -> None:
    failures = 0
    messages: set[str] = set()
    for after in range(1, 60):
        path = tmp_path / f"run{after}"
        if existing:
            write_result(path, 1, extra="old.txt")
        before = tree(path)
        with pytest.MonkeyPatch.context() as monkeypatch:
            disk = FullDisk(monkeypatch, after, raised)
            try:
                write_result(path, 2, overwrite=existing)
            except expected as error:
                failures += 1
                messages.add(str(error))
            if not disk.failed:
                assert read_summary(path)["value"] == 2
                break
        after_failure = tree(path)
        if read_ok(path, 2):
            # Only a folder's own fsync may fail without harm: the result is complete then.
            continue
        assert {k: v for k, v in after_failure.items() if k != "UNFINISHED"} == before
        assert ("UNFINISHED" in after_failure) == (not existing and after_failure != {})
        assert not [p for p in path.iterdir() if p.name.startswith(".")]
    else:
        pytest.fail("the injected failure was never outlived")
    assert failures > 8
    if expected is ArtifactError:
        assert all("No space left on device" in text and "free disk space" in text for text in messages)


def read_ok(path: Path, value: int) -> bool:
    try:
        return bool(read_summary(path)["value"] == value)
    except ArtifactError:
        return False


def test_an_exception_of_the_run_itself_keeps_its_type(tmp_path: Path) -> None:
    run = open_run_directory(tmp_path / "run")

    def diagnose() -> None:
        with run.staged() as stage:
            stage.write_json("summary.json", {})
            raise RuntimeError("NaN")

    with pytest.raises(RuntimeError, match="NaN"):
        diagnose()
    assert set(tree(tmp_path / "run")) == {"UNFINISHED"}


def test_a_killed_run_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    code = (
        "import os, sys; from layerscope.artifacts import open_run_directory\n"
        "run = open_run_directory(sys.argv[1])\n"
        "with run.staged() as stage:\n"
        "    stage.write_text('a.csv', 'x'); stage.write_json('summary.json', {}); os._exit(9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], check=False)
    assert done.returncode == 9
    with pytest.raises(ArtifactError, match="unfinished"):
        read_summary(tmp_path / "run")
    write_result(tmp_path / "run", 1)
    assert not [p for p in (tmp_path / "run").iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("name", ["../escape.txt", "/tmp/escape.txt", "a/../../b", "", ".hidden", "a\0b"])
def test_result_names_stay_inside(tmp_path: Path, name: str) -> None:
    run = open_run_directory(tmp_path / "run")
    with pytest.raises(ArtifactError, match="plain relative name"), run.staged() as stage:
        stage.write_text(name, "x")


def test_a_tampered_file_list_removes_nothing_outside(tmp_path: Path) -> None:
    write_result(tmp_path / "run", 1)
    (tmp_path / "precious.txt").write_text("x")
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    summary["files"].append("../precious.txt")
    (tmp_path / "run/summary.json").write_text(json.dumps(summary))
    write_result(tmp_path / "run", 2, overwrite=True)
    assert (tmp_path / "precious.txt").exists()


@pytest.mark.parametrize(
    ("text", "match"),
    [("{", "JSON"), ("[]", "schema_version"), ('{"schema_version": 99}', "schema version 99")],
)
def test_summaries_that_cannot_be_trusted(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(ArtifactError, match=match):
        read_summary(tmp_path)


def test_summaries_that_are_missing(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist"):
        read_summary(tmp_path / "nowhere")
    with pytest.raises(ArtifactError, match=r"no summary\.json"):
        read_summary(tmp_path)


def test_json_has_no_nan(tmp_path: Path) -> None:
    run = open_run_directory(tmp_path / "run")
    with run.staged() as stage:
        stage.write_json("summary.json", {"a": np.float32("nan"), "b": np.array([1.0, np.inf]), "c": np.int64(3)})
    text = (tmp_path / "run/summary.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert [read_summary(tmp_path / "run")[key] for key in "abc"] == [None, [1.0, None], 3]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "'=1", "＝1", "''-x"])
def test_cells_and_headers_are_no_formulas_and_come_back(tmp_path: Path, text: str) -> None:
    run = open_run_directory(tmp_path / "run")
    with run.staged() as stage:
        stage.write_csv("table.csv", [{"label": text, "value": -1.5}], ["label", "value"])
        stage.write_csv("header.csv", [], [text])
        stage.write_json("summary.json", {})
    with (tmp_path / "run/table.csv").open(newline="") as file:
        cells = list(csv.reader(file))[1]
    assert cells[0][0] == "'"
    assert cells[1] == "-1.5"
    assert (tmp_path / "run/header.csv").read_text().lstrip('"')[0] == "'"
    assert read_csv(tmp_path / "run/table.csv") == [{"label": text, "value": -1.5}]


def test_numbers_keep_every_digit_and_nan_is_empty(tmp_path: Path) -> None:
    values = [0.1 + 0.2, 1e-300, -math.pi, math.nan, float(np.float32(0.1))]
    run = open_run_directory(tmp_path / "run")
    with run.staged() as stage:
        rows = [{"condition": "t3", "t": 3, "draw": "mean", "value": value} for value in values]
        stage.write_csv("table.csv", [*rows, {"condition": "real"}], ["condition", "t", "draw", "value"])
        stage.write_json("summary.json", {})
    read = read_csv(tmp_path / "run/table.csv")
    np.testing.assert_array_equal([row["value"] for row in read], [*values, math.nan])
    assert read[0]["t"] == 3
    assert read[0]["draw"] == "mean"
    assert read[-1]["t"] is None
    assert "nan" not in (tmp_path / "run/table.csv").read_text()


def test_a_table_is_written_while_its_rows_come(tmp_path: Path) -> None:
    """One of millions of rows would fill the memory otherwise."""
    columns, seen = ["label", "value"], []
    run = open_run_directory(tmp_path / "run")
    with run.staged() as stage:

        def rows() -> Iterator[dict[str, Any]]:
            for number in range(5000):
                yield {"label": f"é{number}", "value": float(number)}
            seen.append((stage.folder / "long/table.csv").stat().st_size)

        stage.write_csv("long/table.csv", rows(), columns)
        stage.write_json("summary.json", {})
    written = (tmp_path / "run/long/table.csv").read_bytes()
    plain = [{"label": f"é{number}", "value": float(number)} for number in range(5000)]
    assert written == format_csv(plain, columns).encode("utf-8")
    assert seen[0] > len(written) / 2


def test_worst_samples_come_back(tmp_path: Path) -> None:
    row = {"criterion": "negative_flips", "rank": 1, "id": "=a", "index": 7, "score": 2.0, "label": "x"}
    row |= {name: f"worst_samples/a_{name}.png" for name in ("orig", "recon_t0", "recon_noise", "diff", "crop")}
    run = open_run_directory(tmp_path / "run")
    with run.staged() as stage:
        stage.write_csv("worst_samples.csv", [row], list(row))
        stage.write_json("summary.json", {})
    assert read_csv(tmp_path / "run/worst_samples.csv") == [row]


def test_a_table_refuses_what_it_cannot_show(tmp_path: Path) -> None:
    run = open_run_directory(tmp_path / "run")
    with pytest.raises(ValueError, match="no columns"), run.staged() as stage:
        stage.write_csv("table.csv", [{"labell": "a"}], ["label"])
    with pytest.raises(TypeError, match="list"), run.staged() as stage:
        stage.write_csv("table.csv", [{"label": []}], ["label"])
    with pytest.raises(ArtifactError, match="could not be read"):
        read_csv(tmp_path / "none.csv")


def test_file_names_of_any_id_are_safe_and_distinct() -> None:
    ids = ["a", "a/b", "a_b", "a\\b", "../a", "..", ".", "", "<b>", "ä", "x" * 300, "x" * 301, "-rf", "a\0b", "\ud800"]
    names = [safe_file_name(identifier) for identifier in ids]
    assert len(set(names)) == len(ids)
    for name in names:
        assert name[0] not in ".-"
        assert "/" not in name
        assert len(name.encode()) < 100
    assert names[0] == "a"
    assert names[2] == "a_b"


def bottleneck_scores(**changes: Any) -> artifacts.BottleneckScores:
    values: dict[str, Any] = {
        "id": ["a", "b", "c"],
        "group": [],
        "target": [[0, 1], [1, 0], [1, 1]],
        "known": [[True, True], [True, False], [True, True]],
        "label": ["x", "y"],
        "label_display": ["X", "Y"],
        "evaluated": [True, True],
        "condition": ["real", "recon"],
        "kind": ["real", "recon"],
        "t": [-1, -1],
        "draw": [-1, -1],
        "log_snr": [math.nan, math.nan],
        "log_snr_eff": [math.nan, math.nan],
        "logits": np.arange(12, dtype=np.float32).reshape(2, 3, 2),
        "threshold_label": [0.5, math.nan],
        "similarity_name": ["embedding"],
        "similarity": np.ones((2, 3, 1), np.float32),
        "similarity_null": np.zeros((4, 1), np.float32),
        "quality_name": ["psnr_db"],
        "quality": np.zeros((3, 1), np.float32),
    }
    values = {key: np.asarray(value) for key, value in {**values, **changes}.items()}
    return artifacts.BottleneckScores(**values, threshold_global=0.25, threshold_source="threshold.json")


def test_bottleneck_scores_come_back(tmp_path: Path) -> None:
    scores = bottleneck_scores()
    scores.save(tmp_path / "scores.npz")
    loaded = artifacts.BottleneckScores.load(tmp_path / "scores.npz")
    for name, value in scores.arrays().items():
        if name != "schema_version":
            np.testing.assert_array_equal(np.asarray(getattr(loaded, name)), value, err_msg=name)
    assert loaded.logits.dtype == np.float32
    assert loaded.groups is None
    assert loaded.recon_row == 1
    assert loaded.threshold_global == 0.25


def test_scores_from_before_figures_of_quality_have_none(tmp_path: Path) -> None:
    arrays = bottleneck_scores().arrays()
    np.savez(tmp_path / "old.npz", **{name: arrays[name] for name in arrays if not name.startswith("quality")})
    loaded = artifacts.BottleneckScores.load(tmp_path / "old.npz")
    assert loaded.quality_name.shape == (0,)
    assert loaded.quality.shape == (3, 0)


def test_text_of_objects_is_stored_without_pickles(tmp_path: Path) -> None:
    scores = bottleneck_scores(id=np.array(["a", "bb", "ccc"], dtype=object))
    scores.save(tmp_path / "scores.npz")
    assert list(artifacts.BottleneckScores.load(tmp_path / "scores.npz").id) == ["a", "bb", "ccc"]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"id": ["a"]}, "id has shape"),
        ({"group": ["p"]}, "1 groups for 3"),
        ({"kind": ["recon", "real"]}, "begin with the real"),
        ({"kind": ["real", "noise"]}, "exactly one reconstruction"),
        ({"kind": ["real", "fake"]}, "unknown kinds"),
        ({"logits": np.zeros((3, 2))}, "dimensions"),
    ],
)
def test_inconsistent_scores_are_refused(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ArtifactError, match=match):
        bottleneck_scores(**changes)


def test_scores_that_are_missing_damaged_or_pickled(tmp_path: Path) -> None:
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "text.npz").write_bytes(b"no archive")
    bottleneck_scores().save(tmp_path / "whole.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:500])
    arrays = {**bottleneck_scores().arrays(), "id": np.array([{}, {}, {}], dtype=object)}
    np.savez(tmp_path / "pickled.npz", **arrays)
    for name in ("none", "empty", "text", "cut", "pickled"):
        with pytest.raises(ArtifactError, match="could not be read"):
            artifacts.BottleneckScores.load(tmp_path / f"{name}.npz")


def test_classifier_scores_come_back(tmp_path: Path) -> None:
    scores = artifacts.ClassifierScores(
        id=np.array(["a", "b"]),
        group=np.array(["p", "q"]),
        target=np.array([[0], [1]]),
        known=np.array([[True], [True]]),
        label=np.array(["x"]),
        label_display=np.array(["X"]),
        evaluated=np.array([True]),
        logits=np.array([[0.1], [0.7]], np.float32),
        threshold_global=0.5,
        threshold_label=np.array([0.4]),
        threshold_source="val",
    )
    scores.save(tmp_path / "scores.npz")
    loaded = artifacts.ClassifierScores.load(tmp_path / "scores.npz")
    np.testing.assert_array_equal(loaded.logits, scores.logits)
    assert list(loaded.groups if loaded.groups is not None else []) == ["p", "q"]


def thresholds() -> Thresholds:
    return Thresholds(("x", "y", "z"), -0.5, 0.8, (0.1, math.nan, 40.0), (0.9, math.nan, 0.7), "val", "abc")


def test_thresholds_come_back(tmp_path: Path) -> None:
    run = open_run_directory(tmp_path / "run")
    with run.staged() as stage:
        stage.write_json("threshold.json", thresholds().as_json())
        stage.write_json("summary.json", {})
    loaded = Thresholds.load(tmp_path / "run/threshold.json")
    assert repr(loaded) == repr(thresholds())
    assert loaded.global_probability == pytest.approx(1 / (1 + math.exp(0.5)))
    assert loaded.label_probability[2] == pytest.approx(1.0)
    assert loaded.for_labels(["z", "x"]).label_logit == (40.0, 0.1)


def test_thresholds_that_do_not_serve(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"labels w; they were fitted for x, y, z"):
        thresholds().for_labels(["x", "w"])
    with pytest.raises(ArtifactError, match="search_on_real_val"):
        Thresholds.load(tmp_path / "none.json")
    for text in ("{", "{}", "[]", '{"schema_version": 1, "per_label": 3}', '{"schema_version": 99}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ArtifactError):
            Thresholds.load(tmp_path / "bad.json")


def test_versions_name_python_and_the_package() -> None:
    versions = artifacts.package_versions()
    assert versions["python"].startswith("3.")
    assert {"layerscope", "torch", "numpy"} <= set(versions)


def test_artifacts_import_no_torch_and_no_lightning() -> None:
    code = "import sys, layerscope.artifacts; sys.exit(bool({'torch', 'lightning', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_column_is_described() -> None:
    from layerscope.artifacts import HISTORY_COLUMNS, tables

    text = (Path(__file__).parents[1] / "docs/artifacts.md").read_text(encoding="utf-8")
    columns = {*tables.LONG_COLUMNS, *tables.COLLAPSE_COLUMNS, *tables.CLASSIFIER_COLUMNS, *HISTORY_COLUMNS}
    compared = {*tables.COMPARISON_COLUMNS, *tables.PAIRWISE_COLUMNS}
    for column in columns | compared | {*tables.PAIR_COLUMNS, *tables.LOCALISATION_COLUMNS}:
        assert f"`{column}`" in text, column
    for name in vars(bottleneck_scores()):
        assert f"`{name}`" in text, name

"""A pair diagnosis on two processes gives the tables of one, whatever the shares; and both end together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from commands import TWO, command
from pair_runs import read_json, settings, write
from result_tables import assert_close

from layerscope.artifacts import read_csv, read_summary
from layerscope.cli import main
from layerscope.data.hashing import rows_by_hash
from layerscope.data.phantom.write import write_phantom
from layerscope.types import CKA_GROUP

# Another batch rounds otherwise in single precision.
DOUBLE = "--trainer.precision=64-true"
LAYERS = "--model.init_args.layers"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven pairs of 32 px with masks, one of whose positives is no image."""
    root = write_phantom(tmp_path_factory.mktemp("pairs") / "data", "pairs", n=12, size=32, seed=5)
    for folder in ("positive", "negative", "masks"):
        max((root / folder).iterdir()).unlink()
    broken(root).write_bytes(b"no image")
    return root


def ids(root: Path) -> list[str]:
    """In the order of the rows."""
    names = sorted(path.stem for path in (root / "positive").iterdir())
    return [names[row] for row in rows_by_hash(names)]


def broken(root: Path) -> Path:
    """Of the second row, which the first process reads."""
    return root / "positive" / f"{ids(root)[1]}.png"


def config(folder: Path, root: Path) -> Path:
    content = settings(root, on_bad_image="skip")
    content["trainer"]["callbacks"][1]["init_args"] = {"first": 2, "top": 5}
    content["trainer"]["callbacks"].insert(1, {"class_path": "layerscope.callbacks.mean_heat_maps.MeanHeatMaps"})
    return write(folder, "config", content)


def finished(folder: Path, path: Path, name: str, *overrides: str) -> Path:
    done = command("test", folder, path, name, DOUBLE, *overrides)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Results:") == 1
    return folder / "outputs" / name


@pytest.mark.slow
def test_two_processes_give_the_result_of_one(tmp_path: Path, pairs: Path) -> None:
    path = config(tmp_path, pairs)
    one = tmp_path / "one"
    # In this process, which has imported everything.
    places = [f"--output_root={tmp_path}", "--experiment_name=one"]
    assert main(["test", "--config", str(path), *places, DOUBLE]) == 0
    two = finished(tmp_path, path, "two", *TWO)
    assert (read_summary(one)["processes"], read_summary(two)["processes"]) == (1, 2)
    assert read_summary(two)["counts"]["pairs"] == 10
    # Of eleven pairs two groups are whole, and the broken file takes its own along.
    counts = read_summary(two)["counts"]
    assert (counts["cka_groups"], counts["cka_groups_lost"]) == (1, 1)
    for table in ("pairs.csv", "localisation.csv"):
        assert_close(read_csv(one / table), read_csv(two / table), table)
    aggregated = [read_json(folder / "aggregated_results.json") for folder in (one, two)]
    assert aggregated[0]["decoder.conv_in"]["linear_cka"]["value"] is not None
    assert_close(*aggregated, "aggregated_results.json")
    for key in ("ranking", "attribution", "counts", "not_measured"):
        assert_close(read_summary(one)[key], read_summary(two)[key], key)
    names = [sorted(str(file.relative_to(folder)) for file in folder.rglob("*")) for folder in (one, two)]
    assert names[0] == names[1]
    assert {f"pairs/{name}" for name in sorted(ids(pairs))[:2]} < set(names[1])
    # Pictures of pairs that either process has seen.
    pictured = {path.name for path in (two / "pairs").iterdir()}
    assert {row // CKA_GROUP % 2 for row, name in enumerate(ids(pairs)) if name in pictured} == {0, 1}
    with np.load(one / "mean_heat_maps.npz") as maps, np.load(two / "mean_heat_maps.npz") as twins:
        assert maps.files == twins.files
        for name in maps.files:
            np.testing.assert_allclose(twins[name], maps[name], rtol=1e-6, atol=1e-9, err_msg=name)


@pytest.mark.slow
def test_fewer_pairs_than_processes(tmp_path: Path, pairs: Path) -> None:
    few = ("--data.init_args.limit=1", f'{LAYERS}=["decoder.conv_out"]')
    run = finished(tmp_path, config(tmp_path, pairs), "two", *few, *TWO)
    assert read_summary(run)["counts"]["pairs"] == 1
    assert len({row["id"] for row in read_csv(run / "pairs.csv") if row["role"] == "pair"}) == 1


@pytest.mark.slow
def test_an_image_that_fails_on_one_process_ends_both(tmp_path: Path, pairs: Path) -> None:
    done = command("test", tmp_path, config(tmp_path, pairs), "two", "--data.init_args.on_bad_image=error", *TWO)
    assert done.returncode == 1, done.stderr[-3000:]
    told = " ".join(done.stderr.split())
    assert "Traceback" not in told
    assert told.count("layerscope: error:") == 1
    assert f"{broken(pairs)} is not an image" in told
    assert not (tmp_path / "outputs" / "two").exists()

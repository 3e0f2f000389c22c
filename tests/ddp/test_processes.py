"""Two processes give the result of one, each image once, also when their number is odd; and they fail together."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from commands import TWO, command
from result_tables import assert_equal_results
from stand_ins import diagnosis, read_rows

from layerscope.artifacts import BottleneckScores, read_csv, read_summary


def run(folder: Path, config: Path, name: str, *overrides: str) -> Path:
    """The run directory of a command that succeeds."""
    done = command("test", folder, config, name, *overrides)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Results:") == 1
    return folder / "outputs" / name


@pytest.mark.slow
def test_two_processes_give_the_result_of_one(tmp_path: Path, fundus_phantom: Path) -> None:
    config = diagnosis(
        fundus_phantom, tmp_path / "config.yaml", timesteps=[0, 300, 700], draws=2, latent_statistics_images=9
    )
    overrides = [
        "--data.init_args.limit=15",
        "--model.init_args.controls=[down4]",
        # A large share of the worst samples, so that both processes hold some.
        "--trainer.callbacks.init_args.top_k=5",
    ]
    one = run(tmp_path, config, "one", *overrides)
    two = run(tmp_path, config, "two", *overrides, *TWO)
    assert read_summary(two)["processes"] == 2
    scores = BottleneckScores.load(two / "scores.npz")
    in_test = [row["id"] for row in read_rows(fundus_phantom / "labels.csv") if row["split"] == "test"]
    assert len(set(scores.id.tolist())) == len(scores.id) == min(15, len(in_test)) == 15
    assert set(scores.id.tolist()) <= set(in_test)
    assert_equal_results(one, two)
    worst = read_csv(two / "worst_samples.csv")
    assert {int(row["index"]) % 2 for row in worst} == {0, 1}
    pictures = sorted(path.name for path in (two / "worst_samples").iterdir())
    assert pictures == sorted(path.name for path in (one / "worst_samples").iterdir())
    for name in pictures:
        assert (one / "worst_samples" / name).read_bytes() == (two / "worst_samples" / name).read_bytes()
    assert read_summary(one)["verdict"]["overall"]["sentence"] == read_summary(two)["verdict"]["overall"]["sentence"]


@pytest.mark.slow
def test_fewer_images_than_processes(tmp_path: Path, fundus_phantom: Path) -> None:
    config = diagnosis(fundus_phantom, tmp_path / "config.yaml", latent_statistics_images=1)
    done = command("test", tmp_path, config, "two", "--data.init_args.limit=1", *TWO)
    assert done.returncode == 0, done.stderr
    assert read_summary(tmp_path / "outputs" / "two")["counts"]["images"] == 1


@pytest.mark.slow
def test_an_image_that_fails_on_one_process_ends_both(tmp_path: Path, fundus_phantom: Path) -> None:
    root = shutil.copytree(fundus_phantom, tmp_path / "phantom")
    second = [row["path"] for row in read_rows(root / "labels.csv") if row["split"] == "test"][1]
    (root / second).write_bytes(b"no image")
    config = diagnosis(root, tmp_path / "config.yaml", latent_statistics_images=1)
    done = command("test", tmp_path, config, "two", *TWO)
    assert done.returncode == 1, done.stderr
    told = " ".join(done.stderr.split())
    assert "Traceback" not in told
    assert f"{second} is not an image" in told
    assert not (tmp_path / "outputs" / "two").exists()

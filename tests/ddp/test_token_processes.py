"""A token diagnosis on two processes gives the results of one, whatever the shares; and both end together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import TWO, command
from image_files import write_mask
from pair_runs import SD, write
from result_tables import assert_close
from token_runs import settings, write_images

from layerscope.artifacts import read_csv, read_summary
from layerscope.cli import main

# Another batch rounds otherwise in single precision.
DOUBLE = "--trainer.precision=64-true"
SKIP = "--data.on_bad_image=skip"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven images, the second of which, that the second process reads, is none; masks of two others."""
    folder = tmp_path_factory.mktemp("data")
    write_images(folder / "images", 7)
    (folder / "images" / "a1.png").write_bytes(b"no image")
    for name in ("a2", "a5"):
        write_mask(folder / "masks" / f"{name}.png", (10, 9, 31, 27), size=(40, 36))
    return folder / "images"


def config(folder: Path, images: Path) -> Path:
    """Two images a batch, a reconstruction and a control, pictures of the first two images."""
    vae = {
        "class_path": "layerscope.models.autoencoders.DiffusersAutoencoder",
        "init_args": {"architecture": SD, "seed": 0},
    }
    content = settings(images, autoencoder=vae, controls=["jpeg_q75"], layers="last", seed_patch=[0, 1])
    content["trainer"]["callbacks"][0]["init_args"]["visualization"] = {"limit": 3, "save_individual": False, "dpi": 40}
    content["data"]["init_args"]["masks"] = str(images.parent / "masks")
    return write(folder, "config", content)


def finished(folder: Path, path: Path, *overrides: str) -> Path:
    done = command("test", folder, path, "two", *overrides, *TWO)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Results:") == 1
    return folder / "outputs" / "two"


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def assert_same_arrays(one: Path, two: Path) -> None:
    with np.load(one) as first, np.load(two) as second:
        assert first.files == second.files
        for name in first.files:
            values: Any = first[name]
            if values.dtype.kind == "f":
                np.testing.assert_allclose(second[name], values, rtol=1e-5, atol=1e-6, err_msg=f"{one} {name}")
            else:
                np.testing.assert_array_equal(second[name], values, err_msg=f"{one} {name}")


@pytest.mark.slow
def test_two_processes_give_the_result_of_one(tmp_path: Path, images: Path) -> None:
    path = config(tmp_path, images)
    one = tmp_path / "one"
    # In this process, which has imported everything.
    places = [f"--output_root={tmp_path}", "--experiment_name=one"]
    assert main(["test", "--config", str(path), *places, DOUBLE, SKIP]) == 0
    two = finished(tmp_path, path, DOUBLE, SKIP)
    summaries = [read_summary(folder) for folder in (one, two)]
    assert [summary["processes"] for summary in summaries] == [1, 2]
    assert summaries[1]["counts"] == {"images": 6, "skipped": 1, "patients": None, "layers": 1}
    for key in ("counts", "views", "comparison", "sentence", "not_measured", "model_hashes", "data", "data_hash"):
        assert_close(summaries[0][key], summaries[1][key], key)
    for table in ("images.csv", "aggregate.csv"):
        assert_close(read_csv(one / table), read_csv(two / table), table)
    assert {row["view"] for row in read_csv(two / "aggregate.csv")} == {"image", "reconstruction", "jpeg_q75"}
    names = files(one)
    assert names == files(two)
    assert {name.split("/")[1] for name in names if name.startswith("images/")} == {
        f"a{number}" for number in range(7) if number != 1
    }
    pictured = {name.split("/")[1] for name in names if name.endswith(".png") and name.startswith("images/")}
    assert pictured == {"a0", "a2"}
    arrays = [name for name in names if name.endswith(".npz")]
    assert len(arrays) == 6 * 3
    for name in arrays:
        assert_same_arrays(one / name, two / name)


@pytest.mark.slow
def test_fewer_images_than_processes(tmp_path: Path, images: Path) -> None:
    run = finished(tmp_path, config(tmp_path, images), f"--data.path={images / 'a0.png'}", "--data.masks=null")
    assert read_summary(run)["counts"]["images"] == 1
    assert {row["id"] for row in read_csv(run / "images.csv")} == {"a0"}
    # One image has its files in the run directory itself.
    assert (run / "similarities.npz").exists()
    assert not (run / "images").exists()


@pytest.mark.slow
def test_all_images_of_one_process_are_skipped(tmp_path: Path, images: Path) -> None:
    only = [f"--data.path={images / name}.png" for name in ("a0", "a1")]
    run = finished(tmp_path, config(tmp_path, images), *only, "--data.masks=null", SKIP)
    assert read_summary(run)["counts"] == {"images": 1, "skipped": 1, "patients": None, "layers": 1}
    rows = read_csv(run / "images.csv")
    assert {row["id"] for row in rows if row["view"] == "image"} == {"a0"}
    assert [row["id"] for row in rows if "is not an image" in str(row)] == ["a1"]


@pytest.mark.slow
def test_an_image_that_fails_on_one_process_ends_both(tmp_path: Path, images: Path) -> None:
    # Rows are sorted by id and dealt out in turns: the broken one is the second process's.
    only = [f"--data.path={images / name}.png" for name in ("a0", "a1", "a2")]
    done = command("test", tmp_path, config(tmp_path, images), "two", *only, "--data.masks=null", *TWO)
    assert done.returncode == 1, done.stderr[-3000:]
    told = " ".join(done.stderr.split())
    assert "Traceback" not in told
    assert told.count(f"{images / 'a1.png'} is not an image") == 1
    # The first process, to which the second is lost, refers to what that said.
    assert told.count("Its own message says why") == 1
    assert told.count("layerscope: error:") == 2
    assert not (tmp_path / "outputs" / "two").exists()

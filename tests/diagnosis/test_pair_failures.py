"""A pair diagnosis that fails leaves nothing behind: no hook, no temporary folder, no half of a result."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pair_runs import run, settings, write
from stand_ins import Witness

from layerscope.cli import main
from layerscope.data.hashing import rows_by_hash
from layerscope.data.phantom.write import write_phantom

ALLOWED = ("--allow-import=pair_stand_ins", "--allow-import=stand_ins")
WITNESS = {"class_path": "stand_ins.Witness"}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pairs of 32 px."""
    return write_phantom(tmp_path_factory.mktemp("pairs") / "data", "pairs", n=6, size=32, seed=5)


@pytest.fixture(scope="module")
def finished(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a diagnosis with pictures that went well."""
    folder = tmp_path_factory.mktemp("finished")
    config = watched(settings(pairs, batch_size=2))
    directory = run(folder, "run", config, *ALLOWED)
    assert nothing_hangs_on_the_task()
    return directory


@pytest.fixture(autouse=True)
def keep_ctrl_c() -> Iterator[None]:
    """Lightning ignores SIGINT for the rest of the process once it was interrupted."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def watched(config: dict[str, Any], **subject: Any) -> dict[str, Any]:
    """With a witness, pictures of a pair and, where ``subject`` is given, an autoencoder that fails so."""
    config["trainer"]["callbacks"][1]["init_args"] = {"first": 1, "top": 1}
    config["trainer"]["callbacks"].append(WITNESS)
    if subject:
        config["model"]["init_args"]["subject"] = {"class_path": "pair_stand_ins.FailingVae", "init_args": subject}
    return config


def nothing_hangs_on_the_task() -> bool:
    task: Any = Witness.task
    return task.point_listeners == [] and not any(module._forward_hooks for module in task.modules())


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def positive_of(root: Path, row: int) -> Path:
    files = sorted((root / "positive").iterdir())
    return files[rows_by_hash([file.stem for file in files])[row]]


def test_a_run_that_ends_well_leaves_no_temporary_folder(finished: Path) -> None:
    assert (finished / "summary.json").exists()
    assert [path.name for path in finished.glob(".*")] == []


def in_a_callback(config: dict[str, Any]) -> dict[str, Any]:
    config["trainer"]["callbacks"].append({"class_path": "pair_stand_ins.FailingCallback"})
    return watched(config)


def in_the_dataloader(config: dict[str, Any]) -> dict[str, Any]:
    positive_of(Path(config["data"]["init_args"]["root"]), row=2).write_bytes(b"no image")
    return watched(config)


FAILURES: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], int, list[str]]] = {
    "step": (lambda config: watched(config, how="raise", after=1), 1, ["the decoder broke"]),
    "ctrl-c": (lambda config: watched(config, how="sigint", after=1), 130, ["Stopped by Ctrl-C"]),
    "memory": (
        lambda config: watched(config, how="memory", after=1),
        1,
        ["2 pairs (4 images) of 32 × 32", "batch_size", "image_size", "bf16-mixed", "--device cpu", "2.00 GiB"],
    ),
    "nan": (
        lambda config: watched(config, how="nan", after=1),
        1,
        ["decoder.mid_block.resnets.1 are NaN", "for 1 pair ", "first such layer"],
    ),
    "callback": (in_a_callback, 1, ["the callback broke"]),
    "dataloader": (in_the_dataloader, 1, ["is not an image", "on_bad_image: skip"]),
}


@pytest.mark.parametrize("place", list(FAILURES))
def test_a_run_that_fails_leaves_nothing(
    place: str, pairs: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, status, told = FAILURES[place]
    root = shutil.copytree(pairs, tmp_path / "data")
    config = write(tmp_path, "config", change(settings(root, batch_size=2)))
    before = content(finished)
    # In a place of its own, and over a result that stays, so that no clearing away of the directory hides a remnant.
    for where in (tmp_path / "new", finished):
        del Witness.task
        capsys.readouterr()
        places = [f"--output_root={where.parent}", f"--experiment_name={where.name}", "--overwrite"]
        assert main(["test", "--config", str(config), *places, *ALLOWED]) == status
        message = " ".join(capsys.readouterr().err.split())
        for part in told:
            assert part in message
        if place == "nan":
            assert f"(first: {positive_of(root, row=3).stem})" in message
        assert nothing_hangs_on_the_task()
    assert not (tmp_path / "new").exists()
    assert content(finished) == before
    assert [path.name for path in finished.rglob(".*")] == []

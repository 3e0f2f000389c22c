"""A training that is stopped or killed goes on as if it never was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from small_architectures import SMALL_KL

from layerscope.artifacts import read_history, read_summary
from layerscope.cli import main

TESTS = Path(__file__).parents[1]
STEPS = 4  # of an epoch: 11 images in batches of 3
CHECKPOINT = "lightning.pytorch.callbacks.ModelCheckpoint"


def settings(root: Path) -> dict[str, Any]:
    """Three epochs with averaged weights and noise on the latents; last, best and every second epoch are kept."""
    checkpoints = [
        {"filename": "best", "monitor": "val/psnr", "mode": "max"},
        {"filename": "last"},
        {"filename": "epoch_{epoch}", "auto_insert_metric_name": False, "every_n_epochs": 2, "save_top_k": -1},
    ]
    callbacks = [
        {"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging", "init_args": {"decay": 0.9}},
        {"class_path": "layerscope.callbacks.training_history.TrainingHistory"},
        {"class_path": "layerscope.callbacks.training.TrainingSummary"},
        *({"class_path": CHECKPOINT, "init_args": one | {"enable_version_counter": False}} for one in checkpoints),
    ]
    return {
        "seed_everything": 3,
        "trainer": {
            "accelerator": "cpu",
            "logger": False,
            "max_epochs": 3,
            "num_sanity_val_steps": 0,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": callbacks,
        },
        "model": {
            "class_path": "layerscope.tasks.vae.AutoencoderTraining",
            "init_args": {
                "autoencoder": {
                    "class_path": "layerscope.models.autoencoders.DiffusersAutoencoder",
                    "init_args": {"architecture": SMALL_KL, "initial_logvar": -6.0},
                },
                "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.005}},
                "losses": [
                    {"class_path": "layerscope.losses.MSE"},
                    {"class_path": "layerscope.losses.KL", "init_args": {"warmup_batches": 9}},
                    {"class_path": "layerscope.losses.NoisyReconstruction"},
                ],
                "latent_noise": {"tau": 0.5},
                "crop_size": 16,
            },
        },
        "data": {
            "class_path": "layerscope.data.multilabel.MultilabelImages",
            "init_args": {
                "root": str(root),
                "table": "labels.csv",
                "schema": "schema.yaml",
                "limit": 11,
                "batch_size": 3,
            },
        },
    }


class Bench:
    """A folder with one configuration, in which trainings are stopped and go on."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        self.folder = folder
        self.config = folder / "config.yaml"
        self.config.write_text(yaml.safe_dump(config))

    def arguments(self, name: str, *overrides: str) -> list[str]:
        places = [f"--output_root={self.folder}", f"--experiment_name={name}", "--allow-import=stand_ins"]
        return ["fit", "--config", str(self.config), *places, *overrides]

    def fit(self, name: str, *overrides: str) -> int:
        """The exit status of a training in this process."""
        return main(self.arguments(name, *overrides))

    def command(self, name: str, *overrides: str) -> subprocess.CompletedProcess[str]:
        """A training in a process of its own."""
        environment = {key: value for key, value in os.environ.items() if key not in ("MASTER_PORT", "LOCAL_RANK")}
        environment |= {
            "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
            "OMP_NUM_THREADS": "1",
        }
        return subprocess.run(
            [sys.executable, "-m", "layerscope", *self.arguments(name, *overrides)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def checkpoint(self, name: str) -> dict[str, Any]:
        state: dict[str, Any] = torch.load(self.folder / name / "checkpoints" / "last.ckpt", weights_only=True)
        return state

    def assert_same_end(self, name: str, reference: str) -> None:
        ours, theirs = self.checkpoint(name), self.checkpoint(reference)
        for part in ("state_dict", "current_model_state"):
            assert ours[part].keys() == theirs[part].keys()
            for key, value in theirs[part].items():
                assert torch.equal(ours[part][key], value), (part, key)
        for part in ("global_step", "epoch", "layerscope_batches", "averaging_state"):
            assert ours[part] == theirs[part]
        folders = (self.folder / name, self.folder / reference)
        files, expected = ({path.name for path in (one / "checkpoints").iterdir()} for one in folders)
        assert files == expected
        results, wanted = (
            {key: value for key, value in read_summary(one)["metrics"].items() if key.startswith("val/")}
            for one in folders
        )
        assert results == wanted
        rows, full = (read_history(one) for one in folders)
        assert [row["epoch"] for row in rows] == [row["epoch"] for row in full]
        assert [row.get("val/psnr") for row in rows] == [row.get("val/psnr") for row in full]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in one order: two runs are compared bit by bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def bench(fundus_phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """With a training that nothing stopped, ``whole``."""
    bench = Bench(tmp_path_factory.mktemp("stopping"), settings(fundus_phantom))
    assert bench.fit("whole") == 0
    return bench


def sends(number: int, step: int, place: str = "training", rank: int = 0) -> list[str]:
    prefix = "--trainer.callbacks"
    values = {"number": number, "step": step, "place": place, "rank": rank}
    arguments = [f"{prefix}.init_args.{name}={value}" for name, value in values.items()]
    return [f"{prefix}+=stand_ins.SignalsItself", *arguments]


@pytest.mark.parametrize(
    ("number", "step", "place", "saved_step"),
    [
        (signal.SIGTERM, STEPS + 1, "training", STEPS + 2),
        (signal.SIGINT, 2 * STEPS - 1, "training", 2 * STEPS),
        (signal.SIGTERM, 2 * STEPS, "validation", 2 * STEPS),
        (signal.SIGINT, 3 * STEPS, "validation", 3 * STEPS),
    ],
    ids=["within an epoch", "before a validation", "in a validation", "in the last validation"],
)
def test_a_stopped_training_is_saved_and_goes_on(
    bench: Bench, number: int, step: int, place: str, saved_step: int, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"{place}_{step}"
    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    assert bench.fit(name, *sends(number, step, place)) == 128 + number
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == handlers
    last = bench.folder / name / "checkpoints" / "last.ckpt"
    assert bench.checkpoint(name)["global_step"] == saved_step
    told = capsys.readouterr().err
    assert f"after step {saved_step}. Everything is saved in {last}" in told
    assert "--ckpt_path last" in told
    assert "No result" not in told
    assert (bench.folder / name / "UNFINISHED").exists()
    assert bench.fit(name, "--ckpt_path=last") == 0
    bench.assert_same_end(name, "whole")


@pytest.mark.parametrize(
    ("trainer", "step", "saved_step"),
    [
        # Two optimizer steps an epoch. Told in the first of two batches whose gradients are added up; the second is the
        # last of an epoch without validation.
        ({"accumulate_grad_batches": 2, "check_val_every_n_epoch": 3}, 1, 2),
        # Told in a batch before a validation within the epoch.
        ({"val_check_interval": 2}, STEPS + 1, STEPS + 2),
    ],
    ids=["accumulated gradients", "validations within an epoch"],
)
def test_a_stop_waits_for_what_belongs_together(
    fundus_phantom: Path, tmp_path: Path, trainer: dict[str, Any], step: int, saved_step: int
) -> None:
    config = settings(fundus_phantom)
    config["trainer"] |= trainer
    bench = Bench(tmp_path, config)
    assert bench.fit("whole") == 0
    assert bench.fit("stopped", *sends(signal.SIGTERM, step)) == 143
    assert bench.checkpoint("stopped")["global_step"] == saved_step
    assert bench.fit("stopped", "--ckpt_path=last") == 0
    bench.assert_same_end("stopped", "whole")


def test_the_last_step_is_followed_to_its_end(bench: Bench) -> None:
    assert bench.fit("limit", "--trainer.max_steps=3", *sends(signal.SIGTERM, 2)) == 0
    assert read_summary(bench.folder / "limit")["steps"] == 3


def test_the_last_checkpoint_is_the_newest_and_may_be_missing(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoints = bench.folder / "requeued" / "checkpoints"
    short = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1"]
    assert bench.fit("requeued", "--ckpt_path=last", *short) == 0
    told = capsys.readouterr()
    assert f"there is no last checkpoint in {checkpoints} yet, so the training starts from the beginning" in told.out
    assert "HINT" not in told.err
    # A second one, as Lightning leaves it where files of the same name are numbered: of the first step, and newer.
    older = bench.folder / "whole" / "checkpoints" / "last.ckpt"
    (checkpoints / "last.ckpt").rename(checkpoints / "last-v1.ckpt")
    (checkpoints / "last.ckpt").write_bytes(older.read_bytes())
    os.utime(checkpoints / "last.ckpt", (0, 0))
    assert bench.fit("requeued", "--ckpt_path=last", "--overwrite", "--trainer.max_epochs=2", short[1]) == 0
    told = capsys.readouterr()
    assert "no last checkpoint" not in told.out
    assert read_summary(bench.folder / "requeued")["steps"] == 2


@pytest.mark.slow
def test_a_killed_training_goes_on_from_its_last_checkpoint(bench: Bench) -> None:
    done = bench.command("killed", *sends(signal.SIGKILL, STEPS + 2))
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert bench.checkpoint("killed")["global_step"] == STEPS
    left = bench.folder / "killed" / "checkpoints" / ".last.ckpt.partial"
    left.write_bytes(b"cut off")
    assert bench.fit("killed", "--ckpt_path=last") == 0
    assert not left.exists()
    bench.assert_same_end("killed", "whole")


@pytest.mark.slow
def test_a_second_signal_ends_a_step_that_never_ends(bench: Bench) -> None:
    done = bench.command("stuck", *sends(signal.SIGTERM, STEPS + 2, "stuck"))
    assert done.returncode == 143, done.stderr
    assert bench.checkpoint("stuck")["global_step"] == STEPS


@pytest.mark.slow
def test_one_of_two_processes_is_told_and_both_stop(bench: Bench) -> None:
    two = ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.max_epochs=2"]
    # Six images on each: two steps an epoch.
    done = bench.command("two", *two, *sends(signal.SIGTERM, 2, rank=1))
    assert done.returncode == 143, done.stderr
    assert done.stderr.count("Stopped by SIGTERM after step 3") == 1
    assert bench.checkpoint("two")["global_step"] == 3
    done = bench.command("two", *two, "--ckpt_path=last")
    assert done.returncode == 0, done.stderr
    assert read_summary(bench.folder / "two")["steps"] == 4

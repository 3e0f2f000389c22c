"""What a training tells its loggers and its history, how often it draws its bar, and what it keeps between steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from small_architectures import SMALL_KL
from stand_ins import read_rows

from layerscope.artifacts import open_run_directory, read_history
from layerscope.callbacks import progress
from layerscope.callbacks.progress import ConditionProgressBar
from layerscope.callbacks.run_folder import RunFolder
from layerscope.callbacks.training_history import TrainingHistory
from layerscope.data.multilabel import MultilabelImages
from layerscope.data.phantom.write import write_phantom
from layerscope.models.autoencoders import DiffusersAutoencoder
from layerscope.tasks.vae import AutoencoderTraining

BATCHES = 5
TERMS = ("train/loss", "train/l1", "train/kl", "train/rec_mean", "train/kl_per_image", "train/kl_per_latent_element")


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantom(tmp_path_factory.mktemp("vae") / "fundus", "fundus", n=40, size=32, seed=5)


def train(phantom: Path, out: Path, **trainer: Any) -> None:
    """Steps on 2 images each, 5 in an epoch."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in one order
    seed_everything(3)
    data = MultilabelImages(str(phantom), "schema.yaml", "labels.csv", limit=2 * BATCHES, batch_size=2)
    callbacks = [*trainer.pop("callbacks", []), TrainingHistory(), RunFolder(open_run_directory(out, True))]
    Trainer(
        accelerator="cpu",
        logger=CSVLogger(str(out), name="log", version="", flush_logs_every_n_steps=1),
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
        **trainer,
    ).fit(AutoencoderTraining(DiffusersAutoencoder(architecture=SMALL_KL, seed=0)), datamodule=data)
    torch.set_num_threads(threads)


def test_values_told_at_some_steps_are_those_of_these_steps(phantom: Path, tmp_path: Path) -> None:
    """Against a run that logs every step; the last epoch ends early, at max_steps."""
    for every in (1, 3):
        train(phantom, tmp_path / str(every), log_every_n_steps=every, max_steps=8, enable_progress_bar=False)
    each, some = (read_rows(tmp_path / str(every) / "log" / "metrics.csv") for every in (1, 3))
    assert [row["step"] for row in some] == ["2", "5"]
    by_step = {row["step"]: row for row in each}
    for row in some:
        assert [row[term] for term in TERMS] == [by_step[row["step"]][term] for term in TERMS]
    each, some = (read_history(tmp_path / str(every)) for every in (1, 3))
    assert [row["batches"] for row in some] == [5, 8]
    # The history has the means over the images of an epoch, however often loggers are told.
    for one, other, steps in zip(each, some, (range(5), range(5, 8)), strict=True):
        for term in TERMS:
            mean = sum(float(by_step[str(step)][term]) for step in steps) / len(steps)
            assert one[term] == other[term] == pytest.approx(mean, rel=1e-5)


def test_the_bar_shows_the_last_step_however_fast_the_steps_are(
    phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []

    class Watched(ConditionProgressBar):
        def get_metrics(self, *arguments: Any) -> dict[str, Any]:
            drawn.append(int(self.train_progress_bar.n))
            return dict(super().get_metrics(*arguments))

    class StandingClock:
        monotonic = staticmethod(lambda: 1000.0)

    monkeypatch.setattr(progress, "time", StandingClock)
    train(phantom, tmp_path / "run", log_every_n_steps=50, max_steps=8, callbacks=[Watched()])
    # Each epoch's last step, and once more at its end; the first step because nothing was drawn before.
    assert drawn == [1, 5, 5, 3, 3]


def test_gradients_are_kept_while_they_accumulate_and_let_go_after_the_step(phantom: Path, tmp_path: Path) -> None:
    held: list[bool] = []

    class Look(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            held.append(any(parameter.grad is not None for parameter in pl_module.parameters()))

    train(
        phantom, tmp_path / "run", max_steps=2, accumulate_grad_batches=2, enable_progress_bar=False, callbacks=[Look()]
    )
    assert held == [False, True, False, True]

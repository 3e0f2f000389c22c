"""The history of a training: complete after every epoch, without stale values, continued by a resumed run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from tiny_vae import TinyVAE, tiny_trainer

from layerscope.artifacts import HISTORY_COLUMNS, HISTORY_CSV, HISTORY_JSON, read_csv, read_history
from layerscope.callbacks.training_history import TrainingHistory
from layerscope.errors import ConfigurationError


class Breaks(Callback):
    """Fails when an epoch begins."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == self.epoch:
            raise RuntimeError("the power went")


class Watches(Callback):
    """Counts the rows and figures on disk when an epoch begins."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.seen: list[tuple[int, bool]] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rows = len(read_history(self.run)) if (self.run / HISTORY_JSON).exists() else 0
        self.seen.append((rows, (self.run / "training_curves.png").exists()))


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in row.items() if k not in ("seconds", "train_seconds", "images_per_second")} for row in rows
    ]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("history") / "run"
    tiny_trainer(run, [TrainingHistory()], epochs=4, num_sanity_val_steps=2).fit(TinyVAE())
    return run


def test_a_row_holds_the_figures_of_its_epoch(uninterrupted: Path) -> None:
    rows = read_history(uninterrupted)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert [row["batches"] for row in rows] == [3, 6, 9, 12]
    # The rate of the last step; StepLR halves it after each epoch.
    assert [row["lr"] for row in rows] == pytest.approx([0.1, 0.05, 0.025, 0.0125])
    for row in rows:
        assert row["images_per_second"] * row["train_seconds"] == pytest.approx(8)
        assert 0 < row["train_seconds"] < row["seconds"]
        assert {"train/loss_epoch", "train/loss_step", "val/psnr", "val/band_2_4", "val/latent_mean_0"} <= set(row)
    psnr = [row["val/psnr"] for row in rows]
    assert psnr == sorted(psnr)
    assert len(set(psnr)) == 4
    assert (uninterrupted / "training_curves.png").stat().st_size > 10_000


def test_the_mean_loss_of_an_epoch_is_that_of_its_images(tmp_path: Path) -> None:
    model = TinyVAE(lr=0.0)
    tiny_trainer(tmp_path / "run", [TrainingHistory()]).fit(model)
    output = model.output({"image": model.train_set.image, "id": [], "index": torch.arange(8)})
    expected = (output.recon - output.image).square().mean().item()
    assert read_history(tmp_path / "run")[0]["train/loss_epoch"] == pytest.approx(expected, rel=1e-5)


def test_csv_and_json_agree(uninterrupted: Path) -> None:
    table = read_csv(uninterrupted / HISTORY_CSV)
    rows = read_history(uninterrupted)
    assert list(table[0])[: len(HISTORY_COLUMNS)] == list(HISTORY_COLUMNS)
    assert [{k: v for k, v in row.items() if not math.isnan(v)} for row in table] == rows
    assert isinstance(table[0]["epoch"], int)


def test_an_epoch_without_validation_has_no_validation_figures(tmp_path: Path) -> None:
    tiny_trainer(tmp_path / "run", [TrainingHistory()], epochs=4, check_val_every_n_epoch=2).fit(TinyVAE())
    assert ["val/psnr" in row for row in read_history(tmp_path / "run")] == [False, True, False, True]
    cells = [row["val/psnr"] for row in read_csv(tmp_path / "run" / HISTORY_CSV)]
    assert [math.isnan(cell) for cell in cells] == [True, False, True, False]


def test_files_are_whole_after_every_epoch_and_curves_come_every_n(tmp_path: Path) -> None:
    run = tmp_path / "run"
    watches = Watches(run)
    callbacks = [TrainingHistory(curves_every_n_epochs=2), watches, Breaks(3)]
    with pytest.raises(RuntimeError, match="the power went"):
        tiny_trainer(run, callbacks, epochs=5).fit(TinyVAE())
    assert watches.seen == [(0, False), (1, False), (2, True), (3, True)]
    assert not [path for path in run.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_killed_and_resumed_run_continues_the_table(tmp_path: Path, uninterrupted: Path, elsewhere: bool) -> None:
    """A checkpoint that is saved when validation ends comes before the means over the epoch's steps are known."""
    saves = ModelCheckpoint(tmp_path / "checkpoints", filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=False)
    with pytest.raises(RuntimeError, match="the power went"):
        tiny_trainer(tmp_path / "run", [TrainingHistory(), saves, Breaks(3)], epochs=4).fit(TinyVAE())
    run = tmp_path / ("other" if elsewhere else "run")
    resumed = tiny_trainer(run, [TrainingHistory()], epochs=4)
    resumed.fit(TinyVAE(), ckpt_path=tmp_path / "checkpoints" / "epoch=1.ckpt", weights_only=True)
    found, expected = timeless(read_history(run)), timeless(read_history(uninterrupted))
    if elsewhere:  # the mean over the second epoch's steps was not known yet; its last step was
        assert found[1].pop("train/loss_epoch", None) != expected[1].pop("train/loss_epoch")
        found[1].pop("train/loss", None)
        expected[1].pop("train/loss", None)
    assert [row["epoch"] for row in found] == [1, 2, 3, 4]
    for row, reference in zip(found, expected):
        assert row == pytest.approx(reference, rel=1e-6)


def test_groups_of_parameters_have_a_rate_each(tmp_path: Path) -> None:
    class Groups(TinyVAE):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD([{"params": [self.factor], "lr": 0.3}, {"params": [self.shade], "lr": 0.2}])

    tiny_trainer(tmp_path / "run", [TrainingHistory()]).fit(Groups())
    (row,) = read_history(tmp_path / "run")
    assert {name: row[name] for name in row if name.startswith("lr")} == {"lr/0/0": 0.3, "lr/0/1": 0.2}


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    tiny_trainer(tmp_path / "run", [TrainingHistory()], fast_dev_run=True).fit(TinyVAE(val_images=3))
    assert not (tmp_path / "run" / HISTORY_JSON).exists()


def test_a_run_without_directory_is_refused_before_it_trains(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="curves_every_n_epochs is 0"):
        TrainingHistory(0)
    trainer = tiny_trainer(tmp_path / "run", [TrainingHistory()])
    trainer.callbacks = [callback for callback in trainer.callbacks if isinstance(callback, TrainingHistory)]
    with pytest.raises(ConfigurationError, match="No run directory"):
        trainer.fit(TinyVAE())

"""Checkpoints every few epochs, named by the epochs that are finished."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny_vae import TinyVAE, tiny_trainer

from layerscope.callbacks.epoch_checkpoint import EpochCheckpoint

STEPS_PER_EPOCH = 3


@pytest.mark.parametrize("validations", [1, STEPS_PER_EPOCH], ids="{} validations an epoch".format)
def test_all_are_kept_under_the_number_of_finished_epochs(tmp_path: Path, validations: int) -> None:
    last = ModelCheckpoint(filename="last", enable_version_counter=False)
    interval = STEPS_PER_EPOCH // validations
    trainer = tiny_trainer(tmp_path, [EpochCheckpoint(every_n_epochs=2), last], epochs=5, val_check_interval=interval)
    trainer.fit(TinyVAE())
    files = {file.name: file for file in tmp_path.rglob("*.ckpt")}
    assert files.keys() == {"epoch_2.ckpt", "epoch_4.ckpt", "last.ckpt"}
    steps = {name: torch.load(file, weights_only=True)["global_step"] for name, file in files.items()}
    assert steps == {f"epoch_{n}.ckpt": n * STEPS_PER_EPOCH for n in (2, 4)} | {"last.ckpt": 5 * STEPS_PER_EPOCH}

"""The course of the learning rate, as torch's schedulers by class_path and as the built-in ones give it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from small_architectures import SMALL_KL

from layerscope.cli import main

EPOCHS, STEPS = 3, 4


class Rates(Callback):
    """The learning rate of every step."""

    seen: list[float]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        Rates.seen = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        Rates.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


def command(folder: Path, phantom: Path, **settings: Any) -> list[str]:
    """A training of three epochs of four steps."""
    config = {
        "seed_everything": 3,
        "trainer": {
            "accelerator": "cpu",
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "max_epochs": EPOCHS,
            "callbacks": [{"class_path": "test_optimization.Rates"}],
        },
        "model": {
            "class_path": "layerscope.tasks.vae.AutoencoderTraining",
            "init_args": {
                "autoencoder": {
                    "class_path": "layerscope.models.autoencoders.DiffusersAutoencoder",
                    "init_args": {"architecture": SMALL_KL},
                },
                "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.01}},
                **settings,
            },
        },
        "data": {
            "class_path": "layerscope.data.multilabel.MultilabelImages",
            "init_args": {
                "root": str(phantom),
                "schema": "schema.yaml",
                "table": "labels.csv",
                "limit": 4,
                "batch_size": 1,
            },
        },
    }
    path = folder / "fit.yaml"
    path.write_text(yaml.safe_dump(config))
    return ["--config", str(path), f"--output_root={folder}", "--allow-import=test_optimization"]


def rates(folder: Path, phantom: Path, **settings: Any) -> list[float]:
    assert main(["fit", "--debug", *command(folder, phantom, **settings)]) == 0
    return Rates.seen


def by_torch(scheduler: type, by_epoch: bool, **arguments: Any) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.01)
    schedule = scheduler(optimizer, **arguments)
    found = []
    for step in range(1, EPOCHS * STEPS + 1):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if not by_epoch or step % STEPS == 0:
            schedule.step()
    return found


def test_torch_schedulers_by_class_path(tmp_path: Path, fundus_phantom: Path) -> None:
    lr = torch.optim.lr_scheduler
    step = {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 1, "gamma": 0.5}}
    found = rates(tmp_path, fundus_phantom, lr_schedule=step)
    assert found == pytest.approx(by_torch(lr.StepLR, True, step_size=1, gamma=0.5))
    once = {"class_path": "torch.optim.lr_scheduler.OneCycleLR", "init_args": {"max_lr": 0.1, "total_steps": 12}}
    found = rates(tmp_path, fundus_phantom, lr_schedule=once, lr_interval="step")
    assert found == pytest.approx(by_torch(lr.OneCycleLR, False, max_lr=0.1, total_steps=12))


def test_a_plateau_is_told_by_the_figure_it_names(tmp_path: Path, fundus_phantom: Path) -> None:
    # lr 0.01 at a KL weight of 0 cannot halve l1 in an epoch: each epoch after the first is a plateau.
    plateau = {
        "class_path": "lightning.pytorch.cli.ReduceLROnPlateau",
        "init_args": {"monitor": "val/l1", "patience": 0, "threshold": 0.99, "factor": 0.1},
    }
    found = rates(tmp_path, fundus_phantom, lr_schedule=plateau)
    assert found == pytest.approx([0.01] * 2 * STEPS + [0.001] * STEPS)


def test_the_built_in_ones(tmp_path: Path, fundus_phantom: Path) -> None:
    found = rates(tmp_path, fundus_phantom, lr_schedule="constant", warmup_fraction=0.25)
    assert found == pytest.approx([0.01 / 3, 0.02 / 3] + [0.01] * 10)
    found = rates(tmp_path, fundus_phantom, lr_schedule="cosine", warmup_fraction=0)
    assert found == pytest.approx(by_torch(torch.optim.lr_scheduler.CosineAnnealingLR, False, T_max=12))


@pytest.mark.parametrize(
    ("schedule", "told"),
    [
        ("linear", "Expected one of 'cosine', 'constant', or a class_path. Given value: linear"),
        ("torch.optim.lr_scheduler.StepLR", "the following arguments are required: step_size"),
    ],
)
def test_a_schedule_that_is_none_is_answered_in_one_paragraph(
    schedule: str, told: str, tmp_path: Path, fundus_phantom: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *command(tmp_path, fundus_phantom, lr_schedule=schedule)]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert message.endswith(told)
    assert "Namespace" not in message

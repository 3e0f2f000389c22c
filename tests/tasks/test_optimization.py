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
CHECKPOINT: dict[str, Any] = {
    "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
    "init_args": {"save_top_k": -1},
}
WITHIN_AND_AT_THE_END: tuple[dict[str, Any], ...] = (
    {"filename": "mid-{step}", "every_n_train_steps": 3},
    {"filename": "end-{step}"},
)
PLATEAU: dict[str, Any] = {
    "class_path": "lightning.pytorch.cli.ReduceLROnPlateau",
    "init_args": {"monitor": "val/l1", "patience": 0, "threshold": 0.99, "factor": 0.1},
}


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
    return ["--config", str(path), f"--output_root={folder}", "--overwrite", "--allow-import=test_optimization"]


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
    # l1 does not fall to a hundredth in an epoch: each one after the first is a plateau.
    found = rates(tmp_path, fundus_phantom, lr_schedule=PLATEAU)
    assert found == pytest.approx([0.01] * 2 * STEPS + [0.001] * STEPS)


def test_a_resumed_plateau_loses_no_step(tmp_path: Path, fundus_phantom: Path) -> None:
    """Neither from the end of an epoch nor from within one."""
    mid, end = ({**CHECKPOINT, "init_args": {**CHECKPOINT["init_args"], **when}} for when in WITHIN_AND_AT_THE_END)
    config = {"lr_schedule": {**PLATEAU, "init_args": {**PLATEAU["init_args"], "monitor": "val/psnr", "mode": "min"}}}
    arguments = command(tmp_path, fundus_phantom, **config)
    settings = yaml.safe_load((tmp_path / "fit.yaml").read_text())
    settings["trainer"]["callbacks"] += [mid, end]
    settings["trainer"]["max_epochs"] = 4
    (tmp_path / "fit.yaml").write_text(yaml.safe_dump(settings))
    assert main(["fit", "--debug", *arguments]) == 0
    whole = Rates.seen
    assert len(set(whole)) > 2
    for name, step in (("mid-step=6", STEPS + 2), ("end-step=4", STEPS)):
        resumed = f"--ckpt_path={tmp_path / 'default' / 'checkpoints' / f'{name}.ckpt'}"
        assert main(["fit", "--debug", *arguments, "--experiment_name=again", resumed]) == 0
        assert Rates.seen == whole[step:], name


def test_what_cannot_be_scheduled_is_refused(
    tmp_path: Path, fundus_phantom: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endless = command(tmp_path, fundus_phantom)
    assert main(["fit", *endless, "--trainer.max_epochs=-1", "--trainer.max_time=00:00:01:00"]) == 2
    assert "set trainer.max_epochs or trainer.max_steps" in " ".join(capsys.readouterr().err.split())
    unknown = {**PLATEAU, "init_args": {**PLATEAU["init_args"], "monitor": "val/loss"}}
    assert main(["fit", *command(tmp_path, fundus_phantom, lr_schedule=unknown)]) == 2
    assert "monitors 'val/loss', which validation does not measure" in " ".join(capsys.readouterr().err.split())


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

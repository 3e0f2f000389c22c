"""What the first steps of a training do: overfit, move small weights in mixed precision, follow any optimizer."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from small_architectures import SMALL_KL
from stand_ins import read_rows
from step_records import read_steps, recorded
from vae_runs import LAST, fit, settings

from layerscope.models.autoencoders import DiffusersAutoencoder

ALLOWED = [f"--allow-import={module}" for module in ("step_records", "loss_stand_ins")]
L1_KL: list[dict[str, Any]] = [{"class_path": "layerscope.losses.L1"}, {"class_path": "layerscope.losses.KL"}]


def steps(root: Path, losses: list[dict[str, Any]], number: int, optimizer: dict[str, Any], **trainer: Any) -> Any:
    """So many steps on one batch of eight images at a constant learning rate, without validation."""
    config = settings(
        root, losses, max_epochs=-1, max_steps=number, limit_val_batches=0, **{"callbacks": [], **trainer}
    )
    config["model"]["init_args"] |= {"optimizer": optimizer, "lr_schedule": "constant", "warmup_fraction": 0.0}
    config["data"]["init_args"] |= {"limit": 8, "batch_size": 8}
    return config


def adamw(lr: float) -> dict[str, Any]:
    return {"class_path": "torch.optim.AdamW", "init_args": {"lr": lr}}


def test_twenty_steps_on_eight_images_halve_the_loss(tmp_path: Path, fundus_phantom: Path) -> None:
    logger = {
        "class_path": "lightning.pytorch.loggers.CSVLogger",
        "init_args": {"save_dir": str(tmp_path), "name": "log", "version": ""},
    }
    fit(tmp_path, "run", steps(fundus_phantom, L1_KL, 20, adamw(0.01), logger=logger, log_every_n_steps=1))
    losses = [float(row["train/loss"]) for row in read_rows(tmp_path / "log" / "metrics.csv")]
    assert len(losses) == 20
    assert losses[-1] < 0.5 * losses[0]


def test_small_steps_in_mixed_precision_move_the_weights_that_full_precision_moves(
    tmp_path: Path, fundus_phantom: Path
) -> None:
    moved = {}
    start = DiffusersAutoencoder(architecture=SMALL_KL, initial_logvar=-6.0, seed=1).state_dict()
    for precision in ("32-true", "bf16-mixed", "bf16-true"):
        config = steps(fundus_phantom, L1_KL, 50, adamw(4.5e-6), precision=precision, callbacks=[LAST])
        config["model"]["init_args"]["autoencoder"]["init_args"]["seed"] = 1
        config["model"]["init_args"]["crop_size"] = 16
        config["data"]["init_args"] |= {"limit": 2, "batch_size": 2}
        warned = pytest.warns(UserWarning, match="weights are bfloat16.*Use trainer.precision bf16-mixed")
        with warned if precision == "bf16-true" else nullcontext():
            run = fit(tmp_path, precision, config)
        end = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        dtype = torch.bfloat16 if precision == "bf16-true" else torch.float32
        assert {value.dtype for value in end.values()} == {dtype}
        changes = [(end[f"autoencoder.{name}"] != value.to(dtype)).flatten() for name, value in start.items()]
        moved[precision] = torch.cat(changes)
    everywhere = moved["32-true"]
    assert everywhere.float().mean() > 0.99
    share = {name: float(one[everywhere].float().mean()) for name, one in moved.items()}
    assert share["bf16-mixed"] >= 0.99
    # The trap: a step below half the spacing of bf16 rounds away.
    assert share["bf16-true"] < 0.3


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
        ("Adam", {"lr": 0.002, "betas": [0.5, 0.9]}),
    ],
)
def test_a_loss_of_ones_own_and_any_torch_optimizer(
    name: str, options: dict[str, Any], tmp_path: Path, fundus_phantom: Path
) -> None:
    losses = [{"class_path": "layerscope.losses.L1"}, {"class_path": "loss_stand_ins.MeanColour"}]
    optimizer = {"class_path": f"torch.optim.{name}", "init_args": options}
    logger = {
        "class_path": "lightning.pytorch.loggers.CSVLogger",
        "init_args": {"save_dir": str(tmp_path), "name": "log", "version": ""},
    }
    config = steps(fundus_phantom, losses, 4, optimizer, logger=logger, log_every_n_steps=1)
    config["trainer"]["callbacks"] = [recorded(tmp_path / "steps")]
    fit(tmp_path, "run", config, *ALLOWED)
    first, *rest = read_steps(tmp_path / "steps")

    # torch's optimizer, from the weights after the first step, on the gradients that were seen. What is not set has the
    # default of this optimizer and not AdamW's, whose weight decay is 0.01.
    parameters = {key: torch.nn.Parameter(value.clone()) for key, value in first["weights"].items()}
    plain = getattr(torch.optim, name)(parameters.values(), **options)
    for key, parameter in parameters.items():
        parameter.grad = first["gradients"][key]
    plain.step()  # fills its moments
    for key, parameter in parameters.items():
        parameter.data.copy_(first["weights"][key])
    for step in rest:
        for key, parameter in parameters.items():
            parameter.grad = step["gradients"][key]
        plain.step()
        for key, parameter in parameters.items():
            torch.testing.assert_close(parameter.data, step["weights"][key], rtol=1e-6, atol=1e-8)
    rows = read_rows(tmp_path / "log" / "metrics.csv")
    for before, row in enumerate(rows):
        expected = float(row["train/l1"]) + 2.0 / (1 + before) * float(row["train/mean_colour"])
        assert float(row["train/loss"]) == pytest.approx(expected, rel=1e-5)

"""NaN in a training: the command says what, when, on which images, and leaves a good checkpoint to go on from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from step_records import recorded
from vae_runs import LAST, SUMMARY, settings, write

from layerscope.artifacts import read_summary
from layerscope.cli import main

ALLOWED = [f"--allow-import={module}" for module in ("step_records", "training_stand_ins")]


def breaking(root: Path, how: str, batches: int, **callback: Any) -> dict[str, Any]:
    """Two images in a batch, two batches in an epoch, last.ckpt after every epoch unless told otherwise."""
    term = {"class_path": "training_stand_ins.Breaks", "init_args": {"how": how, "batches": batches}}
    last = {**LAST, "init_args": {**LAST["init_args"], **callback}}  # type: ignore[dict-item]
    config = settings(root, [{"class_path": "layerscope.losses.L1"}, term], max_epochs=3, callbacks=[last, SUMMARY])
    config["data"]["init_args"]["batch_size"] = 2
    return config


def run(folder: Path, config: dict[str, Any], *overrides: str) -> int:
    path = write(folder, "config", config)
    return main(
        ["fit", "--config", str(path), f"--output_root={folder}", "--experiment_name=run", *ALLOWED, *overrides]
    )


def said(capsys: pytest.CaptureFixture[str]) -> str:
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    message = printed[printed.index("layerscope: error:") :].strip()
    assert "\n\n" not in message
    return " ".join(message.split())


def finite(checkpoint: dict[str, Any]) -> bool:
    moments = [v for state in checkpoint["optimizer_states"][0]["state"].values() for v in state.values()]
    return all(bool(torch.isfinite(value).all()) for value in [*checkpoint["state_dict"].values(), *moments])


@pytest.mark.parametrize("how", ["nan", "inf", "gradient"])
def test_it_stops_and_goes_on_from_the_last_good_checkpoint(
    how: str, tmp_path: Path, fundus_phantom: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The third epoch's second batch is the sixth of all.
    assert run(tmp_path, breaking(fundus_phantom, how, batches=5)) == 1
    message = said(capsys)
    good = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert f"The last good checkpoint is {good}: resume from it with --ckpt_path {good}" in message
    assert "This was optimizer step 6, in epoch 2." in message
    if how == "gradient":
        assert "their gradient is not, for autoencoder.model.encoder.conv_in.weight, " in message
        assert "The weights were not changed" in message
    else:
        assert f"A loss term is not finite after 5 training batches: breaks is {how}. " in message
    [ids] = re.findall(r"The images of this batch: ([^.]*)\.", message)
    assert len(ids.split(", ")) == 2

    checkpoint = torch.load(good, weights_only=True)
    assert checkpoint["global_step"] == 4
    assert finite(checkpoint)
    assert not (tmp_path / "run" / "summary.json").exists()
    # As the message says, with the cause removed.
    assert run(tmp_path, breaking(fundus_phantom, how, batches=99), f"--ckpt_path={good}") == 0
    assert read_summary(tmp_path / "run")["steps"] == 6
    assert finite(torch.load(good, weights_only=True))


def test_the_images_are_those_of_the_batch_and_nothing_was_saved_before(
    tmp_path: Path, fundus_phantom: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = breaking(fundus_phantom, "nan", batches=1)
    config["trainer"]["callbacks"] = [recorded(tmp_path / "steps")]
    config["trainer"]["max_steps"] = 1
    assert run(tmp_path, config) == 0
    other = torch.load(tmp_path / "steps.0.pt", weights_only=True)[0]["ids"]
    config["trainer"]["max_steps"] = 2
    capsys.readouterr()
    assert run(tmp_path, config, "--overwrite") == 1
    message = said(capsys)
    assert "No checkpoint had been written." in message
    [ids] = re.findall(r"The images of this batch: ([^.]*)\.", message)
    # Four images in two batches: the other two.
    assert not set(ids.split(", ")) & set(other)


def test_an_exception_checkpoint_has_the_weights_before_the_broken_gradient(
    tmp_path: Path, fundus_phantom: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = breaking(fundus_phantom, "gradient", batches=3)
    saves = "lightning.pytorch.callbacks.OnExceptionCheckpoint"
    config["trainer"]["callbacks"] += [
        {"class_path": saves, "init_args": {"dirpath": str(tmp_path), "filename": "broken_off"}}
    ]
    assert run(tmp_path, config) == 1
    assert "their gradient is not" in said(capsys)
    checkpoint = torch.load(tmp_path / "broken_off.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 3
    assert finite(checkpoint)


def test_broken_weights_never_replace_good_ones(
    tmp_path: Path, fundus_phantom: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Finite gradients, and an optimizer whose third step is infinite.
    config = breaking(fundus_phantom, "nan", batches=99, every_n_train_steps=1)
    config["trainer"]["limit_val_batches"] = 0
    config["model"]["init_args"]["optimizer"] = {"class_path": "training_stand_ins.Runaway", "init_args": {"after": 2}}
    assert run(tmp_path, config) == 1
    message = said(capsys)
    good = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert "The trained weights are not finite and are not saved: autoencoder.model.encoder.conv_in.weight, " in message
    assert f"The last good checkpoint is {good}" in message
    checkpoint = torch.load(good, weights_only=True)
    assert checkpoint["global_step"] == 2
    assert all(torch.isfinite(value).all() for value in checkpoint["state_dict"].values())

    # Without any checkpoint the end of training says so, before a model is exported or a summary written.
    config["trainer"] |= {"callbacks": [SUMMARY], "max_epochs": -1, "max_steps": 3, "enable_checkpointing": False}
    assert run(tmp_path, config, "--overwrite") == 1
    assert "not finite and are not saved" in said(capsys)
    assert not (tmp_path / "run" / "summary.json").exists()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_finite_gradients_whose_norm_overflows_and_accumulated_ones(
    accumulate: int, tmp_path: Path, fundus_phantom: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = breaking(fundus_phantom, "gradient", batches=99)
    config["trainer"] |= {"accumulate_grad_batches": accumulate, "max_epochs": 1, "gradient_clip_val": 1.0}
    config["model"]["init_args"]["losses"][0]["init_args"] = {"weight": 1e30}
    assert run(tmp_path, config) == 0
    config["model"]["init_args"]["losses"][1]["init_args"]["batches"] = 1
    assert run(tmp_path, config, "--overwrite") == 1
    assert ("the last of the 2 whose gradients were added" in said(capsys)) == (accumulate == 2)

"""What is frozen stays in evaluation mode through a training with validation, and out of what is saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_architectures import SMALL_KL
from training_stand_ins import WatchedTeacher
from vae_runs import LAST, SUMMARY, fit, settings

from layerscope.models.autoencoders import DiffusersAutoencoder

ALLOWED = "--allow-import=training_stand_ins"
LOSSES: list[dict[str, Any]] = [
    {"class_path": "layerscope.losses.L1"},
    {
        "class_path": "layerscope.losses.FeatureMatching",
        "init_args": {"teacher": {"class_path": "training_stand_ins.WatchedTeacher"}},
    },
]


def test_a_teacher_and_a_frozen_encoder_in_a_fine_tune_that_resumes(
    tmp_path: Path, fundus_phantom: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WatchedTeacher, "asked", asked := [])
    torch.manual_seed(0)
    start = DiffusersAutoencoder(architecture=SMALL_KL)
    start.save(tmp_path / "start")
    every = {
        "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
        "init_args": {"every_n_train_steps": 3, "save_top_k": -1, "filename": "{step}"},
    }
    config = settings(fundus_phantom, LOSSES, max_epochs=3, callbacks=[every, LAST, SUMMARY])
    config["model"]["init_args"] |= {"train": "decoder"}
    config["model"]["init_args"]["autoencoder"]["init_args"] = {"source": str(tmp_path / "start")}
    config["data"]["init_args"]["batch_size"] = 2
    run = fit(tmp_path, "run", config, ALLOWED)
    # Two steps in each of three epochs, each asking for the features of the original and of the reconstruction.
    assert asked == [False] * 12

    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    state = checkpoint["state_dict"]
    assert set(state) == {f"autoencoder.{name}" for name in start.state_dict()}
    for name, value in start.state_dict().items():
        if not name.startswith(("model.decoder.", "model.post_quant_conv.")):
            assert torch.equal(state[f"autoencoder.{name}"], value), name
    [group] = checkpoint["optimizer_states"][0]["param_groups"]
    model: Any = start.model
    trained = [*model.decoder.parameters(), *model.post_quant_conv.parameters()]
    assert len(group["params"]) == len(trained)

    # Lightning loads strictly: an unexpected or a missing key would end the run.
    resumed = fit(tmp_path, "resumed", config, ALLOWED, f"--ckpt_path={run / 'checkpoints' / 'step=3.ckpt'}")
    again = torch.load(resumed / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert again.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(again[name], value), name
    assert asked == [False] * (12 + 6)

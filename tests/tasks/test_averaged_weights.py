"""The averaged weights hold every trained parameter, leave frozen ones alone, and are what validation judges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from small_architectures import SMALL_KL
from step_records import read_steps, recorded
from training_stand_ins import WatchedTeacher
from vae_runs import LAST, SUMMARY, fit, settings

from layerscope.artifacts import read_summary
from layerscope.callbacks.averaging import EMA
from layerscope.data.multilabel import MultilabelImages

# Reached with the fifth update; before, the average forgets faster.
DECAY = 0.4
ALLOWED = [f"--allow-import={module}" for module in ("step_records", "training_stand_ins")]
LOSSES: list[dict[str, Any]] = [
    {
        "class_path": "layerscope.losses.LearnedLogvar",
        "init_args": {"term": {"class_path": "layerscope.losses.L1"}, "initial_logvar": -1.0},
    },
    {"class_path": "layerscope.losses.KL"},
    {
        "class_path": "layerscope.losses.FeatureMatching",
        "init_args": {"teacher": {"class_path": "training_stand_ins.WatchedTeacher"}},
    },
]


def psnr(state: dict[str, torch.Tensor], root: Path) -> float:
    """The mean over the validation images of plain diffusers' reconstruction from the posterior's mode, in dB."""
    from diffusers import AutoencoderKL

    model: Any = AutoencoderKL.from_config(SMALL_KL).eval()
    prefix = "autoencoder.model."
    model.load_state_dict({key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)})
    data = MultilabelImages(str(root), "schema.yaml", "labels.csv", limit=4, batch_size=4, eval_split="val")
    image = next(iter(data.test_dataloader()))["image"]
    with torch.no_grad():
        recon = model.decode(model.encode(image).latent_dist.mode()).sample.clamp(-1, 1)
    squared = (recon - image).square().mean(dim=(1, 2, 3))
    return float((10 * torch.log10(4 / squared)).mean())


def test_the_average_is_the_closed_form_over_every_trained_parameter(tmp_path: Path, fundus_phantom: Path) -> None:
    ema = {"class_path": "layerscope.callbacks.averaging.EMA", "init_args": {"decay": DECAY}}
    callbacks = [ema, recorded(tmp_path / "steps"), LAST, SUMMARY]
    config = settings(fundus_phantom, LOSSES, max_epochs=3, callbacks=callbacks)
    config["data"]["init_args"]["batch_size"] = 2
    config["model"]["init_args"]["freeze"] = ["encoder.conv_in.*"]
    run = fit(tmp_path, "run", config, *ALLOWED)
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    average, current = checkpoint["state_dict"], checkpoint["current_model_state"]

    weights = [step["weights"] for step in read_steps(tmp_path / "steps")]
    assert len(weights) == 6
    assert "losses.terms.0.logvar" in weights[0]
    for name in weights[0]:
        # The first update copies (torch.optim.swa_utils.AveragedModel); the starting weights never enter.
        expected = weights[0][name].double()
        for updates, after in enumerate(weights[1:], start=1):
            decay = min(DECAY, (1 + updates) / (10 + updates))
            expected = decay * expected + (1 - decay) * after[name].double()
        torch.testing.assert_close(average[name].double(), expected, rtol=1e-5, atol=1e-7)
        assert torch.equal(current[name], weights[-1][name])
        assert not torch.equal(average[name], current[name]), name
    # Lightning's own average would move what is frozen by rounding.
    frozen = {"autoencoder.model.encoder.conv_in.weight", "autoencoder.model.encoder.conv_in.bias"}
    assert all(torch.equal(average[name], current[name]) for name in frozen)
    # Nothing else: the model has no buffers, and the teacher refuses to be copied.
    assert set(average) == set(current) == set(weights[0]) | frozen
    assert not any("teacher" in name for name in checkpoint["averaging_state"])
    assert WatchedTeacher.asked

    judged = read_summary(run)["metrics"]["val/psnr"]
    assert judged == pytest.approx(psnr(average, fundus_phantom), abs=1e-3)
    assert abs(judged - psnr(current, fundus_phantom)) > 0.01


@pytest.mark.parametrize(("device", "expected"), [(None, "meta"), ("cpu", "cpu")])
def test_the_average_is_kept_beside_the_model_unless_told_otherwise(device: str | None, expected: str) -> None:
    """Lightning makes it before the model moves to its device; ``meta`` stands for a GPU."""
    ema, model = EMA(device=device), LightningModule()
    model.layer = torch.nn.Linear(2, 2)
    ema.setup(Trainer(logger=False, accelerator="cpu"), model, "fit")
    model._device = torch.device("meta")
    ema.on_fit_start(Trainer(logger=False, accelerator="cpu"), model)
    assert {parameter.device.type for parameter in ema._average_model.parameters()} == {expected}  # type: ignore[union-attr]

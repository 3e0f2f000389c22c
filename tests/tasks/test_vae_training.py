"""Training an autoencoder: what it minimises, where it starts from, what it leaves, how it resumes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_architectures import SMALL_KL
from stand_ins import read_rows
from torch import nn
from vae_runs import LAST, SUMMARY, fit, settings

from layerscope.artifacts import read_summary
from layerscope.cli import main
from layerscope.data.hashing import weights_hash
from layerscope.data.multilabel import MultilabelImages
from layerscope.data.phantom.write import write_phantom
from layerscope.errors import ConfigurationError
from layerscope.losses import KL, L1, MSE, LatentNoise, NoisyReconstruction
from layerscope.models.autoencoders import DiffusersAutoencoder
from layerscope.tasks.vae import AutoencoderTraining


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantom(tmp_path_factory.mktemp("vae") / "fundus", "fundus", n=40, size=32, seed=5)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in one order: two runs are compared bit by bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_an_autoencoder_learns_and_is_saved_as_diffusers_reads_it(phantom: Path, tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    save = {"class_path": "layerscope.callbacks.final_export.FinalExport"}
    logger = {
        "class_path": "lightning.pytorch.loggers.CSVLogger",
        "init_args": {"save_dir": str(tmp_path), "name": "log", "version": ""},
    }
    steps = {"max_epochs": -1, "max_steps": 60, "log_every_n_steps": 1, "limit_val_batches": 0}
    run = fit(tmp_path, "vae", settings(phantom, **steps, logger=logger, callbacks=[save, SUMMARY]))
    losses = [float(row["train/rec_mean"]) for row in read_rows(tmp_path / "log" / "metrics.csv")]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    assert read_summary(run)["steps"] == 60
    plain: Any = AutoencoderKL.from_pretrained(run / "vae_final").eval()
    ours = DiffusersAutoencoder(source=str(run / "vae_final")).eval()
    data = MultilabelImages(str(phantom), "schema.yaml", "labels.csv", limit=4, batch_size=4, eval_split="train")
    image = next(iter(data.test_dataloader()))["image"]
    with torch.no_grad():
        expected = plain.decode(plain.encode(image).latent_dist.mode()).sample
        torch.testing.assert_close(ours.decode(ours.encode(image).mean), expected, atol=1e-6, rtol=0)
    assert (expected - image).abs().mean() < 0.3


@pytest.fixture
def small() -> DiffusersAutoencoder:
    one_level = {"block_out_channels": [8], "down_block_types": ["DownEncoderBlock2D"]}
    return DiffusersAutoencoder(architecture={**SMALL_KL, **one_level, "up_block_types": ["UpDecoderBlock2D"]}, seed=0)


def one_step(task: AutoencoderTraining) -> tuple[torch.Tensor, dict[str, Any], torch.Tensor]:
    """The loss of two images, what was logged, and the images."""
    logged: dict[str, Any] = {}
    task.log_dict = lambda values, **_: logged.update(values)  # type: ignore[assignment, method-assign]
    task.log = lambda name, value, **_: logged.update({name: value})  # type: ignore[assignment, method-assign]
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    labels = torch.zeros(2, 0)
    batch: Any = {"image": image, "id": ["a", "b"], "target": labels, "known": labels.bool()}
    return task.training_step(batch, 0)["loss"], logged, image


@pytest.mark.parametrize("reconstruction", ["l1", "mse"])
def test_the_loss_follows_its_formula(reconstruction: str, small: DiffusersAutoencoder) -> None:
    task = AutoencoderTraining(small, [L1() if reconstruction == "l1" else MSE(), KL(weight=0.01)])
    seed = task.batch_seed()
    loss, logged, image = one_step(task)
    torch.manual_seed(seed)
    with torch.no_grad():
        posterior: Any = small.model.encode(image).latent_dist  # type: ignore[operator]
        z = posterior.mean + posterior.std * torch.randn_like(posterior.mean)
        recon = small.model.decode(z).sample  # type: ignore[operator]
        rec = F.l1_loss(recon, image) if reconstruction == "l1" else F.mse_loss(recon, image)
        expected = rec + 0.01 * posterior.kl().mean()
    assert loss.detach() == pytest.approx(float(expected), rel=1e-5)
    assert float(logged["train/rec_mean"]) == pytest.approx(float(F.l1_loss(recon, image)), rel=1e-5)
    assert float(logged["train/kl_per_latent_element"]) == pytest.approx(float(posterior.kl().mean()) / z[0].numel())


def test_noisy_latents_are_decoded_beside_the_clean_ones(small: DiffusersAutoencoder) -> None:
    losses: list[nn.Module] = [L1(), NoisyReconstruction(weight=0.5)]
    task = AutoencoderTraining(small, losses, latent_noise=LatentNoise(tau=2.0))
    calls = []
    decode = small.decode
    small.decode = lambda z: calls.append(len(z)) or decode(z)  # type: ignore[assignment, method-assign, func-returns-value]
    loss, logged, _ = one_step(task)
    assert calls == [4]
    rec, noisy = (float(logged[f"train/{name}"]) for name in ("l1", "noisy_reconstruction"))
    assert noisy != rec
    assert float(loss.detach()) == pytest.approx(rec + 0.5 * noisy)
    loss.backward()
    assert all(p.grad is not None for p in small.model.decoder.parameters())  # type: ignore[union-attr]


def test_only_the_chosen_side_trains_and_the_checkpoint_says_which(phantom: Path, tmp_path: Path) -> None:
    config = settings(phantom, max_epochs=2, callbacks=[LAST, SUMMARY])
    config["model"]["init_args"]["train"] = "decoder"
    torch.manual_seed(0)
    DiffusersAutoencoder(architecture=SMALL_KL).save(tmp_path / "start")
    config["model"]["init_args"]["autoencoder"]["init_args"] = {"source": str(tmp_path / "start")}
    checkpoint = torch.load(fit(tmp_path, "run", config) / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["layerscope_autoencoder"]["trained"] == "decoder"
    start = DiffusersAutoencoder(source=str(tmp_path / "start"))
    assert checkpoint["layerscope_autoencoder"]["start_hash"] == weights_hash(start)
    for name, value in start.state_dict().items():
        moved = not torch.equal(value, checkpoint["state_dict"][f"autoencoder.{name}"])
        is_decoder = name.startswith(("model.decoder.", "model.post_quant_conv."))
        # The gradient of the attention's key bias is zero but for rounding.
        assert moved == is_decoder or name.endswith("to_k.bias"), name


def test_noise_without_a_term_that_reads_it_and_the_reverse_are_refused(small: DiffusersAutoencoder) -> None:
    with pytest.raises(ConfigurationError, match="set latent_noise"):
        AutoencoderTraining(small, [NoisyReconstruction()])
    with pytest.raises(ConfigurationError, match="no loss term reads"):
        AutoencoderTraining(small, latent_noise=LatentNoise())


def test_crops_that_cannot_be_cut_are_refused(small: DiffusersAutoencoder) -> None:
    network = DiffusersAutoencoder(architecture=SMALL_KL, seed=0)
    with pytest.raises(ConfigurationError, match="crop_size is 15: expected a multiple of 2"):
        AutoencoderTraining(network, crop_size=15)
    with pytest.raises(ConfigurationError, match="crop_size is 32, but there are images of 16 × 16"):
        one_step(AutoencoderTraining(small, crop_size=32))


def test_gradient_checkpointing_changes_no_gradient() -> None:
    found = []
    for on in (False, True):
        network = DiffusersAutoencoder(architecture=SMALL_KL, seed=0)
        loss, _, _ = one_step(AutoencoderTraining(network, gradient_checkpointing=on))
        loss.backward()
        found.append({name: parameter.grad for name, parameter in network.named_parameters()})
    assert all(torch.equal(gradient, found[1][name]) for name, gradient in found[0].items())
    assert network.model.decoder.gradient_checkpointing  # type: ignore[union-attr]


def test_a_run_stopped_within_an_epoch_goes_on_as_if_it_never_stopped(phantom: Path, tmp_path: Path) -> None:
    # 20 train images in batches of 3: seven steps an epoch; stopped after the fourth step of the second.
    losses = [
        {"class_path": "layerscope.losses.MSE"},
        {"class_path": "layerscope.losses.KL", "init_args": {"warmup_batches": 20}},
        {"class_path": "layerscope.losses.NoisyReconstruction"},
    ]
    every_step = {
        "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
        "init_args": {"every_n_train_steps": 11, "save_top_k": -1, "filename": "{step}"},
    }
    ema = {"class_path": "layerscope.callbacks.averaging.EMA", "init_args": {"decay": 0.9}}
    config = settings(phantom, losses, max_epochs=3, callbacks=[ema, every_step, LAST, SUMMARY])
    network = {"class_path": "layerscope.losses.PatchDiscriminator", "init_args": {"base_channels": 4, "n_layers": 1}}
    adversarial = {"adaptive_to": "mse", "start_batches": 5, "discriminator": network}
    config["model"]["init_args"] |= {"latent_noise": {"tau": 0.5}, "crop_size": 16, "adversarial": adversarial}
    config["data"]["init_args"] |= {"limit": 20, "batch_size": 3}
    whole = fit(tmp_path, "whole", config)
    middle = whole / "checkpoints" / "step=11.ckpt"
    assert middle.exists()
    resumed = fit(tmp_path, "resumed", config, f"--ckpt_path={middle}")
    states = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (whole, resumed)]
    assert states[0]["global_step"] == states[1]["global_step"]
    assert states[0]["layerscope_batches"] == states[1]["layerscope_batches"]
    for part in ("state_dict", "current_model_state"):
        assert states[0][part].keys() == states[1][part].keys()
        for name, value in states[0][part].items():
            assert torch.equal(value, states[1][part][name]), (part, name)
    judges = [state["layerscope_adversary"]["discriminator"] for state in states]
    assert all(torch.equal(value, judges[1][name]) for name, value in judges[0].items())
    metrics = [read_summary(run)["metrics"] for run in (whole, resumed)]
    assert metrics[0]["val/psnr"] == metrics[1]["val/psnr"]


def test_an_unfinished_training_is_not_begun_anew_by_accident(
    phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = settings(phantom, max_epochs=1, callbacks=[LAST])  # no summary: as a training that was stopped
    run = fit(tmp_path, "run", config)
    kept = (run / "checkpoints" / "last.ckpt").read_bytes()
    again = ["fit", "--config", str(tmp_path / "run.yaml"), f"--output_root={tmp_path}", "--experiment_name=run"]
    assert main(again) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "holds an unfinished training with checkpoints (last.ckpt)" in message
    assert (run / "checkpoints" / "last.ckpt").read_bytes() == kept
    assert main([*again, "--ckpt_path=last"]) == 0
    assert main([*again, "--overwrite"]) == 0


def test_a_configuration_for_another_verb_is_told_apart(
    phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(tmp_path, "run", settings(phantom, max_epochs=1))
    assert main(["test", "--config", str(tmp_path / "run.yaml"), f"--output_root={tmp_path}"]) == 2
    assert "for test in vae/diagnostic" in " ".join(capsys.readouterr().err.split())


def test_a_checkpoint_is_exported_as_it_reconstructs(phantom: Path, tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    run = fit(tmp_path, "run", settings(phantom, max_epochs=2, callbacks=[LAST, SUMMARY]))
    checkpoint = run / "checkpoints" / "last.ckpt"
    assert main(["export", str(checkpoint), str(tmp_path / "vae")]) == 0
    exported: Any = AutoencoderKL.from_pretrained(tmp_path / "vae").eval()
    trained = DiffusersAutoencoder(architecture=SMALL_KL).eval()
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    trained.load_state_dict({key.removeprefix("autoencoder."): value for key, value in state.items()})
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        expected = trained.decode(trained.encode(image).mean)
        torch.testing.assert_close(exported.decode(exported.encode(image).latent_dist.mode()).sample, expected)

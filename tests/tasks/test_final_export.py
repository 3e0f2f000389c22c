"""The folder a training leaves: its weights, factors measured anew; and that the training is not touched by it."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import yaml
from diffusers import AutoencoderKL
from lightning.pytorch import Callback
from PIL import Image
from small_architectures import SMALL_KL
from stand_ins import read_rows
from test_freezing import TINY, VQ
from test_vae_training import LAST, SUMMARY, fit, settings
from torch import Tensor, nn

from layerscope.callbacks.detached_copy import detached_copy
from layerscope.cli import main
from layerscope.data.hashing import weights_hash
from layerscope.data.multilabel import MultilabelImages
from layerscope.models.autoencoders import DiffusersAutoencoder

EXPORT = {"class_path": "layerscope.callbacks.final_export.FinalExport", "init_args": {"images": 5}}
MODEL = "autoencoder.model."
pytestmark = pytest.mark.filterwarnings("ignore:.*vae_final will lack:UserWarning")


def ema(**arguments: Any) -> dict[str, Any]:
    return {"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging", "init_args": {"decay": 0.8, **arguments}}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start") / "vae"
    DiffusersAutoencoder(architecture={**SMALL_KL, "scaling_factor": 0.5}, seed=0).save(folder)
    return folder


def training(root: Path, start: Path, *callbacks: Any, train: str = "all", **trainer: Any) -> dict[str, Any]:
    """Two epochs of three batches from the stored VAE ``start``."""
    config = settings(root, callbacks=[*callbacks, SUMMARY], **{"max_epochs": 2, **trainer})
    config["model"]["init_args"] |= {"train": train, "crop_size": 16}
    config["model"]["init_args"]["autoencoder"]["init_args"] = {"source": str(start)}
    config["data"]["init_args"] |= {"limit": 8, "batch_size": 3, "eval_split": "test"}
    return config


def export_of(run: Path, name: str = "vae_final") -> dict[str, Any]:
    return json.loads((run / name / "export.json").read_text())


def last(run: Path) -> dict[str, Any]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def model_of(state: dict[str, Tensor], folder: Path) -> AutoencoderKL:
    """diffusers' model of ``folder`` with the weights of a checkpoint."""
    model = AutoencoderKL.from_config(AutoencoderKL.load_config(folder)).eval()
    model.load_state_dict({name[len(MODEL) :]: value for name, value in state.items() if name.startswith(MODEL)})
    return model


def measured_images(root: Path, count: int) -> Tensor:
    """The first of the eight training images by the hash of their ids, read by Pillow."""
    names = MultilabelImages(str(root), "schema.yaml", "labels.csv", limit=8).dataset("train").ids
    names = sorted(names, key=lambda name: hashlib.blake2b(name.encode(), digest_size=8).digest())[:count]
    paths = {row["id"]: row["path"] for row in read_rows(root / "labels.csv")}
    pixels = np.stack([np.asarray(Image.open(root / paths[name]).convert("RGB")) for name in names])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def moments(model: AutoencoderKL, images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel of latents drawn from the posterior, in float64."""
    posterior: Any = model.encode(images).latent_dist
    mean, variance = posterior.mean.double(), posterior.var.double()
    return mean.mean((0, 2, 3)), (mean.var((0, 2, 3), correction=0) + variance.mean((0, 2, 3))).sqrt()


@torch.no_grad()
def test_averaged_weights_with_factors_and_drift_of_their_own(
    fundus_phantom: Path, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = fit(tmp_path, "run", training(fundus_phantom, start, ema(), EXPORT, LAST))
    exported = AutoencoderKL.from_pretrained(run / "vae_final").eval()
    images = measured_images(fundus_phantom, 5)
    averaged, current = (model_of(last(run)[part], start) for part in ("state_dict", "current_model_state"))
    torch.testing.assert_close(exported(images).sample, averaged(images).sample, atol=1e-5, rtol=0)
    assert (exported(images).sample - current(images).sample).abs().max() > 1e-3

    (mean, std), (old_mean, old_std) = (moments(model, images) for model in (averaged, model_of_folder(start)))
    overall = torch.cat([std.square() + mean.square()]).mean().sub(mean.mean() ** 2).sqrt()
    config: Any = exported.config
    assert config.scaling_factor == pytest.approx(1 / float(overall), rel=1e-4)
    assert config.shift_factor == pytest.approx(float(mean.mean()), abs=1e-5)
    np.testing.assert_allclose(config.latents_mean, mean, atol=1e-5)
    np.testing.assert_allclose(config.latents_std, std / overall, rtol=1e-4)
    export = export_of(run)
    np.testing.assert_allclose(export["drift"]["mean_shift"], (mean - old_mean) / old_std, atol=1e-4)
    np.testing.assert_allclose(export["drift"]["std_ratio"], std / old_std, rtol=1e-4)
    assert min(map(abs, export["drift"]["mean_shift"])) > 1e-3

    assert (export["weights"], export["trained"], export["not_measured"]) == ("averaged", "all", [])
    assert export["audit"]["half_precision"]["verdict"] == "safe"
    data = MultilabelImages(str(fundus_phantom), "schema.yaml", "labels.csv", limit=8)
    record = last(run)["layerscope_autoencoder"]
    assert export["data_hash"] == record["data_hash"] == data.data_hash("train")
    assert export["start_hash"] == weights_hash(DiffusersAutoencoder(source=str(start)))
    assert export["metrics"]["val/psnr"] > 0
    assert "Weights: averaged; trained: all." in capsys.readouterr().out


def model_of_folder(folder: Path) -> AutoencoderKL:
    return AutoencoderKL.from_pretrained(folder).eval()


@torch.no_grad()
def test_a_decoder_in_another_layout_and_precision_keeps_the_factors(
    fundus_phantom: Path, start: Path, tmp_path: Path
) -> None:
    config = training(fundus_phantom, start, EXPORT, LAST, train="decoder", precision="bf16-mixed")
    config["model"]["init_args"]["channels_last"] = True
    run = fit(tmp_path, "run", config)
    exported = model_of_folder(run / "vae_final")
    images = measured_images(fundus_phantom, 5)
    assert {parameter.dtype for parameter in exported.parameters()} == {torch.float32}
    expected = model_of(last(run)["state_dict"], start)
    torch.testing.assert_close(exported(images).sample, expected(images).sample, atol=1e-5, rtol=0)
    assert exported.config["scaling_factor"] == 0.5
    assert exported.config["latents_std"] is None
    export = export_of(run)
    assert (export["weights"], export["scaling"]["re_estimated"]) == ("current", False)
    # Measured in float32, not in the training's bfloat16.
    np.testing.assert_allclose(export["statistics"]["std"], moments(exported, images)[1], rtol=1e-5)
    assert set(export["drift"]["mean_shift"]) == {0.0}


class FirstValidation(Callback):
    """Keeps what validation saw before the first step."""

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
        if trainer.sanity_checking:
            FirstValidation.seen = outputs


def test_a_fine_tune_starts_from_the_stored_reconstruction_and_without_steps_nothing_drifts(
    fundus_phantom: Path, start: Path, tmp_path: Path
) -> None:
    first = {"class_path": "test_final_export.FirstValidation"}
    config = training(fundus_phantom, start, first, EXPORT, LAST, max_epochs=1, num_sanity_val_steps=1)
    config["model"]["init_args"]["optimizer"]["init_args"] = {"lr": 0.0}
    run = fit(tmp_path, "run", config, "--allow-import=test_final_export")
    seen: Any = FirstValidation.seen
    with torch.no_grad():
        plain: Any = model_of_folder(start)
        mode = plain.encode(seen.image).latent_dist.mode()
        assert torch.equal(seen.recon, plain.decode(mode).sample.clamp(-1, 1))
    export = export_of(run)
    assert set(export["drift"]["mean_shift"]) == {0.0}
    assert set(export["drift"]["std_ratio"]) == {1.0}
    assert export["drift"]["scaling_factor_before"] == export["scaling"]["exported"]["scaling_factor"]


class Draws(Callback):
    """What would be drawn next when the first step is due, after the callbacks before this one."""

    def on_train_start(self, *_: Any) -> None:
        legacy: Any = np.random.get_state()  # noqa: NPY002
        Draws.seen.append([hash(str(state)) for state in (random.getstate(), legacy, torch.get_rng_state().tolist())])

    seen: list[Any] = []  # noqa: RUF012


def test_training_is_the_same_bit_by_bit_and_its_start_is_known_when_it_goes_on(
    fundus_phantom: Path, start: Path, tmp_path: Path
) -> None:
    draws, allowed = {"class_path": "test_final_export.Draws"}, "--allow-import=test_final_export"
    Draws.seen.clear()
    plain = fit(tmp_path, "plain", training(fundus_phantom, start, draws, LAST), allowed)
    measured = fit(tmp_path, "measured", training(fundus_phantom, start, EXPORT, draws, LAST), allowed)
    assert Draws.seen[0] == Draws.seen[1]
    for name, value in last(plain)["state_dict"].items():
        assert torch.equal(value, last(measured)["state_dict"][name]), name

    before = export_of(measured)["drift"]["scaling_factor_before"]
    more = training(fundus_phantom, start, EXPORT, max_epochs=3)
    resumed = fit(tmp_path, "resumed", more, f"--ckpt_path={measured / 'checkpoints' / 'last.ckpt'}")
    assert export_of(resumed)["drift"]["scaling_factor_before"] == before
    unknown = fit(tmp_path, "unknown", more, f"--ckpt_path={plain / 'checkpoints' / 'last.ckpt'}")
    assert export_of(unknown)["drift"] is None
    assert "went on from an earlier one" in export_of(unknown)["not_measured"][0]["reason"]
    assert export_of(unknown)["scaling"] == export_of(resumed)["scaling"]


def test_an_average_that_never_began_does_not_replace_the_weights(
    fundus_phantom: Path, start: Path, tmp_path: Path
) -> None:
    config = training(fundus_phantom, start, ema(update_starting_at_step=1000), EXPORT, LAST, max_epochs=1)
    run = fit(tmp_path, "run", config)
    exported = model_of_folder(run / "vae_final").state_dict()
    for name, value in model_of(last(run)["current_model_state"], start).state_dict().items():
        assert torch.equal(value, exported[name]), name
    assert export_of(run)["weights"] == "current"
    assert export_of(run)["drift"]["std_ratio"] != [1.0] * 4


def test_what_cannot_be_measured_costs_no_weights(
    start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "images"
    for split, number, side in (("train", 0, 32), ("train", 1, 16), ("val", 2, 16)):
        (root / split).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (side, side), (80 * number, 90, 40)).save(root / split / f"{number}.png")
    config = training(root, start, EXPORT, LAST, max_epochs=1)
    config["data"] = {
        "class_path": "layerscope.data.folder.ImageFolder",
        "init_args": {"root": str(root), "batch_size": 1},
    }
    run = fit(tmp_path, "run", config)
    exported = model_of_folder(run / "vae_final").state_dict()
    for name, value in model_of(last(run)["state_dict"], start).state_dict().items():
        assert torch.equal(value, exported[name]), name
    reasons = {row["what"]: row["reason"] for row in export_of(run)["not_measured"]}
    assert {"activations", "drift against the starting autoencoder", "latent statistics"} < set(reasons)
    assert "statistics of latents need images of one size" in reasons["latent statistics"]
    assert "no longer fit, but measuring failed with DataError" in capsys.readouterr().out


class Stop(Callback):
    """Ctrl-C after the first batch."""

    def on_train_batch_end(self, *_: Any) -> None:
        raise KeyboardInterrupt


def test_an_interrupted_training_leaves_none_and_a_finished_one_replaces_only_exports(
    fundus_phantom: Path, start: Path, tmp_path: Path
) -> None:
    stopped = training(fundus_phantom, start, EXPORT, LAST, {"class_path": "test_final_export.Stop"})
    (tmp_path / "stopped.yaml").write_text(yaml.safe_dump(stopped))
    place = [f"--output_root={tmp_path}", "--experiment_name=run", "--allow-import=test_final_export"]
    assert main(["fit", "--config", str(tmp_path / "stopped.yaml"), *place]) == 130
    run = tmp_path / "run"
    assert not (run / "vae_final").exists()
    run.mkdir(exist_ok=True)
    (run / "UNFINISHED").touch()
    shutil.copytree(start, run / "vae_final")
    fit(tmp_path, "run", training(fundus_phantom, start, EXPORT, max_epochs=1))
    assert export_of(run)["trained"] == "all"

    (run / "vae_final" / "notes.txt").write_text("mine")
    fit(tmp_path, "run", training(fundus_phantom, start, EXPORT, max_epochs=1), "--overwrite")
    assert (run / "vae_final" / "notes.txt").exists()
    assert export_of(run, "vae_final_2")["trained"] == "all"


def test_an_autoencoder_that_cannot_write_itself_is_said_to_be_left_out(
    fundus_phantom: Path, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = training(fundus_phantom, start, EXPORT, max_epochs=1)
    config["model"]["init_args"]["autoencoder"] = {"class_path": "small_autoencoder.SmallAutoencoder"}
    run = fit(tmp_path, "run", config, "--allow-import=small_autoencoder")
    assert not (run / "vae_final").exists()
    assert "No vae_final was written: SmallAutoencoder has no config" in capsys.readouterr().out


@pytest.mark.parametrize("architecture", [VQ, TINY], ids=["vq", "tiny"])
def test_other_families_are_exported_as_diffusers_reads_them(
    architecture: dict[str, Any], fundus_phantom: Path, start: Path, tmp_path: Path
) -> None:
    config = training(fundus_phantom, start, EXPORT, LAST, max_epochs=1)
    config["model"]["init_args"]["losses"] = [{"class_path": "layerscope.losses.L1"}]
    config["model"]["init_args"]["autoencoder"]["init_args"] = {"architecture": architecture}
    run = fit(tmp_path, "run", config)
    plain = getattr(diffusers, architecture["_class_name"]).from_pretrained(run / "vae_final")
    for name, value in plain.state_dict().items():
        assert torch.equal(value, last(run)["state_dict"][MODEL + name]), name
    export = export_of(run)
    assert export["start_hash"] is None  # random weights
    assert export["not_measured"] == []
    assert plain.config["scaling_factor"] == export["scaling"]["exported"]["scaling_factor"] != 1


@pytest.mark.parametrize("in_place", [True, False])
def test_a_copy_knows_nothing_of_compilation(in_place: bool) -> None:
    autoencoder = DiffusersAutoencoder(architecture=SMALL_KL, seed=0).to(memory_format=torch.channels_last).double()
    names, image = list(autoencoder.state_dict()), torch.zeros(1, 3, 16, 16)
    model: Any = autoencoder.model
    if in_place:
        model.decoder.compile(backend="eager")
    else:
        model.decoder = torch.compile(model.decoder, backend="eager")
    autoencoder.decode(autoencoder.encode(image).mean)
    copied: Any = detached_copy(autoencoder)
    assert list(copied.state_dict()) == names
    assert {value.dtype for value in copied.state_dict().values()} == {torch.float32}
    called: list[nn.Module] = []
    copied.model.decoder.conv_in.register_forward_hook(lambda module, *_: called.append(module))
    copied.decode(copied.encode(image).mean)
    assert called
    assert autoencoder.training
    assert not copied.training


@pytest.mark.slow
def test_two_processes_end_together_with_one_export(fundus_phantom: Path, start: Path, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    two = {"devices": 2, "strategy": "ddp", "max_epochs": 1}
    path.write_text(yaml.safe_dump(training(fundus_phantom, start, ema(), EXPORT, LAST, **two)))
    environment = {key: value for key, value in os.environ.items() if key not in ("MASTER_PORT", "LOCAL_RANK", "RANK")}
    done = subprocess.run(
        [sys.executable, "-m", "layerscope", "fit", f"--config={path}", "--experiment_name=two"],
        cwd=tmp_path,
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Weights: averaged") == 1
    run = tmp_path / "outputs" / "two"
    exported = model_of_folder(run / "vae_final").state_dict()
    for name, value in model_of(last(run)["state_dict"], start).state_dict().items():
        assert torch.equal(value, exported[name]), name
    assert export_of(run)["not_measured"] == []

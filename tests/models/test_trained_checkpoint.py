"""Which weights a checkpoint of VAE training holds, as Lightning's own averaging callback writes them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from small_architectures import SMALL_KL
from torch import Tensor
from trained_checkpoints import train

from layerscope.errors import ConfigurationError, WeightsError
from layerscope.models.autoencoders import DiffusersAutoencoder
from layerscope.models.trained_checkpoint import RECORD, read_trained_autoencoder

ARCHITECTURE = SMALL_KL | {"block_out_channels": [4, 8], "norm_num_groups": 2, "latent_channels": 3}


def equal(autoencoder: DiffusersAutoencoder, state: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, state[f"autoencoder.{key}"]) for key, value in autoencoder.state_dict().items())


@pytest.fixture
def autoencoder() -> DiffusersAutoencoder:
    return DiffusersAutoencoder(architecture=ARCHITECTURE, seed=3)


@pytest.fixture
def record(autoencoder: DiffusersAutoencoder) -> dict[str, Any]:
    return {"config": {**autoencoder.config, "_class_name": "AutoencoderKL"}, "trained": "all"}


def test_averaged_and_current_weights(autoencoder, record, tmp_path: Path) -> None:
    """The average is computed here by hand: avg = decay · avg + (1 − decay) · weights; the first update copies."""
    decay, average = 0.5, {}
    keep_all: list[dict[str, Tensor]] = []

    class Averaging(EMAWeightAveraging):
        def on_train_batch_end(self, trainer, pl_module, *rest):
            keep_all.append({key: value.clone() for key, value in pl_module.state_dict().items()})
            super().on_train_batch_end(trainer, pl_module, *rest)

    current = train(tmp_path, autoencoder, record, Averaging(decay=decay)).weights
    for state in keep_all:
        average = {key: decay * average.get(key, value) + (1 - decay) * value for key, value in state.items()}
    read = {averaged: read_trained_autoencoder(tmp_path / "last.ckpt", averaged) for averaged in (True, False, None)}
    assert {averaged: one.weights for averaged, one in read.items()} == {
        True: "averaged",
        False: "current",
        None: "averaged",
    }
    assert equal(read[False].autoencoder, current)
    assert not equal(read[True].autoencoder, current)
    for key, value in read[True].autoencoder.state_dict().items():
        torch.testing.assert_close(value, average[f"autoencoder.{key}"], atol=1e-6, rtol=1e-5)
    assert equal(
        read[None].autoencoder, {f"autoencoder.{k}": v for k, v in read[True].autoencoder.state_dict().items()}
    )
    assert not read[None].autoencoder.training


def test_an_average_that_was_never_updated_is_none(autoencoder, record, tmp_path: Path) -> None:
    start = {f"autoencoder.{key}": value.clone() for key, value in autoencoder.state_dict().items()}
    current = train(tmp_path, autoencoder, record, EMAWeightAveraging(update_starting_at_step=100)).weights
    stored = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert all(torch.equal(stored["state_dict"][key], value) for key, value in start.items())
    read = read_trained_autoencoder(tmp_path / "last.ckpt")
    assert read.weights == "current"
    assert equal(read.autoencoder, current)
    with pytest.raises(ConfigurationError, match="its average was not updated yet"):
        read_trained_autoencoder(tmp_path / "last.ckpt", averaged=True)


class TestWithoutAveraging:
    @pytest.fixture
    def checkpoint(self, autoencoder, record, tmp_path: Path) -> Path:
        self.current = train(tmp_path, autoencoder, record).weights
        return tmp_path / "last.ckpt"

    def changed(self, checkpoint: Path, change: Any) -> Path:
        content = torch.load(checkpoint, weights_only=True)
        change(content)
        path = checkpoint.with_name("changed.ckpt")
        torch.save(content, path)
        return path

    def test_current_weights_and_a_record_with_gaps(self, checkpoint: Path) -> None:
        for averaged in (None, False):
            read = read_trained_autoencoder(checkpoint, averaged)
            assert read.weights == "current"
            assert equal(read.autoencoder, self.current)
        assert read.record["start_hash"] is read.record["data_hash"] is read.record["command"] is None
        assert read.record["losses"] == read.record["metrics"] == {}
        with pytest.raises(ConfigurationError, match=r"--ema.*without weight averaging"):
            read_trained_autoencoder(checkpoint, averaged=True)

    def test_reading_leaves_torchs_generator(self, checkpoint: Path) -> None:
        before = torch.random.get_rng_state()
        read_trained_autoencoder(checkpoint)
        assert torch.equal(before, torch.random.get_rng_state())

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda c: c["state_dict"].pop("autoencoder.model.quant_conv.bias"), r"Missing: quant_conv\.bias"),
            (lambda c: c["state_dict"].update({"autoencoder.model.x": torch.zeros(1)}), "Unexpected: x"),
            (
                lambda c: c["state_dict"].update({"autoencoder.model.quant_conv.bias": torch.zeros(2)}),
                r"quant_conv\.bias \(2,\) instead of \(6,\)",
            ),
            (lambda c: c.pop(RECORD), f"does not say which architecture.*{RECORD}"),
            (lambda c: c.update({RECORD: "x"}), "does not say which architecture"),
            (lambda c: c[RECORD].update(config={"_class_name": "UNet2DModel"}), "cannot be built.*UNet2DModel"),
            (lambda c: c[RECORD].update(trained="quant_conv"), "'quant_conv' was trained"),
            (
                lambda c: c.update(state_dict={"teacher.model.fc.bias": torch.zeros(3)}),
                r"no weight.*teacher\.model\.fc",
            ),
            (lambda c: c.pop("state_dict"), "no Lightning checkpoint: looked for state_dict"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, checkpoint: Path, change: Any, said: str) -> None:
        path = self.changed(checkpoint, change)
        with pytest.raises(WeightsError, match=said) as caught:
            read_trained_autoencoder(path)
        assert str(path) in str(caught.value)

    def test_other_files_are_refused(self, checkpoint: Path, autoencoder, tmp_path: Path) -> None:
        autoencoder.save(tmp_path / "vae")
        text = tmp_path / "text.ckpt"
        text.write_text("not a checkpoint, but longer than a header")
        torch.save([1, 2], tmp_path / "list.ckpt")
        for path, said in (
            (tmp_path / "none.ckpt", "does not exist"),
            (tmp_path / "vae", "is a directory.*exported already"),
            (tmp_path / "vae" / "diffusion_pytorch_model.safetensors", "is a safetensors file"),
            (text, "text.ckpt"),
            (tmp_path / "list.ckpt", "found list"),
        ):
            with pytest.raises(WeightsError, match=said):
                read_trained_autoencoder(path)

    def test_nothing_in_the_file_is_executed(self, checkpoint: Path, tmp_path: Path) -> None:
        path = self.changed(checkpoint, lambda content: content.update(callback=Trap(str(tmp_path / "fired"))))
        with pytest.raises(WeightsError, match="pickles Python objects"):
            read_trained_autoencoder(path)
        assert not (tmp_path / "fired").exists()


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (self.path, "w")


def test_the_start_stays_what_it_was(autoencoder, record, tmp_path: Path) -> None:
    """A guard on the checkpoints of these tests: training did change the weights."""
    before = copy.deepcopy(autoencoder.state_dict())
    current = train(tmp_path, autoencoder, record).weights
    assert not any(torch.equal(value, current[f"autoencoder.{key}"]) for key, value in before.items() if "conv" in key)

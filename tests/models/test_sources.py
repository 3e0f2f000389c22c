"""Diffusers folders and hub ids are loaded whole or not at all."""

from __future__ import annotations

import json
import shutil

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file

from layerscope.errors import ConfigurationError, WeightsError
from layerscope.models.autoencoders import DiffusersAutoencoder

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(kl, tmp_path):
    """A copy of a saved AutoencoderKL that a test may damage."""
    return shutil.copytree(kl.folder, tmp_path / "vae")


def edit(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def test_missing_weight(folder):
    edit(folder, lambda tensors: tensors.pop("decoder.conv_in.weight"))
    with pytest.raises(WeightsError, match=r"Missing: decoder.conv_in.weight\."):
        DiffusersAutoencoder(source=str(folder))


def test_unexpected_weight(folder):
    edit(folder, lambda tensors: tensors.update(stranger=torch.zeros(1)))
    with pytest.raises(WeightsError, match=r"Unexpected: stranger\."):
        DiffusersAutoencoder(source=str(folder))


def test_weight_of_another_shape(folder):
    edit(folder, lambda tensors: tensors.update({"quant_conv.bias": torch.zeros(3)}))
    with pytest.raises(WeightsError, match=r"Of another shape: quant_conv\.bias \(3,\) instead of \(8,\)"):
        DiffusersAutoencoder(source=str(folder))


def test_truncated_weights(folder):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightsError, match="cannot be loaded"):
        DiffusersAutoencoder(source=str(folder))


def test_no_weights(folder):
    (folder / WEIGHTS).unlink()
    with pytest.raises(WeightsError, match="cannot be loaded"):
        DiffusersAutoencoder(source=str(folder))


def test_other_class(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"_class_name": "AutoencoderKLWan"}))
    with pytest.raises(ConfigurationError, match=r"AutoencoderKLWan.*class_path"):
        DiffusersAutoencoder(source=str(folder))


@pytest.mark.parametrize("content", ["{", "[]", ""])
def test_config_that_is_none(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises((WeightsError, ConfigurationError), match=r"config\.json"):
        DiffusersAutoencoder(source=str(folder))


def test_half_precision_files_are_computed_in_float32(folder, kl):
    edit(folder, lambda tensors: tensors.update({key: value.half() for key, value in tensors.items()}))
    adapter = DiffusersAutoencoder(source=str(folder))
    assert {p.dtype for p in adapter.parameters()} == {torch.float32}
    name = "decoder.conv_in.weight"
    assert torch.equal(adapter.model.state_dict()[name], kl.model.state_dict()[name].half().float())


@torch.no_grad()
def test_attention_in_the_old_naming(folder, kl):
    """Stable Diffusion 1.5's own repository still has it."""

    def rename(tensors):
        for key in [key for key in tensors if ".attentions." in key]:
            old = key.replace("to_q", "query").replace("to_k", "key").replace("to_v", "value")
            tensors[old.replace("to_out.0", "proj_attn")] = tensors.pop(key)

    edit(folder, rename)
    assert any(".query." in key for key in load_file(folder / WEIGHTS))
    image = torch.rand(1, 3, 16, 16)
    adapter = DiffusersAutoencoder(source=str(folder)).eval()
    torch.testing.assert_close(adapter.encode(image).mean, kl.model.encode(image).latent_dist.mean, atol=1e-6, rtol=0)


def test_pipeline_needs_its_subfolder(folder, tmp_path):
    with pytest.raises(ConfigurationError, match="set subfolder to vae"):
        DiffusersAutoencoder(source=str(tmp_path))
    assert DiffusersAutoencoder(source=str(tmp_path), subfolder="vae").downsampling == 2


def test_folder_without_config(tmp_path):
    with pytest.raises(ConfigurationError, match=r"no config.json in .*original_config"):
        DiffusersAutoencoder(source=str(tmp_path))


def test_path_that_does_not_exist(tmp_path, monkeypatch):
    (tmp_path / "checkpoints").mkdir()
    monkeypatch.chdir(tmp_path)
    for source in (str(tmp_path / "none"), "./none", "checkpoints/sdxl-vae", "vae.safetensors"):
        with pytest.raises(ConfigurationError, match=r"does not exist .*checkpoints/README.md"):
            DiffusersAutoencoder(source=source)


def test_hub_id_without_network(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match=r"somebody/some-vae is no folder.*hf download.*checkpoints/NAME"):
        DiffusersAutoencoder(source="somebody/some-vae")

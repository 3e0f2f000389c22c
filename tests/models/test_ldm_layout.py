"""An AutoencoderKL written in the original layout: as the original code names it, and read back bit by bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, VQModel
from original_layout import LEVELS, as_original, tiny_original
from safetensors.torch import load_file

from layerscope.errors import ConfigurationError
from layerscope.models.autoencoders import DiffusersAutoencoder
from layerscope.models.ldm_layout import ldm_tensors, write_ldm

BLOCKS = {"down_block_types": ["DownEncoderBlock2D"] * LEVELS, "up_block_types": ["UpDecoderBlock2D"] * LEVELS}


def test_tensors_are_those_of_the_original_layout() -> None:
    model = tiny_original()
    ours, theirs = ldm_tensors(model), as_original(model)
    assert set(ours) == set(theirs)
    for key, value in theirs.items():
        assert torch.equal(ours[key], value), key


@pytest.mark.parametrize(
    "arguments",
    [
        {"scaling_factor": 0.13025, "sample_size": 64},
        {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False, "shift_factor": 0.1159},
        {"mid_block_add_attention": False, "layers_per_block": 2, "in_channels": 1, "out_channels": 1},
    ],
)
def test_round_trip_through_the_loader_is_exact(arguments: dict, tmp_path: Path) -> None:
    torch.manual_seed(8)
    model = AutoencoderKL(**BLOCKS, block_out_channels=[32, 96, 64], **arguments)
    config = write_ldm(model, tmp_path / "folder" / "vae.safetensors")
    assert {path.name for path in config.parent.iterdir()} == {"vae.safetensors", "vae.yaml"}
    again = DiffusersAutoencoder(source=str(tmp_path / "folder" / "vae.safetensors"), original_config=str(config))
    state = again.model.state_dict()
    assert set(state) == set(model.state_dict())
    for key, value in model.state_dict().items():
        assert torch.equal(state[key], value), key
    ours, theirs = dict(model.config), dict(again.config)
    for name in set(ours) - {"_use_default_values", "_class_name", "_diffusers_version"}:
        left, right = ours[name], theirs[name]
        assert (list(left) if isinstance(left, (list, tuple)) else left) == (
            list(right) if isinstance(right, (list, tuple)) else right
        ), name


@torch.no_grad()
def test_diffusers_own_reader_takes_it(tmp_path: Path) -> None:
    model = tiny_original()
    config = write_ldm(model, tmp_path / "vae.safetensors")
    whole = {f"first_stage_model.{key}": value for key, value in load_file(tmp_path / "vae.safetensors").items()}
    from safetensors.torch import save_file

    save_file(whole, tmp_path / "whole.safetensors")
    again = DiffusersAutoencoder(source=str(tmp_path / "whole.safetensors"), original_config=str(config)).eval()
    theirs = AutoencoderKL.from_single_file(str(tmp_path / "vae.safetensors"), original_config=_wrapped(config))
    image = torch.rand(1, 3, 16, 16) * 2 - 1
    torch.testing.assert_close(theirs.eval()(image).sample, model(image).sample, atol=1e-6, rtol=0)
    torch.testing.assert_close(again.decode(again.encode(image).mean), model(image).sample, atol=1e-6, rtol=0)


def _wrapped(config: Path) -> str:
    """The autoencoder's YAML inside that of a diffusion model, which is all that diffusers reads."""
    import yaml

    content = yaml.safe_load(config.read_text())["model"]
    outer = {"model": {"params": {"first_stage_config": content, "scale_factor": content["params"]["scale_factor"]}}}
    path = config.with_name("outer.yaml")
    path.write_text(yaml.safe_dump(outer))
    return str(path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"norm_num_groups": 16}, "norm_num_groups is 16 instead of 32"),
        ({"act_fn": "gelu"}, "act_fn is gelu"),
        ({"use_quant_conv": False}, "only one of quant_conv and post_quant_conv"),
        ({"down_block_types": ["DownEncoderBlock2D"] * 2 + ["AttnDownEncoderBlock2D"]}, "AttnDownEncoderBlock2D"),
    ],
)
def test_what_the_original_code_would_compute_otherwise_is_refused(arguments: dict, said: str, tmp_path: Path) -> None:
    model = AutoencoderKL(**BLOCKS | {"block_out_channels": [32, 32, 32]} | arguments)
    with pytest.raises(ConfigurationError, match=said):
        write_ldm(model, tmp_path / "vae.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_other_classes_and_suffixes_are_refused(tmp_path: Path) -> None:
    vq = VQModel(**BLOCKS, block_out_channels=[32, 32, 32], num_vq_embeddings=8)
    with pytest.raises(ConfigurationError, match="this is VQModel"):
        write_ldm(vq, tmp_path / "vq.safetensors")
    with pytest.raises(ConfigurationError, match=r"written as \.safetensors"):
        write_ldm(tiny_original(), tmp_path / "vae.ckpt")
    assert list(tmp_path.iterdir()) == []

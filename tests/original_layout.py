"""A tiny Stable Diffusion autoencoder as the original latent-diffusion code writes it: YAML and checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import Tensor

LEVELS = 3


def inference_yaml(
    path: Path, ddconfig: dict[str, Any] | None = None, model: dict[str, Any] | None = None, **stage: Any
) -> str:
    """A YAML in the shape of Stable Diffusion's v1-inference.yaml, for a tiny autoencoder."""
    params: dict[str, Any] = {
        "embed_dim": 4,
        "monitor": "val/rec_loss",
        "ddconfig": {
            "double_z": True,
            "z_channels": 4,
            "resolution": 64,
            "in_channels": 3,
            "out_ch": 3,
            "ch": 32,
            "ch_mult": [1, 2, 2],
            "num_res_blocks": 1,
            "attn_resolutions": [],
            "dropout": 0.0,
        }
        | (ddconfig or {}),
        "lossconfig": {"target": "torch.nn.Identity"},
    } | stage
    content = {
        "model": {
            "target": "ldm.models.diffusion.ddpm.LatentDiffusion",
            "params": {
                "scale_factor": 0.18215,
                "first_stage_config": {
                    "target": "ldm.models.autoencoder.AutoencoderKL",
                    "params": {key: value for key, value in params.items() if value is not None},
                },
            }
            | (model or {}),
        }
    }
    path.write_text(yaml.safe_dump(content))
    return str(path)


def as_original(model: torch.nn.Module) -> dict[str, Tensor]:
    """The weights under the names and shapes that the original code gives them, module by module."""
    tensors: dict[str, Tensor] = {}

    def put(theirs: str, ours: str) -> None:
        for key, value in model.state_dict().items():
            if key.startswith(f"{ours}."):
                tensors[f"{theirs}.{key[len(ours) + 1 :]}"] = value.clone()

    def put_resnet(theirs: str, ours: str) -> None:
        for part in ("norm1", "conv1", "norm2", "conv2"):
            put(f"{theirs}.{part}", f"{ours}.{part}")
        put(f"{theirs}.nin_shortcut", f"{ours}.conv_shortcut")

    for side in ("encoder", "decoder"):
        put(f"{side}.conv_in", f"{side}.conv_in")
        put(f"{side}.conv_out", f"{side}.conv_out")
        put(f"{side}.norm_out", f"{side}.conv_norm_out")
        put_resnet(f"{side}.mid.block_1", f"{side}.mid_block.resnets.0")
        put_resnet(f"{side}.mid.block_2", f"{side}.mid_block.resnets.1")
        put(f"{side}.mid.attn_1.norm", f"{side}.mid_block.attentions.0.group_norm")
        for theirs, ours in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0")):
            put(f"{side}.mid.attn_1.{theirs}", f"{side}.mid_block.attentions.0.{ours}")
            weight = f"{side}.mid.attn_1.{theirs}.weight"
            tensors[weight] = tensors[weight][:, :, None, None].clone()
    for level in range(LEVELS):
        put_resnet(f"encoder.down.{level}.block.0", f"encoder.down_blocks.{level}.resnets.0")
        put(f"encoder.down.{level}.downsample.conv", f"encoder.down_blocks.{level}.downsamplers.0.conv")
        for block in range(2):
            put_resnet(f"decoder.up.{level}.block.{block}", f"decoder.up_blocks.{LEVELS - 1 - level}.resnets.{block}")
        put(f"decoder.up.{level}.upsample.conv", f"decoder.up_blocks.{LEVELS - 1 - level}.upsamplers.0.conv")
    for name in ("quant_conv", "post_quant_conv", "quantize"):
        put(name, name)
    assert len(tensors) == len(model.state_dict())
    return tensors


def tiny_original() -> AutoencoderKL:
    """The diffusers model that ``inference_yaml`` describes by default, with random weights."""
    torch.manual_seed(5)
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * LEVELS,
        up_block_types=["UpDecoderBlock2D"] * LEVELS,
        block_out_channels=[32, 64, 64],
    ).eval()


def write(path: Path, tensors: dict[str, Tensor], prefix: str = "") -> str:
    save_file({prefix + key: value for key, value in tensors.items()}, path)
    return str(path)

"""Writing an AutoencoderKL in the layout of the original latent-diffusion code: the weights and their YAML."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor, nn

from layerscope.errors import ConfigurationError
from layerscope.models.ldm import ldm_key
from layerscope.models.weight_files import make_readable, write_tensors

# The original code has this many groups written into its Normalize.
GROUPS = 32


def write_ldm(model: nn.Module, path: str | Path) -> Path:
    """Writes the weights under the original names, and beside them the YAML of the architecture.

    ``DiffusersAutoencoder(source=PATH, original_config=YAML)`` reads the two back, bit by bit. The YAML has
    ``scale_factor`` and ``shift_factor``; the original layout has no place for ``latents_mean`` and ``latents_std``.

    Args:
        model: diffusers' AutoencoderKL.
        path: the weights, ``.safetensors``.

    Returns:
        The path of the YAML: ``path`` with the suffix ``.yaml``.

    Raises:
        ConfigurationError: the suffix is another, or the original code has no such model.
    """
    path = Path(path)
    config = yaml.safe_dump(ldm_yaml(model), sort_keys=False)
    beside = ldm_yaml_path(path)
    write_tensors(path, ldm_tensors(model))
    partial = beside.with_name(f".{beside.name}.partial")
    partial.write_text(config, encoding="utf-8")
    make_readable(partial)
    os.replace(partial, beside)
    return beside


def ldm_yaml_path(path: str | Path) -> Path:
    """Where the YAML goes that belongs to the weights in ``path``; ConfigurationError unless that is .safetensors."""
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ConfigurationError(
            f"The original layout is written as .safetensors, and --ldm is {path}. Give a name that ends in it."
        )
    return path.with_suffix(".yaml")


def ldm_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The weights under their original names; attention's linear layers become 1 × 1 convolutions.

    Raises:
        ConfigurationError: as ``ldm_yaml``.
    """
    check_has_ldm_layout(model)
    levels = len(_config(model)["block_out_channels"])
    return {
        ldm_key(key, levels): value[:, :, None, None] if _is_projection(key, value) else value
        for key, value in model.state_dict().items()
    }


def ldm_yaml(model: nn.Module) -> dict[str, Any]:
    """The content of an autoencoder's YAML as the original code reads it, ``models.ldm.read_ldm_config`` included.

    Raises:
        ConfigurationError: the original code has no such model.
    """
    check_has_ldm_layout(model)
    config = _config(model)
    widths = list(config["block_out_channels"])
    base = math.gcd(*widths)
    size = config["sample_size"]
    ddconfig: dict[str, Any] = {
        "double_z": True,
        "z_channels": config["latent_channels"],
        "resolution": int(size[0] if isinstance(size, (list, tuple)) else size),
        "in_channels": config["in_channels"],
        "out_ch": config["out_channels"],
        "ch": base,
        "ch_mult": [width // base for width in widths],
        "num_res_blocks": config["layers_per_block"],
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    if not config["mid_block_add_attention"]:
        ddconfig["attn_type"] = "none"
    params: dict[str, Any] = {"ddconfig": ddconfig, "scale_factor": float(config["scaling_factor"])}
    if config["use_quant_conv"]:
        params["embed_dim"] = config["latent_channels"]
    if config.get("shift_factor") is not None:
        params["shift_factor"] = float(config["shift_factor"])
    return {"model": {"target": "ldm.models.autoencoder.AutoencoderKL", "params": params}}


def check_has_ldm_layout(model: nn.Module) -> None:
    """ConfigurationError if the original code could not hold this model or would compute another one from it."""
    name = type(model).__name__
    if name != "AutoencoderKL":
        raise ConfigurationError(
            f"The original layout is written for AutoencoderKL, and this is {name}. Leave --ldm out."
        )
    config = _config(model)
    wrong = []
    if config["norm_num_groups"] != GROUPS:
        wrong.append(f"norm_num_groups is {config['norm_num_groups']} instead of {GROUPS}")
    if config["act_fn"] not in ("silu", "swish"):
        wrong.append(f"act_fn is {config['act_fn']} instead of silu")
    if config["use_quant_conv"] != config["use_post_quant_conv"]:
        wrong.append("only one of quant_conv and post_quant_conv is there")
    if inside := {*config["down_block_types"], *config["up_block_types"]} - {"DownEncoderBlock2D", "UpDecoderBlock2D"}:
        wrong.append(f"its blocks are {', '.join(sorted(inside))}")
    if wrong:
        raise ConfigurationError(
            f"The original latent-diffusion code has no such AutoencoderKL: {'; '.join(wrong)}. It would compute "
            "something else from these weights. Leave --ldm out and use the diffusers folder."
        )


def _is_projection(key: str, value: Tensor) -> bool:
    return value.ndim == 2 and re.search(r"\.attentions\.0\.to_(q|k|v|out\.0)\.weight$", key) is not None


def _config(model: nn.Module) -> Any:
    return model.config

"""Autoencoders of the original latent-diffusion code (CompVis, Stability): their YAML and their checkpoint files.

diffusers reads such files too, but accepts incomplete ones silently and drops weights it has no place for. Here
every weight of the autoencoder must be used and every weight of the model must be found.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor, nn

from layerscope.errors import ConfigurationError, WeightsError
from layerscope.models.sources import build_random
from layerscope.models.weight_files import name_keys, read_tensors

# Under which name the autoencoder's weights stand in a checkpoint: Stable Diffusion's, ComfyUI's, a bare autoencoder's.
PREFIXES = ("first_stage_model.", "vae.", "")
PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.", "quantize.")
# What LDM's own classes assume when the YAML is silent; Stable Diffusion's value, as diffusers does.
KL_SCALING_FACTOR = 0.18215
VQ_SCALING_FACTOR = 1.0
# Playground v2.5 stores the latent's mean and std in its checkpoint and scales by this.
EDM_SCALING_FACTOR = 0.5


@dataclass(frozen=True)
class LdmConfig:
    """The autoencoder of an original LDM YAML.

    path: the YAML file.
    diffusers: the same architecture as a diffusers config, with ``_class_name``.
    attention_levels: levels of the encoder that have attention, which diffusers' classes cannot hold.
    embed_dim, z_channels: width of the latent, and of the encoder's result; embed_dim is None without quant_conv.
    """

    path: Path
    diffusers: dict[str, Any]
    attention_levels: tuple[int, ...]
    embed_dim: int | None
    z_channels: int


def read_ldm_config(path: str | Path) -> LdmConfig:
    """Reads the autoencoder's part of an LDM YAML.

    ``ddconfig`` is looked for where a diffusion model has it (``model.params.first_stage_config.params``) and where
    an autoencoder alone has it (``model.params``, ``params``, or the top). A model with ``n_embed`` is a VQModel.
    Without ``embed_dim`` it has no quant_conv, as in SD3 and Flux. ``scale_factor`` and ``shift_factor`` may stand on
    any level.

    Raises:
        ConfigurationError: no file, no YAML, no ``ddconfig``, or one that asks for what diffusers does not have.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ConfigurationError(
            f"original_config {path} does not exist (relative to {Path.cwd()}). Give the model's YAML, such as "
            "v1-inference.yaml; checkpoints/README.md tells where known ones come from."
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"original_config {path} is no YAML: {' '.join(str(error).split())}.") from error
    levels = _enclosing_levels(content)
    if levels is None:
        raise ConfigurationError(
            f"original_config {path} has no ddconfig: looked under model.params.first_stage_config.params, "
            "model.params, params and at the top. Give the YAML of an LDM autoencoder or diffusion model."
        )
    ddconfig = levels[0]
    if missing := [key for key in ("ch", "ch_mult", "num_res_blocks", "z_channels") if key not in ddconfig]:
        raise ConfigurationError(f"The ddconfig of {path} lacks {', '.join(missing)}.")
    embed_dim, n_embed = _first(levels, "embed_dim"), _first(levels, "n_embed")
    numbers = [ddconfig["ch"], ddconfig["num_res_blocks"], ddconfig["z_channels"], ddconfig.get("resolution", 256)]
    numbers += [value for value in (embed_dim, n_embed) if value is not None]
    numbers += ddconfig["ch_mult"] if isinstance(ddconfig["ch_mult"], list) else [None]
    if not all(isinstance(number, int) and number > 0 for number in numbers):
        raise ConfigurationError(
            f"The ddconfig of {path} needs positive whole numbers for ch, num_res_blocks, z_channels, resolution, "
            f"embed_dim and n_embed, and a list of them for ch_mult; found {dict(ddconfig)}."
        )
    _check_representable(path, ddconfig, is_vq=n_embed is not None)
    multipliers = list(ddconfig["ch_mult"])
    resolution = int(ddconfig.get("resolution", 256))
    attention = set(ddconfig.get("attn_resolutions") or ())
    config: dict[str, Any] = {
        "_class_name": "AutoencoderKL" if n_embed is None else "VQModel",
        "sample_size": resolution,
        "in_channels": ddconfig.get("in_channels", 3),
        "out_channels": ddconfig.get("out_ch", 3),
        "down_block_types": ["DownEncoderBlock2D"] * len(multipliers),
        "up_block_types": ["UpDecoderBlock2D"] * len(multipliers),
        "block_out_channels": [ddconfig["ch"] * multiplier for multiplier in multipliers],
        "layers_per_block": ddconfig["num_res_blocks"],
        "latent_channels": ddconfig["z_channels"],
        "mid_block_add_attention": ddconfig.get("attn_type", "vanilla") != "none",
    }
    scale = _first(levels, "scale_factor")
    if n_embed is None:
        config |= {"use_quant_conv": embed_dim is not None, "use_post_quant_conv": embed_dim is not None}
        config["scaling_factor"] = KL_SCALING_FACTOR if scale is None else scale
        config["shift_factor"] = _first(levels, "shift_factor")
    else:
        config |= {"num_vq_embeddings": n_embed, "vq_embed_dim": embed_dim}
        config["scaling_factor"] = VQ_SCALING_FACTOR if scale is None else scale
    return LdmConfig(
        path=path,
        diffusers=config,
        attention_levels=tuple(i for i in range(len(multipliers)) if resolution // 2**i in attention),
        embed_dim=None if embed_dim is None else int(embed_dim),
        z_channels=int(ddconfig["z_channels"]),
    )


def build_random_ldm(path: str | Path, seed: int | None) -> nn.Module:
    """The autoencoder of an LDM YAML with random weights.

    Raises:
        ConfigurationError: the YAML, as ``read_ldm_config``; or attention inside levels, or embed_dim ≠ z_channels.
    """
    config = read_ldm_config(path)
    if problem := _unsupported(config):
        raise ConfigurationError(f"{config.path} cannot be built: {problem}")
    return build_random(config.diffusers, seed)


def load_ldm_file(path: str | Path, original_config: str | Path) -> nn.Module:
    """The autoencoder of a single original checkpoint: of a whole diffusion model, or alone.

    Args:
        path: ``.safetensors``, or a torch file that holds nothing but tensors and plain data. Keys may begin with
            ``first_stage_model.``, ``vae.`` or nothing, in LDM's naming or in diffusers'.
        original_config: the model's YAML.

    Raises:
        ConfigurationError: the YAML, as ``read_ldm_config``.
        WeightsError: the file cannot be read safely, or its keys or shapes do not fit the YAML exactly.
    """
    path = Path(path)
    config = read_ldm_config(original_config)
    tensors = read_tensors(path)
    found = _autoencoder_part(tensors, path)
    attention = [key for key in found if re.search(r"\.(down|up)\.\d+\.attn\.", key)]
    if attention:
        raise WeightsError(
            f"{path} has attention inside its levels ({name_keys(attention)}; attn_resolutions in the YAML), which "
            "diffusers would drop silently, so that the model would be another one. Such autoencoders (kl-f16 and the "
            "like) are not supported; use one with attention in the middle only, as Stable Diffusion's."
        )
    if problem := _unsupported(config):
        quant = [key for key in found if key.startswith(("quant_conv", "post_quant_conv"))]
        raise WeightsError(f"{path} cannot be loaded ({name_keys(quant) or config.path}): {problem}")
    arguments = dict(config.diffusers)
    if "edm_mean" in tensors and "edm_std" in tensors:
        arguments |= {
            name: tensors[key].flatten().tolist()
            for name, key in (("latents_mean", "edm_mean"), ("latents_std", "edm_std"))
        }
        arguments["scaling_factor"] = EDM_SCALING_FACTOR
    model = build_random(arguments, seed=0)
    own_names = any(".down_blocks." in key or ".up_blocks." in key for key in found)
    levels = len(arguments["block_out_channels"])
    names = {key: key if own_names else ldm_key(key, levels) for key in model.state_dict()}
    _load_strictly(model, names, found, path, config)
    return model


def ldm_key(key: str, levels: int) -> str:
    """The original name of a weight of diffusers' AutoencoderKL or VQModel.

    Args:
        key: diffusers' name.
        levels: number of resolutions; LDM counts the decoder's from the output, diffusers from the latent.

    >>> ldm_key("decoder.up_blocks.0.resnets.1.conv_shortcut.weight", 4)
    'decoder.up.3.block.1.nin_shortcut.weight'
    """
    key = re.sub(r"\.down_blocks\.(\d+)", r".down.\1", key)
    key = re.sub(r"\.up_blocks\.(\d+)", lambda found: f".up.{levels - 1 - int(found[1])}", key)
    key = re.sub(r"\.mid_block\.resnets\.(\d+)", lambda found: f".mid.block_{int(found[1]) + 1}", key)
    key = key.replace(".mid_block.attentions.0.", ".mid.attn_1.")
    for ours, theirs in (
        (".resnets.", ".block."),
        (".downsamplers.0.", ".downsample."),
        (".upsamplers.0.", ".upsample."),
        (".conv_shortcut.", ".nin_shortcut."),
        (".conv_norm_out.", ".norm_out."),
        (".group_norm.", ".norm."),
        (".to_q.", ".q."),
        (".to_k.", ".k."),
        (".to_v.", ".v."),
        (".to_out.0.", ".proj_out."),
    ):
        key = key.replace(ours, theirs)
    return key


def _load_strictly(
    model: nn.Module, names: Mapping[str, str], found: Mapping[str, Tensor], path: Path, config: LdmConfig
) -> None:
    """Copies ``found`` into the model; ``names`` gives the file's name of each of the model's weights."""
    state: dict[str, Tensor] = {}
    shapes = []
    for key, value in model.state_dict().items():
        stored = found.get(names[key])
        if stored is None:
            continue
        # LDM's attention has 1×1 convolutions where diffusers has linear layers.
        state[key] = stored.reshape(value.shape) if _is_pointwise(stored, value) else stored
        if state[key].shape != value.shape:
            shapes.append(f"{names[key]} {tuple(stored.shape)} instead of {tuple(value.shape)}")
    missing = [name for name in names.values() if name not in found]
    unexpected = sorted(set(found) - set(names.values()))
    sentences = [
        f"{word}: {name_keys(keys)}."
        for word, keys in (("Missing", missing), ("Unexpected", unexpected), ("Of another shape", shapes))
        if keys
    ]
    if sentences:
        raise WeightsError(
            f"The autoencoder in {path} does not fit {config.path} ({config.diffusers['_class_name']}). "
            f"{' '.join(sentences)} The file is incomplete or the YAML belongs to another model; a YAML without "
            "embed_dim means a model without quant_conv."
        )
    model.load_state_dict(state, strict=True)


def _is_pointwise(stored: Tensor, wanted: Tensor) -> bool:
    return stored.ndim > wanted.ndim == 2 and stored.shape[:2] == wanted.shape and stored.numel() == wanted.numel()


def _autoencoder_part(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The autoencoder's weights without their prefix; losses, text encoders and the like are left out."""
    for prefix in PREFIXES:
        part = {
            key[len(prefix) :]: value
            for key, value in tensors.items()
            if key.startswith(prefix) and key[len(prefix) :].startswith(PARTS)
        }
        if part:
            return part
    raise WeightsError(
        f"{path} holds no autoencoder: no key begins with {', '.join(p + 'encoder.' for p in PREFIXES)}. "
        f"Its keys are {name_keys(tensors)}."
    )


def _enclosing_levels(content: Any) -> list[Mapping[str, Any]] | None:
    """ddconfig and the mappings around it, from the inside out."""
    for places in (
        ("model", "params", "first_stage_config", "params", "ddconfig"),
        ("model", "params", "ddconfig"),
        ("params", "ddconfig"),
        ("ddconfig",),
    ):
        levels = [content]
        for place in places:
            levels.append(levels[-1].get(place) if isinstance(levels[-1], Mapping) else None)
        if isinstance(levels[-1], Mapping):
            return levels[::-1]
    return None


def _first(levels: list[Mapping[str, Any]], key: str) -> Any:
    return next((level[key] for level in levels if level.get(key) is not None), None)


def _check_representable(path: Path, ddconfig: Mapping[str, Any], is_vq: bool) -> None:
    """Options of LDM's encoder and decoder that diffusers' do not have."""
    wrong = [key for key in ("tanh_out", "give_pre_end", "use_linear_attn") if ddconfig.get(key)]
    wrong += ["resamp_with_conv: false"] if ddconfig.get("resamp_with_conv") is False else []
    wrong += [f"double_z: {str(is_vq).lower()}"] * (bool(ddconfig.get("double_z", not is_vq)) == is_vq)
    if wrong:
        raise ConfigurationError(
            f"The ddconfig of {path} asks for {', '.join(wrong)}, which diffusers' "
            f"{'VQModel' if is_vq else 'AutoencoderKL'} does not have. Give such a "
            "model by class_path (layerscope.protocols.Autoencoder)."
        )


def _unsupported(config: LdmConfig) -> str | None:
    """Why diffusers' class cannot hold this model."""
    if config.attention_levels:
        return (
            f"its attn_resolutions put attention into level {', '.join(map(str, config.attention_levels))}, and "
            f"diffusers' {config.diffusers['_class_name']} has attention in the middle only. Set "
            "attn_resolutions: [] or use another model."
        )
    is_kl = config.diffusers["_class_name"] == "AutoencoderKL"
    if is_kl and config.embed_dim is not None and config.embed_dim != config.z_channels:
        return (
            f"its embed_dim is {config.embed_dim} and its z_channels {config.z_channels}; diffusers' AutoencoderKL has "
            "one width for both. Such a model can be given by class_path (layerscope.protocols.Autoencoder)."
        )
    return None

"""Which layers of a model are watched unless the user names others, as patterns of ``layerscope.probes``."""

from __future__ import annotations

import re

from torch import nn

from layerscope.errors import ConfigurationError

_CONVOLUTIONAL = (
    "decoder.conv_in",
    "decoder.mid_block.resnets.*",
    "decoder.mid_block.attentions.*",
    "decoder.up_blocks.*.resnets.*",
    "decoder.up_blocks.*.attentions.*",
    "decoder.up_blocks.*.upsamplers.*",
    "decoder.conv_norm_out",
    "decoder.conv_out",
)

# Every one of them gives (B, C, h, w), once in a decode without tiles.
DECODER_LAYERS = {
    "AutoencoderKL": _CONVOLUTIONAL,
    "VQModel": _CONVOLUTIONAL,
    "AutoencoderTiny": ("decoder.layers.*",),
    # Not `norm_out`, which gives (B, h, w, C); `conv_act` follows it at once.
    "AutoencoderDC": ("decoder.conv_in", "decoder.up_blocks.*.*", "decoder.conv_act", "decoder.conv_out"),
}

# Numbered layers: `blocks.0`, `layer.0`, `encoder.layers.0`, Twins' `blocks.0.0`.
_NUMBERED = re.compile(r"(?:\w+\.)*(?:block|layer|stage|level)s?(?:\.\d+)+")


def decoder_layers(model: nn.Module) -> tuple[str, ...]:
    """The decoder of a diffusers autoencoder at block granularity; only patterns that match one of its layers."""
    names = [name for name, _ in model.named_modules()]
    patterns = DECODER_LAYERS[type(model).__name__]
    return tuple(pattern for pattern in patterns if any(_glob(pattern).fullmatch(name) for name in names))


def block_layers(model: nn.Module) -> tuple[str, ...]:
    """The blocks of a vision backbone as one pattern: the outermost numbered layers, or the blocks in them.

    Raises:
        ConfigurationError: nothing in the model is named like a block.
    """
    lists: dict[str, int] = {}
    for name, module in model.named_modules():
        # A list of modules is never called itself.
        if _NUMBERED.fullmatch(name) and not isinstance(module, nn.ModuleList):
            pattern = r"\.".join(r"\d+" if part.isdigit() else part for part in name.split("."))
            lists[pattern] = lists.get(pattern, 0) + 1
    if not lists:
        raise ConfigurationError(
            f"The model {type(model).__name__} has no layers named like blocks (blocks.0, layers.0, stages.0), so "
            "there are no default layers. Name the layers to watch."
        )
    outermost = min(pattern.count(r"\.") for pattern in lists)
    # The vision tower, where the model has several; then the longest list.
    chosen = max(
        (pattern for pattern in lists if pattern.count(r"\.") == outermost),
        key=lambda pattern: ("vision" in pattern, lists[pattern]),
    )
    # Swin's layers are stages that give tuples; its blocks are inside.
    inner = rf"{chosen}\.blocks\.\d+"
    return (f"re:{inner if inner in lists else chosen}",)


def block_names(model: nn.Module) -> tuple[str, ...]:
    """The blocks of a vision backbone by name, in their order; errors as of ``block_layers``."""
    patterns = [re.compile(pattern.removeprefix("re:")) for pattern in block_layers(model)]
    return tuple(name for name, _ in model.named_modules() if any(one.fullmatch(name) for one in patterns))


def _glob(pattern: str) -> re.Pattern[str]:
    """A pattern of this file, in which ``*`` stays within one part of the name."""
    return re.compile(re.escape(pattern).replace(r"\*", r"[^.]*"))

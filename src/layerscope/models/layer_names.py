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

# The list of a model's blocks, as its parent names it: `blocks`, `layer`, `encoder.layers`, `serial_blocks1`.
_NUMBERED = re.compile(r"((?:\w+\.)*\w*(?:block|layer|stage|level)s?\d*)\.\d+")


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
    names = {name for name, _ in model.named_modules()}
    for name in names:
        if found := _NUMBERED.fullmatch(name):
            lists[found[1]] = lists.get(found[1], 0) + 1
    if not lists:
        raise ConfigurationError(
            f"The model {type(model).__name__} has no layers named like blocks (blocks.0, layers.0, stages.0), so there "
            "are no default layers. Name the layers to watch."
        )
    outermost = min(name.count(".") for name in lists)
    # The vision tower, where the model has several; then the longest list.
    parent = max(
        sorted(name for name in lists if name.count(".") == outermost), key=lambda name: ("vision" in name, lists[name])
    )
    numbered = rf"re:{re.escape(parent)}\.\d+"
    # Swin's layers are stages that give tuples; its blocks are inside.
    return (rf"{numbered}\.blocks\.\d+",) if f"{parent}.0.blocks.0" in names else (numbered,)


def _glob(pattern: str) -> re.Pattern[str]:
    """A pattern of this file, in which ``*`` stays within one part of the name."""
    return re.compile(re.escape(pattern).replace(r"\*", r"[^.]*"))

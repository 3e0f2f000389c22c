"""Names of layers as reports use them: the stage of a model that a layer belongs to, and labels for plots."""

from __future__ import annotations

import re
from collections.abc import Sequence

from layerscope.artifacts.layer_scores import POINTS
from layerscope.report.figure_style import short_name


def stage_of(layer: str, autoencoder: bool) -> str:
    """The part of a model that a layer belongs to.

    Of an autoencoder: encoder, latent, post_quant_conv, or a block of the decoder. Of any other model the first
    numbered block, or the layer itself.

    >>> [stage_of(name, True) for name in ("encoder.conv_in", "quant_conv", "decoder.up_blocks.1.resnets.0")]
    ['encoder', 'latent', 'decoder.up_blocks.1']
    >>> stage_of("decoder.mid_block.attentions.0", True), stage_of("decoder.conv_out:2", True)
    ('decoder.mid_block', 'decoder.conv_out')
    >>> stage_of("blocks.3.attn.proj", False), stage_of("layer2.0.conv1", False), stage_of("norm", False)
    ('blocks.3', 'layer2', 'norm')
    """
    name = first_call(layer)
    if name in POINTS:
        return name
    parts = name.split(".")
    if autoencoder:
        if parts[0] in ("encoder", "post_quant_conv"):
            return parts[0]
        if parts[0] == "quant_conv":
            return "latent"
        if parts[0] == "decoder":
            return ".".join(parts[: 3 if len(parts) > 2 and parts[2].isdigit() else 2])
    numbered = next((place for place, part in enumerate(parts) if part[-1:].isdigit()), len(parts) - 1)
    return ".".join(parts[: numbered + 1])


def first_call(layer: str) -> str:
    """A layer's name without the number of its call: ``decoder.act:2`` is the second call of ``decoder.act``."""
    return re.sub(r":\d+$", "", layer)


def repeated_layers(layers: Sequence[str]) -> list[str]:
    """Layers that were called more than once in a pass, without the number of the call.

    >>> repeated_layers(["latent", "decoder.act", "decoder.conv_out", "decoder.act:2", "decoder.act:3"])
    ['decoder.act']
    """
    again = {first_call(name) for name in layers if first_call(name) != name}
    return [name for name in layers if name in again]


def called_once(layers: Sequence[str]) -> list[int]:
    """Rows of the points and of the layers that were called once in a pass, whose values are of the whole image."""
    again = set(repeated_layers(layers))
    return [row for row, name in enumerate(layers) if first_call(name) not in again]


def layer_labels(layers: Sequence[str], length: int = 34) -> list[str]:
    """Labels for a plot, no two alike: of long names the middle is left out.

    >>> layer_labels(["latent", "decoder.up_blocks.0.resnets.0"])
    ['latent', 'decoder.up_blocks.0.resnets.0']
    """
    labels = [short_name(name, length) for name in layers]
    while len(set(labels)) < len(set(layers)):
        length += 4
        labels = [short_name(name, length) for name in layers]
    return labels

"""The largest activation of each block of an autoencoder, and whether float16 could hold it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from layerscope.errors import ConfigurationError, DataError
from layerscope.functional.half_precision import HalfPrecisionVerdict, half_precision_verdict
from layerscope.probes.hooks import ForwardHooks, Watch
from layerscope.probes.outputs import tensors_in
from layerscope.probes.selection import has_forward
from layerscope.protocols import Autoencoder


@dataclass(frozen=True)
class ActivationAudit:
    """max |activation| of each block in the order of the modules, over ``images`` encoded and decoded.

    silent: blocks none of whose modules were called, of which nothing is known.
    """

    images: int
    largest: dict[str, float]
    silent: tuple[str, ...]
    half_precision: HalfPrecisionVerdict


@torch.no_grad()
def activation_audit(autoencoder: nn.Module, images: Iterable[Tensor]) -> ActivationAudit:
    """Encodes and decodes ``images`` (the posterior's mode) and watches every module's output.

    A block is a child of ``encoder`` or ``decoder`` (``encoder.down_blocks.0``, ``decoder.mid_block``) or another top
    module (``quant_conv``); the figure of a block is the largest among all modules inside it, because float16
    overflows inside residual branches before their sum does. What one fused attention call keeps to itself is not
    seen. Hooks reduce at once and are always removed; the autoencoder is in evaluation mode meanwhile.

    Args:
        autoencoder: satisfies ``layerscope.protocols.Autoencoder``; its weights should be float32.
        images: batches (B, 3, H, W) in [-1, 1]; moved to the device of the weights.

    Raises:
        ConfigurationError: no ``Autoencoder``, or images whose sides do not divide by its downsampling.
        DataError: no images.
    """
    if not isinstance(autoencoder, Autoencoder):
        raise ConfigurationError(f"{type(autoencoder).__name__} is no layerscope.protocols.Autoencoder.")
    largest: dict[str, Tensor] = {}
    watched = [
        (block, module)
        for name, module in autoencoder.named_modules()
        if (block := _block_of(name)) is not None and has_forward(module)
    ]
    blocks = dict.fromkeys(block for block, _ in watched)
    device = next(autoencoder.parameters()).device
    was_training = autoencoder.training
    autoencoder.eval()
    count = 0
    try:
        with ForwardHooks((module, _keeps_largest(largest, block)) for block, module in watched):
            for batch in images:
                autoencoder.decode(autoencoder.encode(batch.to(device)).mean)
                count += len(batch)
    finally:
        autoencoder.train(was_training)
    if not count:
        raise DataError("There are no images to audit the activations on. Give at least one.")
    figures = {block: float(largest[block]) for block in blocks if block in largest}
    if not figures:
        raise ConfigurationError(
            f"No module inside the {type(autoencoder).__name__} was called while it encoded and decoded, so its "
            "activations cannot be audited. A compiled model drops hooks: audit the one that was compiled."
        )
    silent = tuple(block for block in blocks if block not in figures)
    return ActivationAudit(count, figures, silent, half_precision_verdict(figures))


def _block_of(name: str) -> str | None:
    """The block of a module by its name; None for the modules around all blocks.

    >>> [_block_of(n) for n in ("model.encoder.down_blocks.0.resnets.1.conv1", "model.quant_conv", "model.encoder")]
    ['encoder.down_blocks.0', 'quant_conv', None]
    """
    parts = name.removeprefix("model.").split(".")
    if parts[0] in ("", "model"):
        return None
    if parts[0] not in ("encoder", "decoder"):
        return parts[0]
    if len(parts) == 1:
        return None
    return ".".join(parts[:3] if len(parts) > 2 and parts[2].isdigit() else parts[:2])


def _keeps_largest(largest: dict[str, Tensor], block: str) -> Watch:
    """Leaves one number a block behind."""

    def watch(output: Any) -> None:
        for _, tensor in tensors_in(output):
            if tensor.numel():
                top = tensor.detach().abs().amax().float()
                # torch.maximum keeps NaN, Python's max would not.
                largest[block] = torch.maximum(largest[block], top) if block in largest else top

    return watch

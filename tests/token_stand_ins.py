"""What the tests of token encoders share: where tokens stand in what a model's first block is given."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def first_block_input(encoder: Any, image: Tensor) -> Tensor:
    """(B, T, D)."""
    inputs: list[Tensor] = []
    block = encoder.layer_root.get_submodule(encoder.default_layers[0])
    handle = block.register_forward_pre_hook(lambda _, args: inputs.append(args[0].clone()))
    try:
        encoder(image)
    finally:
        handle.remove()
    return inputs[0]


def moved_tokens(encoder: Any, parameter: nn.Parameter, image: Tensor) -> list[int]:
    """Places in the sequence that a parameter reaches, of all its values but alternating in sign (norms see it)."""
    before = first_block_input(encoder, image)
    step = torch.linspace(-1, 1, parameter.shape[-1])
    with torch.no_grad():
        parameter += step
    after = first_block_input(encoder, image)
    with torch.no_grad():
        parameter -= step
    return changed(before, after)


def changed(before: Tensor, after: Tensor) -> list[int]:
    """Places of tokens that differ."""
    return (before - after).abs().amax(dim=(0, 2)).gt(1e-4).nonzero().flatten().tolist()

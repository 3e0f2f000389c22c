"""What two activations of a layer are reduced to while the model runs: three energies a sample and a distance map."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from layerscope.errors import ConfigurationError
from layerscope.functional.memory_blocks import block_size, blocks, memory_order, samples_at_once, sum_dtype


class PairEnergies(NamedTuple):
    """Of B pairs of activations a, b.

    energies: float64 (B, 3), Σa², Σb² and Σ(a − b)² over all elements of a sample (float32 on MPS).
    distance: float32 (B, *positions), ‖a − b‖₂ over channels; None where channels or positions are not known.
    """

    energies: Tensor
    distance: Tensor | None


@torch.no_grad()
def pair_energies(a: Tensor, b: Tensor, channel_dim: int | None = 1) -> PairEnergies:
    """Energies of two activations and of their difference, and where they differ.

    Made to run in a forward hook: the tensors are read in blocks as they lie in memory, contiguous or channels-last,
    and temporaries are of the size of a block (``memory_blocks``), whatever the layer's. bfloat16 and float16 are
    upcast block by block before they are subtracted; the difference itself is squared, for Σa² + Σb² − 2Σab loses all
    digits where a and b are close. float32 within a block, float64 across blocks; float64 input stays float64. On a
    CPU a sample's figures are the same bits in any batch, and equal activations have equal energies and difference 0.

    Args:
        a: (B, ...) of any floating-point type.
        b: the same shape.
        channel_dim: dimension over which the distance is taken, not the batch's; None for no distance. Activations
            with less than three dimensions have no positions and no distance either.

    Raises:
        ConfigurationError: a and b differ in shape, or there is no such ``channel_dim``.
    """
    if a.shape != b.shape or a.ndim < 1:
        raise ConfigurationError(
            f"Activations of a pair differ in shape, {tuple(a.shape)} and {tuple(b.shape)}, so they have no "
            "difference. Run both images through the layer at one size, the batch in the first dimension."
        )
    channel = _channel(channel_dim, a.ndim) if channel_dim is not None and a.ndim >= 3 else None
    device = a.device
    work = torch.float64 if torch.float64 in (a.dtype, b.dtype) else torch.float32
    energies = torch.zeros(len(a), 3, dtype=sum_dtype(device), device=device)

    order = memory_order(a)
    a, b = a.detach().permute(order), b.detach().permute(order)
    squared = channel_axis = None
    if channel is not None:
        channel_axis = order.index(channel)
        positions = [size for axis, size in enumerate(a.shape) if axis != channel_axis]
        squared = torch.zeros(positions, dtype=torch.float32, device=device)

    most = block_size(device)
    together = samples_at_once(device, len(a))
    cuts = [
        (slice(first, min(first + together, len(a))), *cut)
        for first in range(0, len(a), together)
        for cut in blocks(a.shape[1:], max(1, most // together))
    ]
    largest = max((prod(one.stop - one.start for one in cut) for cut in cuts), default=0)
    scratch_buffer = torch.empty(largest, dtype=work, device=device)
    upcast = [None if one.dtype == work else torch.empty_like(scratch_buffer) for one in (a, b)]
    for cut in cuts:
        x, y = (_in(buffer, one[cut]) for buffer, one in zip(upcast, (a, b)))
        scratch = scratch_buffer[: x.numel()].view(x.shape)
        flat = scratch.view(len(scratch), -1)
        sums = energies[cut[0]]
        torch.mul(x, x, out=scratch)
        sums[:, 0] += flat.sum(1)
        torch.mul(y, y, out=scratch)
        sums[:, 1] += flat.sum(1)
        torch.sub(x, y, out=scratch).square_()
        sums[:, 2] += flat.sum(1)
        if squared is not None and channel_axis is not None:
            squared[cut[:channel_axis] + cut[channel_axis + 1 :]] += scratch.sum(channel_axis)
    if squared is None:
        return PairEnergies(energies, None)
    # Back from the order in memory to that of the dimensions.
    rest = [dim for dim in order if dim != channel]
    return PairEnergies(energies, squared.sqrt_().permute([rest.index(dim) for dim in sorted(rest)]))


def _in(buffer: Tensor | None, block: Tensor) -> Tensor:
    """The block copied into a buffer of the wider type; itself where none is needed."""
    return block if buffer is None else buffer[: block.numel()].view(block.shape).copy_(block)


def _channel(channel_dim: int, ndim: int) -> int:
    channel = channel_dim + ndim if channel_dim < 0 else channel_dim
    if not 0 < channel < ndim:
        raise ConfigurationError(
            f"channel_dim {channel_dim} is no dimension behind the batch of an activation with {ndim} dimensions. "
            f"Name one of 1 to {ndim - 1}, or None for no distance map."
        )
    return channel

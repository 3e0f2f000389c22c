"""Going over a large tensor in blocks that lie together in memory, so that temporaries stay small."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import torch
from torch import Tensor

CPU_BLOCK = 2**18
"""Elements of a block on a CPU: 1 MiB in float32, which stays in the cache between the passes over it.

Half of it took 1.3 times as long for many small calls, and twice as much gained 10 %.
"""

ACCELERATOR_BLOCK = 2**22
"""Elements of a block on an accelerator: 16 MiB in float32, so that launches cost little beside the work."""


def block_size(device: torch.device) -> int:
    """Elements of a block on this device."""
    return CPU_BLOCK if device.type == "cpu" else ACCELERATOR_BLOCK


def samples_at_once(device: torch.device, samples: int) -> int:
    """Samples of a batch in one block: all on an accelerator, one on a CPU, where launches are cheap.

    One at a time, the way a sample is cut and summed does not depend on its neighbours.
    """
    return 1 if device.type == "cpu" else max(1, samples)


def sum_dtype(device: torch.device) -> torch.dtype:
    """Of sums over blocks: float64, and float32 on MPS, which has none."""
    return torch.float32 if device.type == "mps" else torch.float64


def memory_order(x: Tensor) -> tuple[int, ...]:
    """The dimensions of (B, ...), the batch first and the others as they lie in memory, slowest first.

    ``x.permute`` of it is contiguous for a contiguous tensor and for a channels-last one, without a copy.

    >>> memory_order(torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last))
    (0, 2, 3, 1)
    """
    stride = x.stride()
    return (0, *sorted(range(1, x.ndim), key=lambda dim: -stride[dim]))


def blocks(shape: Sequence[int], most: int) -> Iterator[tuple[slice, ...]]:
    """Slices that cut ``shape`` into blocks of at most ``most`` elements, in order; each lies together in memory.

    >>> [[(s.start, s.stop) for s in block] for block in blocks((3, 4), 8)]
    [[(0, 2), (0, 4)], [(2, 3), (0, 4)]]
    """
    if not shape:
        yield ()
        return
    inner = prod(shape[1:])
    if inner <= most:
        step = max(1, most // max(1, inner))
        for start in range(0, shape[0], step):
            yield (slice(start, min(start + step, shape[0])), *(slice(0, size) for size in shape[1:]))
        return
    for index in range(shape[0]):
        for rest in blocks(shape[1:], most):
            yield (slice(index, index + 1), *rest)

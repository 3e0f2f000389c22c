"""Which process reads which images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized

import torch.distributed as dist
from torch.utils.data import Sampler


def rank_and_world() -> tuple[int, int]:
    """This process's rank and the number of processes; (0, 1) without torch.distributed."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


class UnrepeatedDistributedSampler(Sampler[int]):
    """Every sample exactly once over all processes, in order: process r of R reads the rows r, r + R, r + 2R, ...

    torch's and Lightning's samplers repeat samples until every process has the same number, which evaluates seven
    samples on two processes as eight. Here the shares differ by at most one, so no collective operation may run inside
    an evaluation loop that uses it. With fewer samples than processes, the idle ones read row −1, a stand-in that
    tables leave out (``metrics.table``): Lightning skips the whole loop, its collective end included, for a process
    without batches, and the others would wait for it forever.

    Args:
        data: the map-style data set, or anything with a length.
        rank, world: this process and the number of processes; read from torch.distributed when iteration begins
            unless given.
    """

    def __init__(self, data: Sized, rank: int | None = None, world: int | None = None) -> None:
        self.data = data
        self._given = None if rank is None or world is None else (rank, world)

    def _rows(self) -> Sequence[int]:
        rank, world = self._given or rank_and_world()
        rows = range(rank, len(self.data), world)
        return rows if len(rows) or not len(self.data) else [-1]

    def __iter__(self) -> Iterator[int]:
        return iter(self._rows())

    def __len__(self) -> int:
        return len(self._rows())

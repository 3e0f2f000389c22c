"""Which process reads which images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from typing import Any

import numpy as np
import torch.distributed as dist
from torch.utils.data import Sampler
from torch.utils.data.distributed import DistributedSampler

from layerscope.errors import ConfigurationError


def rank_and_world() -> tuple[int, int]:
    """This process's rank and the number of processes; (0, 1) without torch.distributed."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


class UnrepeatedDistributedSampler(Sampler[int]):
    """Every sample exactly once over all processes, in order: process r of R reads the rows r, r + R, r + 2R, ...

    With ``block`` above 1 it reads the blocks r, r + R, ... of that many consecutive rows, for what is computed over
    neighbours: which rows share a block does not depend on the number of processes.

    torch's and Lightning's samplers repeat samples until every process has the same number, which evaluates seven
    samples on two processes as eight. Here the shares differ by at most one block, so no collective operation may run
    inside an evaluation loop that uses it. With fewer blocks than processes, the idle ones read row −1, a stand-in that
    tables leave out (``metrics.table``): Lightning skips the whole loop, its collective end included, for a process
    without batches, and the others would wait for it forever.

    Args:
        data: the map-style data set, or anything with a length.
        rank, world: this process and the number of processes; read from torch.distributed when iteration begins
            unless given.
        block: consecutive rows that stay on one process; the last block may be shorter.
    """

    def __init__(self, data: Sized, rank: int | None = None, world: int | None = None, block: int = 1) -> None:
        self.data = data
        self.block = block
        self._given = None if rank is None or world is None else (rank, world)

    def _rows(self) -> Sequence[int]:
        rank, world = self._given or rank_and_world()
        size, block = len(self.data), self.block
        starts = range(rank * block, size, world * block)
        rows = [row for start in starts for row in range(start, min(start + block, size))]
        return rows if rows or not size else [-1]

    def __iter__(self) -> Iterator[int]:
        return iter(self._rows())

    def __len__(self) -> int:
        return len(self._rows())


class ResumableSampler(DistributedSampler[Any]):
    """Training order: a permutation from (seed, epoch), dealt out to the processes, that can begin anywhere.

    Process r of R reads the places r, r + R, r + 2R, ... of the permutation, so what all processes have trained on
    after any number of global batches is a beginning of it, and one number, ``consumed``, says where to go on. It is
    the same on every process: Lightning stores only the first one's.

    Where R does not divide the number of samples, the permutation goes on from its own beginning until it does: at
    most R − 1 samples of an epoch are seen twice, others in each epoch. Every process then has equally many samples,
    and so equally many batches of equal sizes, which training needs, because each step averages the gradients of all
    processes with equal weights. (Leaving samples out instead would leave nothing where there are fewer samples than
    processes.) One process repeats nothing.

    It is a ``DistributedSampler`` because Lightning replaces any other by its own.

    Args:
        data: the map-style data set, or anything with a length.
        seed: of the order.
        rank, world: this process and the number of processes; read from torch.distributed unless given.

    Attributes:
        epoch: whose permutation is read; Lightning sets it by ``set_epoch``.
        consumed: samples of this epoch that training has seen, over all processes and with repeated ones. Iteration
            begins there; whoever trains on the samples moves it (``data.loader.ResumableDataLoader``).
    """

    def __init__(self, data: Sized, seed: int = 0, rank: int | None = None, world: int | None = None) -> None:
        if rank is None or world is None:
            rank, world = rank_and_world()
        super().__init__(data, num_replicas=world, rank=rank, seed=seed)  # type: ignore[arg-type]
        self._size = len(data)
        self.consumed = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the permutation. A new epoch begins at its beginning; the same epoch keeps its place."""
        if epoch != self.epoch:
            self.consumed = 0
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        # Any integer is a seed; NumPy's must not be negative.
        order = np.random.default_rng([self.seed % 2**64, self.epoch]).permutation(self._size)
        for place in range(self.consumed + self.rank, self.total_size, self.num_replicas):
            yield int(order[place % self._size])

    def state_dict(self) -> dict[str, int]:
        """Plain integers, equal on all processes."""
        return {"seed": self.seed, "size": self._size, "epoch": self.epoch, "consumed": self.consumed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on where ``state`` was saved.

        Raises:
            ConfigurationError: it was saved within an epoch whose order another number of images or another seed
                would not repeat.
        """
        if 0 < state["consumed"] < state["size"]:
            for name, here in (("size", self._size), ("seed", self.seed)):
                if state[name] != here:
                    what = "number of training images" if name == "size" else "data.init_args.seed"
                    raise ConfigurationError(
                        f"The checkpoint was saved within epoch {state['epoch']}, after {state['consumed']} of "
                        f"{state['size']} images, when the {what} was {state[name]}; now it is {here}, and which "
                        "images the epoch has left is no longer known. Resume with the same images and seed, or from "
                        "a checkpoint saved at the end of an epoch."
                    )
        self.epoch = state["epoch"]
        self.consumed = state["consumed"]

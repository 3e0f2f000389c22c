"""Blocks of neighbouring rows stay on one process, and every row is read once."""

import pytest

from layerscope.data.sampler import UnrepeatedDistributedSampler


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 4, 6, 8, 13, 27])
@pytest.mark.parametrize("block", [1, 3, 4])
def test_processes_share_the_rows_by_whole_blocks(size: int, world: int, block: int) -> None:
    samplers = [UnrepeatedDistributedSampler(range(size), rank, world, block=block) for rank in range(world)]
    shares = [list(sampler) for sampler in samplers]
    assert [len(sampler) for sampler in samplers] == [len(share) for share in shares]
    assert sorted(row for share in shares for row in share if row >= 0) == list(range(size))
    for rank, share in enumerate(shares):
        assert share == sorted(share)
        assert share == [-1] or {row // block % world for row in share} == {rank}
        # Without rows a process reads the stand-in, and only then.
        assert (share == [-1]) == (rank * block >= size)


def test_without_samples_nobody_reads_anything() -> None:
    assert list(UnrepeatedDistributedSampler([], 0, 2, block=4)) == []

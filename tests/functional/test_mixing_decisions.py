"""Who is replaced by a reconstruction: the asked shares, anew in each epoch, whatever the batch or the process."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from layerscope.data.sampler import ResumableSampler
from layerscope.functional.mixing import MixedIn, mixed_in

IDS = [f"train/image {number}" for number in range(10_000)]
ASKED: dict[str, Any] = {"mix": 0.4, "noisy": 0.25, "timesteps": [52, 153], "draws": 4}


def decided(epoch: int = 0, seed: int = 0, ids: list[str] = IDS, **changes: Any) -> list[MixedIn | None]:
    return mixed_in(ids, epoch, seed, **{**ASKED, **changes})


def within(count: int, of: int, probability: float) -> bool:
    """Within five standard deviations of a binomial distribution: 6 in 10 million fall outside."""
    return bool(abs(count - of * probability) < 5 * np.sqrt(of * probability * (1 - probability)))


def test_shares_are_those_asked_for() -> None:
    for epoch in range(3):
        counts = Counter(decided(epoch))
        assert set(counts) == {None, MixedIn(0, 0), *(MixedIn(t, draw) for t in (52, 153) for draw in range(4))}
        assert within(counts[None], len(IDS), 0.6)
        assert within(counts[MixedIn(0, 0)], len(IDS), 0.3)
        for choice, count in counts.items():
            if choice is not None and choice.timestep:
                assert within(count, len(IDS), 0.1 / 8), choice


def test_the_ends_are_exact() -> None:
    assert set(decided(mix=0.0)) == {None}
    assert set(decided(mix=1.0, noisy=0.0)) == {MixedIn(0, 0)}
    assert {choice and choice.timestep for choice in decided(mix=1.0, noisy=1.0)} == {52, 153}


def agreement(a: list[MixedIn | None], b: list[MixedIn | None]) -> int:
    """How often both are the image or both a reconstruction; 0.4² + 0.6² = 0.52 of the places by chance."""
    return sum((one is None) == (other is None) for one, other in zip(a, b, strict=True))


@pytest.mark.parametrize("other", [{"epoch": 1}, {"seed": 1}, {"epoch": 10, "seed": -1}])
def test_epochs_and_seeds_are_independent(other: dict[str, int]) -> None:
    assert within(agreement(decided(), decided(**other)), len(IDS), 0.52)
    assert decided(**other) == decided(**other)


def test_two_processes_take_no_decision_place_by_place() -> None:
    """Each meets its own images, so the stream of one is no copy of the other's."""
    shares = [[IDS[row] for row in ResumableSampler(IDS, 5, rank, 2)] for rank in (0, 1)]
    first, second = (decided(ids=share) for share in shares)
    assert within(agreement(first, second), len(IDS) // 2, 0.52)
    together = dict(zip(IDS, decided()))
    assert first + second == [together[name] for share in shares for name in share]


def test_batches_and_order_do_not_enter() -> None:
    batches = [IDS[start : start + 7] for start in range(0, 700, 7)][::-1]
    together = dict(zip(IDS, decided()))
    for batch in batches:
        assert decided(ids=batch) == [together[name] for name in batch]
    assert decided(ids=[]) == []


def test_a_larger_share_holds_a_smaller_one() -> None:
    less, more = decided(mix=0.25), decided(mix=0.5)
    assert all(one == other for one, other in zip(less, more) if one is not None)

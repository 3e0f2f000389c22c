"""Which training samples are replaced by reconstructions, decided per sample, epoch and seed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class MixedIn(NamedTuple):
    """The reconstruction that takes the place of an image: 0 is the step without noise."""

    timestep: int
    draw: int


def mixed_in(
    ids: Sequence[str], epoch: int, seed: int, mix: float, noisy: float, timesteps: Sequence[int], draws: int
) -> list[MixedIn | None]:
    """What stands in for each sample in an epoch; None keeps the image.

    P(image) = 1 − mix, P(step 0) = mix·(1 − noisy), and mix·noisy / (steps · draws) for each step of ``timesteps`` with
    each draw. Every sample is decided by a hash of (seed, epoch, id) alone: batch, order, process, workers and resuming
    do not enter, and no random number generator is drawn from. What is mixed in at one ``mix`` is mixed in at every
    larger one too.

    Args:
        ids: B sample ids.
        mix, noisy: in [0, 1]. With ``noisy`` above 0 there is a step.
        draws: at least 1.

    >>> mixed_in(["a", "b", "c", "d"], epoch=0, seed=0, mix=0.5, noisy=1.0, timesteps=[52, 153], draws=4)
    [MixedIn(timestep=153, draw=1), None, MixedIn(timestep=52, draw=2), MixedIn(timestep=153, draw=0)]
    """
    chosen: list[MixedIn | None] = []
    for whether, how, step, draw in _uniform(ids, epoch, seed).tolist():
        if whether >= mix:
            chosen.append(None)
        elif how >= noisy:
            chosen.append(MixedIn(0, 0))
        else:
            chosen.append(MixedIn(timesteps[int(step * len(timesteps))], int(draw * draws)))
    return chosen


def _uniform(ids: Sequence[str], epoch: int, seed: int) -> NDArray[np.float64]:
    """(B, 4) in [0, 1), each with all 53 bits of a float64."""
    digests = [
        hashlib.blake2b(f"{seed}\x1f{epoch}\x1f{name}".encode(), digest_size=32, person=b"mixing").digest()
        for name in ids
    ]
    integers = np.frombuffer(b"".join(digests), dtype="<u8") >> 11
    return integers.astype(np.float64).reshape(-1, 4) * 2.0**-53

"""Learning-rate factors over the steps of a training."""

from __future__ import annotations

import math
from collections.abc import Callable


def warmup_cosine(steps: int, warmup_fraction: float, decay: bool = True) -> Callable[[int], float]:
    """Factor of the learning rate at a step: a linear rise, then half a cosine to zero, or constant without decay.

    >>> factor = warmup_cosine(100, 0.1)
    >>> [round(factor(step), 2) for step in (0, 9, 55, 100)]
    [0.1, 1.0, 0.5, 0.0]
    """
    warmup = int(steps * warmup_fraction)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if not decay:
            return 1.0
        progress = min(1.0, (step - warmup) / max(1, steps - warmup))
        return 0.5 * (1 + math.cos(math.pi * progress))

    return factor

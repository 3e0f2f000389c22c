"""Which image of a phantom belongs to which patient, and to which split."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from layerscope.data.phantom.shapes import PATIENT


def patients(seed: int) -> Iterator[tuple[int, str]]:
    """Patient number and split of image 0, 1, 2, ...

    Splits follow the multiples of the golden ratio, which fill any interval evenly: the first four patients already
    cover all three splits, and every longer run has them in proportion.
    """
    rng = np.random.default_rng([seed, PATIENT])
    golden = (math.sqrt(5) - 1) / 2
    patient = 0
    while True:
        share = patient * golden % 1
        split = "train" if share < 0.60 else "val" if share < 0.75 else "test"
        for _ in range(int(rng.integers(1, 4))):
            yield patient, split
        patient += 1

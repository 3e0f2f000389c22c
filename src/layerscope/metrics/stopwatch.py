"""Seconds that a part of a model takes for an image."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

import torch


class Stopwatch:
    """Measures one call in every batch, from an idle device to an idle device: it waits twice for each call.

    The first batch pays for what happens once (memory, choice of kernels) and counts only where it is the only one.

    >>> watch = Stopwatch(torch.device("cpu"))
    >>> for _ in range(3):
    ...     with watch.timing(images=4):
    ...         total = torch.rand(8).sum()
    >>> watch.timed_images, watch.seconds_per_image > 0
    (8, True)
    """

    def __init__(self, device: torch.device) -> None:
        self._wait = torch.get_device_module(device).synchronize
        self._batches: list[tuple[int, float]] = []

    @contextmanager
    def timing(self, images: int) -> Iterator[None]:
        """Around a call for so many images, at least one."""
        self._wait()
        start = time.perf_counter()
        yield
        self._wait()
        self._batches.append((images, time.perf_counter() - start))

    @property
    def seconds_per_image(self) -> float:
        """Median over batches of seconds by images; NaN before the first."""
        return median([seconds / images for images, seconds in self._counted] or [math.nan])

    @property
    def timed_images(self) -> int:
        """Images behind ``seconds_per_image``."""
        return sum(images for images, _ in self._counted)

    @property
    def _counted(self) -> list[tuple[int, float]]:
        return self._batches[1:] or self._batches

"""Where runs may work at the same time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Slot:
    """A place for one run at a time.

    device: what CUDA_VISIBLE_DEVICES names for it; None leaves that as it is.
    threads: of PyTorch and NumPy, where the user has set no OMP_NUM_THREADS; None for their default.
    """

    device: str | None = None
    threads: int | None = None

    def environment(self) -> dict[str, str]:
        """What the slot adds to the environment of its runs."""
        added = {} if self.device is None else {"CUDA_VISIBLE_DEVICES": self.device}
        if self.threads is not None and "OMP_NUM_THREADS" not in os.environ:
            added["OMP_NUM_THREADS"] = str(self.threads)
        return added


def slots_for(jobs: int | None, devices: Sequence[int] = ()) -> list[Slot]:
    """``jobs`` slots (default: one per device, else one) that take turns with the devices and share the cores.

    devices: numbers as PyTorch counts them, thus among those that CUDA_VISIBLE_DEVICES names already.
    """
    number = jobs or len(devices) or 1
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [visible.split(",")[device].strip() if visible else str(device) for device in devices]
    threads = max(1, _cores() // number) if number > 1 else None
    return [Slot(names[one % len(names)] if names else None, threads) for one in range(number)]


def _cores() -> int:
    """That this process may use, which in a container or a batch job can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

"""How callbacks hand their share of a result to the one that writes the run directory."""

from __future__ import annotations

import platform
from typing import Any, Protocol, runtime_checkable

import torch
from lightning.pytorch import Trainer

from layerscope.artifacts import Stage, package_versions
from layerscope.data.labelled import labelled_data


@runtime_checkable
class ResultPart(Protocol):
    """A callback with files of its own: they appear together with the tables, or not at all."""

    def write_results(self, stage: Stage) -> None:
        """Called on rank zero at the end of the test loop."""


def write_parts(trainer: Trainer, stage: Stage) -> None:
    """Lets every callback that has results write them."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, ResultPart):
            callback.write_results(stage)


def provenance(trainer: Trainer, split: str) -> dict[str, Any]:
    """What every summary says about where its figures come from."""
    data = labelled_data(trainer)
    return {
        "versions": package_versions(),
        "python": platform.python_version(),
        "seed_everything": _seed(),
        "device": _device_name(trainer),
        "precision": str(trainer.precision),
        "processes": trainer.world_size,
        "split": split,
        "data_hash": data.data_hash(split),
        "labels": list(data.labels.names),
    }


def threshold_caveats(data: Any, fitted_on: str) -> list[dict[str, str]]:
    """What to hold against figures at a threshold that was fitted on the evaluated images themselves.

    fitted_on: hash of the data behind the threshold.
    """
    if data.data_hash(data.eval_split) != fitted_on:
        return []
    reason = (
        "the thresholds were fitted on the originals of these very images, so F1 and flips at them favour the "
        "original; AUROC, AP and the verdict do not depend on thresholds"
    )
    return [{"what": "F1 and flips on images apart from the threshold's", "reason": reason}]


def _seed() -> int | None:
    import os

    seed = os.environ.get("PL_GLOBAL_SEED")
    return int(seed) if seed is not None else None


def _device_name(trainer: Trainer) -> str:
    device = trainer.strategy.root_device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} ({platform.machine()})"

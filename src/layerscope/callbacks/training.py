"""What a finished training leaves besides checkpoints: its summary, and the teacher in a format of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info

from layerscope.artifacts import Headline
from layerscope.callbacks.results import provenance
from layerscope.callbacks.run_folder import run_folder


@runtime_checkable
class DescribedTraining(Protocol):
    """A task that has more to say in the summary of its training."""

    def describe(self) -> dict[str, Any]:
        """Entries of the summary; plain values."""


class TrainingSummary(Callback):
    """Marks a training as finished with ``summary.json`` and ``config_used.yaml``."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero or trainer.interrupted:
            return
        folder = run_folder(trainer)
        assert folder.directory is not None
        checkpoint = _chosen_by(trainer)
        with folder.directory.staged() as stage:
            stage.write_text("config_used.yaml", folder.config_yaml)
            stage.write_json(
                "summary.json",
                {
                    "task": type(pl_module).__name__,
                    "experiment_name": folder.directory.path.name,
                    "headline": _headline(trainer),
                    "epochs": trainer.current_epoch,
                    "steps": trainer.global_step,
                    "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
                    "best_checkpoint": getattr(checkpoint, "best_model_path", "") or None,
                    "best_score": float(checkpoint.best_model_score)
                    if getattr(checkpoint, "best_model_score", None) is not None
                    else None,
                    **(pl_module.describe() if isinstance(pl_module, DescribedTraining) else {}),
                    **provenance(trainer, "train"),
                },
            )

        print(f"\nResults: {folder.directory.path}")
        if best := getattr(checkpoint, "best_model_path", ""):
            score = checkpoint.best_model_score
            reached = "" if score is None else f" ({checkpoint.monitor} {float(score):.3f})"
            print(f"Best checkpoint: {best}{reached}")


def _chosen_by(trainer: Trainer) -> Any:
    """The first checkpoint callback that monitors something; where none does, the first."""
    callbacks: list[Any] = trainer.checkpoint_callbacks
    monitoring = [callback for callback in callbacks if getattr(callback, "monitor", None) is not None]
    return next(iter([*monitoring, *callbacks]), None)


def _headline(trainer: Trainer) -> Headline:
    """What the best checkpoint was chosen by; the last logged loss where nothing was, of validation if there is one."""
    checkpoint = _chosen_by(trainer)
    monitor, score = (getattr(checkpoint, name, None) for name in ("monitor", "best_model_score"))
    if monitor is not None and score is not None:
        return Headline(monitor, float(score))
    losses = [name for name in ("val/loss", "train/loss") if name in trainer.callback_metrics]
    return Headline(losses[0], float(trainer.callback_metrics[losses[0]])) if losses else Headline("train/loss")


class SaveTeacher(Callback):
    """Saves the task's teacher as safetensors when training ends.

    Args:
        name: file inside the run directory.
    """

    def __init__(self, name: str = "teacher.safetensors") -> None:
        self.name = name

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero or trainer.interrupted:
            return
        folder = run_folder(trainer)
        assert folder.directory is not None
        path = Path(folder.directory.path) / self.name
        task: Any = pl_module
        task.teacher.save(path)
        rank_zero_info(f"Saved the teacher to {path}")

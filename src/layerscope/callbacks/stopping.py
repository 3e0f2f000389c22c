"""A training that is told to stop saves first."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, WeightAveraging

from layerscope.callbacks.signals import NotedSignals


class TrainingStopped(SystemExit):
    """A training ended on a signal after saving; ``code`` is the exit status: 130 for Ctrl-C, 143 for SIGTERM."""


class SaveOnSignal(Checkpoint):
    """On Ctrl-C or SIGTERM finishes the step under way, saves ``last.ckpt`` and ends with status 130 or 143.

    ``--ckpt_path last`` goes on from there, to the same weights as if the training had never stopped. A second signal
    ends the processes at once; checkpoints are written whole, so the latest one stays good.

    Where the training stops:

    - after the batch, where gradients are accumulated after the optimizer's step;
    - before a validation that is due, or within it: the checkpoint says that the validation is still to come, and
      resuming begins with it, from its first image. Several processes cannot agree within a validation, where each may
      have another number of batches, so they finish one that has begun;
    - at the end of the epoch, if the batch was its last and no validation is due;
    - not at all after the training's last step: what is left (the epoch's end, the export) is finished.

    Several processes decide together, so that one of them may be signalled: an all-reduce of one number after each
    batch, beside the broadcast that Lightning makes there.

    The command line adds it. It is a ``Checkpoint`` so that Lightning keeps it behind the other callbacks, weight
    averaging included: it must be the last of the trainer's list.
    """

    def __init__(self) -> None:
        self._signals: NotedSignals | None = None
        self._validation_is_due = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        validation = trainer.fit_loop.epoch_loop.val_loop
        if validation.restarted_mid_evaluation:
            # Resumed from a checkpoint of ours. The totals have told so, and count this epoch's validation from here.
            validation.batch_progress.total.reset()

        def tell(number: int) -> None:
            if trainer.is_global_zero:
                told = "The step under way is finished, then the training is saved; a second signal ends it at once."
                print(f"\n{_name(number)}: {told}", file=sys.stderr, flush=True)

        def end(number: int) -> None:
            if trainer.strategy.launcher is not None:
                trainer.strategy.launcher.kill(signal.SIGKILL)
            os._exit(128 + number)

        self._signals = NotedSignals(tell, end)
        self._signals.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Lightning resumes behind a batch without what was to follow it: that must be saved at its own time.
        if not trainer.is_last_batch and not _validation_follows(trainer) and (number := self._told(trainer)):
            self._save_and_stop(trainer, number)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking and (number := self._told(trainer)):
            self._save_and_stop(trainer, number, validation_is_due=True)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if trainer.sanity_checking or trainer.world_size > 1 or not (number := self._told(trainer)):
            return
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, WeightAveraging):
                # It put the averaged weights in the model's place for the validation.
                callback.on_validation_epoch_end(trainer, pl_module)
        self._save_and_stop(trainer, number, validation_is_due=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking and not _epoch_is_last(trainer) and (number := self._told(trainer)):
            self._save_and_stop(trainer, number)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not _epoch_is_last(trainer) and (number := self._told(trainer)):
            self._save_and_stop(trainer, number)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._validation_is_due:
            # Lightning's sign of a validation interrupted in its first batch.
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
            none = {"ready": 0, "started": 0, "processed": 0, "completed": 0}
            progress |= {"current": none, "total": none | {"ready": 1, "started": 1}, "is_last_batch": False}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._give_back()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._give_back()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._give_back()

    def _give_back(self) -> None:
        if self._signals is not None:
            self._signals.stop()
            self._signals = None

    def _told(self, trainer: Trainer) -> int:
        """The signal that any process received, 0 for none or where it must wait; a collective operation."""
        number = 0 if self._signals is None else self._signals.received
        if trainer.world_size > 1:
            mine = torch.tensor(number, device=trainer.strategy.root_device)
            number = int(trainer.strategy.reduce(mine, reduce_op="max"))
        return 0 if _is_over(trainer) or _accumulates(trainer) else number

    def _save_and_stop(self, trainer: Trainer, number: int, validation_is_due: bool = False) -> NoReturn:
        folder, found_as_last = _checkpoint_folder(trainer)
        path = folder / "last.ckpt"
        self._validation_is_due = validation_is_due
        trainer.save_checkpoint(path, weights_only=False)
        if trainer.is_global_zero:
            print(
                f"\nStopped by {_name(number)} after step {trainer.global_step}. Everything is saved in {path}; go on "
                f"with the same command and --ckpt_path {'last' if found_as_last else path}",
                file=sys.stderr,
                flush=True,
            )
        raise TrainingStopped(0 if _is_started_by_lightning(trainer) else 128 + number)


def _name(number: int) -> str:
    return "Ctrl-C" if number == signal.SIGINT else "SIGTERM"


def _validation_follows(trainer: Trainer) -> bool:
    loop: Any = trainer.fit_loop
    return bool(loop.epoch_loop._should_check_val_fx(loop._data_fetcher))


def _accumulates(trainer: Trainer) -> bool:
    """Whether gradients wait for the optimizer's step; they are in no checkpoint."""
    return not trainer.is_last_batch and (trainer.fit_loop.batch_idx + 1) % trainer.accumulate_grad_batches != 0


def _is_over(trainer: Trainer) -> bool:
    """Whether no step will follow, so that Lightning would resume behind everything that is still to do."""
    steps_done = trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps
    return steps_done or (trainer.should_stop and trainer.fit_loop._can_stop_early)


def _epoch_is_last(trainer: Trainer) -> bool:
    """Whether the training is over when this epoch ends, and the epoch's batches are done."""
    epochs = trainer.max_epochs
    return trainer.is_last_batch and epochs not in (None, -1) and trainer.current_epoch + 1 >= epochs


def _checkpoint_folder(trainer: Trainer) -> tuple[Path, bool]:
    """Where ``--ckpt_path last`` looks, and whether it does look there."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is not None:
            return Path(callback.dirpath), True
    return Path(trainer.default_root_dir) / "checkpoints", False


def _is_started_by_lightning(trainer: Trainer) -> bool:
    """Whether another process started this one: it kills all when one of them ends with another status than 0."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    return isinstance(environment, LightningEnvironment) and environment.local_rank() > 0

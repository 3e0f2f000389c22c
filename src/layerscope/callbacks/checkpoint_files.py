"""Checkpoint files that are whole at every moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from layerscope.artifacts import PARTIAL_SUFFIX, whole_file


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and puts it there in one step, when all of it is on the disk.

    Whenever the process or the machine stops, the place holds the old file or the new one. (Lightning stages files in
    TMPDIR; where that is another file system, the last move is a copy, which can be cut off.) Nothing is held twice in
    memory. What a killed process left beside the place is removed when the next one first writes there. Other than
    local paths are written in Lightning's way, and all are read in it.

    The command line uses it unless the configuration brings a ``CheckpointIO`` of its own.
    """

    def __init__(self) -> None:
        self._tidied: set[Path] = set()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Raises ArtifactError where the disk is full or not writable."""
        system, local = url_to_fs(str(path))
        if not isinstance(system, LocalFileSystem) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(local)
        self._tidy(target.parent)
        with whole_file(target) as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:
                # torch's writer closes its archive after a failed write, and complains of that instead.
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from error
                raise

    def _tidy(self, folder: Path) -> None:
        if folder not in self._tidied:
            self._tidied.add(folder)
            for left in folder.glob(f".*{PARTIAL_SUFFIX}"):
                left.unlink(missing_ok=True)


def tell_if_no_last_checkpoint(trainer: Trainer) -> None:
    """Says that ``--ckpt_path last`` begins a training: jobs that are requeued pass it the first time too."""
    callbacks = [one for one in trainer.checkpoint_callbacks if isinstance(one, ModelCheckpoint)]
    if any(callback._find_last_checkpoints(trainer) for callback in callbacks):
        return
    folder = Path(trainer.default_root_dir) / "checkpoints"
    others = sorted(path.name for path in folder.glob("*.ckpt"))
    print(
        f"--ckpt_path last: there is no last checkpoint in {folder} yet, so the training starts from the beginning."
        + (f" To go on from {', '.join(others)} there, give --ckpt_path its path." if others else "")
    )

"""A hidden folder in the run directory that all processes write to while a task runs."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from layerscope.callbacks.run_folder import run_folder


class StagingFolder:
    """Made by rank zero; the constructor is a collective operation, so all processes must come along.

    What a killed run leaves of it is cleared away when the run directory is claimed again.

    Args:
        trainer: of a running task with a run directory.
        what: part of the folder's name.

    Attributes:
        path: the folder; on a node without a shared disk one of the same name of its own.
    """

    def __init__(self, trainer: Trainer, what: str) -> None:
        place = ""
        if trainer.is_global_zero:
            directory = run_folder(trainer).directory
            assert directory is not None
            # With the prefix by which the run directory knows what a killed run leaves.
            place = tempfile.mkdtemp(prefix=f".staging-{what}-", dir=directory.path)
        self.path = Path(trainer.strategy.broadcast(place))
        # Whoever made it takes it away: the others are through while the first still draws.
        self._is_owner = trainer.is_global_zero or not self.path.exists()
        self.path.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def written(self) -> Iterator[None]:
        """Around writing a file: passes over one that cannot be written because the first process cleared the folder.

        It failed then, ends this process too, and has told why. Folders must be made without their parents.
        """
        try:
            yield
        except FileNotFoundError:
            if self._is_owner or self.path.exists():
                raise

    def clear(self) -> None:
        """Removes it, on the process that made it; renamed before, so that no other puts a file in meanwhile."""
        if self._is_owner:
            gone = self.path.with_name(f"{self.path.name}-gone")
            with suppress(OSError):
                self.path.rename(gone)
            for path in (gone, self.path):
                shutil.rmtree(path, ignore_errors=True)


class StagingCallback(Callback):
    """A callback that keeps a ``StagingFolder`` while a test runs; it is gone afterwards, however the test ends."""

    _folder: StagingFolder | None = None

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._clear()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Lightning calls no ``teardown`` when a step, a callback or a dataloader raises."""
        self._clear()

    def _clear(self) -> None:
        if self._folder is not None:
            self._folder.clear()
        self._folder = None

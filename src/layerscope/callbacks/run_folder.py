"""Where a run's results go."""

from __future__ import annotations

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback

from layerscope.artifacts import RunDirectory
from layerscope.errors import ConfigurationError


class RunFolder(Callback):
    """Carries the claimed run directory and the resolved configuration to the callbacks that write results.

    The command line adds it. From Python: ``RunFolder(open_run_directory("outputs/mine"))``.

    Args:
        directory: the claimed directory on rank zero, None on the other ranks.
        config_yaml: the full configuration as YAML, for ``config_used.yaml``.
    """

    def __init__(self, directory: RunDirectory | None, config_yaml: str = "") -> None:
        self.directory = directory
        self.config_yaml = config_yaml


def run_folder(trainer: Trainer) -> RunFolder:
    """The trainer's RunFolder with a directory; call it on rank zero."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, RunFolder) and callback.directory is not None:
            return callback
    raise ConfigurationError(
        "No run directory: add layerscope.callbacks.run_folder.RunFolder(open_run_directory(PATH)) to the trainer's "
        "callbacks (the command line does so by itself; fast_dev_run writes nothing)."
    )

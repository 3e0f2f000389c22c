"""What a VAE's training leaves when it ends: the trained autoencoder as a diffusers folder, measured."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, cast, runtime_checkable

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, WeightAveraging
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.utils.data import DataLoader

from layerscope.callbacks.detached_copy import detached_copy
from layerscope.callbacks.run_folder import run_folder
from layerscope.callbacks.vae_export import ExportableAutoencoder, check_export_folder, export_autoencoder
from layerscope.data.images_to_measure import images_to_measure
from layerscope.errors import ConfigurationError, DataError
from layerscope.functional.latent_scaling import LatentMoments
from layerscope.metrics.latent_statistics import latent_statistics
from layerscope.report.model_card import export_lines
from layerscope.types import AutoencoderRecord

T = TypeVar("T")

MEASURED_AT_ONCE = 4
"""Images encoded together: training may see crops, and here they are whole."""


@runtime_checkable
class TrainsAutoencoder(Protocol):
    """A task whose ``autoencoder`` can be exported, as ``AutoencoderTraining``."""

    def autoencoder_record(self) -> AutoencoderRecord | None:
        """What its checkpoints say of the autoencoder."""


class FinalExport(Callback):
    """Writes the trained autoencoder to ``RUN/<name>`` at the end of ``fit``, as ``layerscope export`` would.

    The weights are the averaged ones where a ``WeightAveraging`` callback updated them at least once, in float32. The
    latents are measured over training images of one size before the first step and at the end: for the scaling
    factors where the encoder was trained, and for the drift. What cannot be measured stands in ``not_measured`` of
    export.json with its reason; it never costs the weights, which are written before anything is measured.

    Rank zero measures and writes, on its device, while the others wait. Training is not touched: a copy is measured,
    and no random number is drawn. A training that was interrupted writes nothing; a resumed one has the figures of its
    start from the checkpoint. Weights that a strategy shards over processes (FSDP) are left to ``layerscope export``.

    Args:
        images: at most how many training images to measure on, chosen by a hash of their ids.
        name: the folder inside the run directory.
    """

    def __init__(self, images: int = 256, name: str = "vae_final") -> None:
        if images < 1:
            raise ConfigurationError(f"FinalExport.images is {images}: expected at least 1.")
        if Path(name).name != name or name in ("", ".", ".."):
            raise ConfigurationError(f"FinalExport.name is {name!r}: expected a plain folder name without slashes.")
        self.images = images
        self.name = name
        self._start: LatentMoments | str | None = None
        self._unaveraged: nn.Module | None = None

    @property
    def state_key(self) -> str:
        return self._generate_state_key(name=self.name)

    def state_dict(self) -> dict[str, Any]:
        """The moments of the start, or why there are none; plain types."""
        return {"start": asdict(self._start) if isinstance(self._start, LatentMoments) else self._start}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        start = state_dict["start"]
        self._start = LatentMoments(**start) if isinstance(start, dict) else start

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self._start = self._unaveraged = None
            if _writes(trainer):
                run_folder(trainer)  # raises now, and not when the training is over

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._start is not None:  # from a checkpoint
            return
        if trainer.global_step > 0:
            self._start = "the training went on from an earlier one and has no figures of its start"
        elif _writes(trainer) and why_not(trainer, pl_module) is None:
            place, autoencoder = trainer.strategy.root_device, cast(nn.Module, pl_module.autoencoder)
            self._start = _or_reason(
                lambda: latent_statistics(detached_copy(autoencoder).to(place), self._batches(trainer))
            )
            if isinstance(self._start, str):
                rank_zero_warn(f"{self.name} will lack figures of the latents unless this changes: {self._start}")
        trainer.strategy.barrier()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # When training ends, Lightning replaces the weights by an average that was never updated: the starting weights.
        averaging = _averaging(trainer)
        if averaging is None or _updates(averaging) or not _writes(trainer) or why_not(trainer, pl_module) is not None:
            return
        self._unaveraged = detached_copy(cast(nn.Module, pl_module.autoencoder)).cpu()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.interrupted:
            return
        try:
            if _writes(trainer):
                self._write(trainer, pl_module)
        finally:
            trainer.strategy.barrier()

    def _write(self, trainer: Trainer, pl_module: LightningModule) -> None:
        directory = run_folder(trainer).directory
        assert directory is not None
        if (reason := why_not(trainer, pl_module)) is not None:
            print(f"No {self.name} was written: {reason}")
            return
        task: Any = pl_module
        path = _free(directory.path / self.name)
        trained, weights = self._trained(trainer, task)

        def export(images: Iterator[Tensor] | str, place: Any = "cpu") -> dict[str, Any]:
            start = self._start or "no step was made"
            autoencoder = detached_copy(trained).to(place)
            return export_autoencoder(autoencoder, path, task.autoencoder_record(), weights, images, start, True)

        # First of all the weights: whatever happens while they are measured, a full memory included, they are there.
        export("the process ended before it was measured")
        measured = _or_reason(lambda: export(self._batches(trainer), trainer.strategy.root_device))
        exported = export(measured) if isinstance(measured, str) else measured
        lines = [f"weights after step {trainer.global_step}{_other_best(trainer)}", *export_lines(exported)]
        print("\n".join([f"\n{path}:", *(f"  {line}" for line in lines)]))

    def _trained(self, trainer: Trainer, task: Any) -> tuple[nn.Module, Literal["averaged", "current"]]:
        averaging = _averaging(trainer)
        if averaging is not None and _updates(averaging):
            return _average(averaging).module.autoencoder, "averaged"
        return task.autoencoder if self._unaveraged is None else self._unaveraged, "current"

    def _batches(self, trainer: Trainer) -> Iterator[Tensor]:
        loader: Any = trainer.train_dataloader
        if not isinstance(loader, DataLoader) or not hasattr(loader.dataset, "ids"):
            raise DataError(
                "the images to measure on are chosen by their ids, and the training data is no single DataLoader over "
                "a data set with ids (layerscope.data.folder.ImageFolder has them)"
            )
        for batch in images_to_measure(loader, self.images):
            yield from batch["image"].split(MEASURED_AT_ONCE)


def why_not(trainer: Trainer, pl_module: LightningModule) -> str | None:
    """Why the task's autoencoder cannot be exported; None if it can."""
    autoencoder = getattr(pl_module, "autoencoder", None)
    if not isinstance(autoencoder, ExportableAutoencoder):
        return (
            f"{type(autoencoder).__name__} has no config, update_config and save, as "
            "layerscope.models.autoencoders.DiffusersAutoencoder has them. Its weights are in the checkpoints."
        )
    if not isinstance(pl_module, TrainsAutoencoder) or pl_module.autoencoder_record() is None:
        return f"{type(pl_module).__name__} has no autoencoder_record. The weights are in the checkpoints."
    if trainer.strategy.restore_checkpoint_after_setup:
        return (
            f"{type(trainer.strategy).__name__} shards the weights over the processes. Export a checkpoint with "
            "`layerscope export`."
        )
    return None


def _other_best(trainer: Trainer) -> str:
    """A word on a checkpoint that a callback holds for better."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor and callback.best_model_path:
            best, score = callback.best_model_path, callback.best_model_score
            of = "" if score is None else f" ({callback.monitor} {float(score):.4g})"
            return f"; the best checkpoint{of} is {best}: `layerscope export {best} OUT` makes a folder of it"
    return ""


def _or_reason(measure: Callable[[], T]) -> T | str:
    """What ``measure`` gives; or, when it fails in whatever way, why, for not_measured. Draws no random numbers."""
    with isolate_rng():
        try:
            return measure()
        except Exception as error:  # a full memory, a broken image: nothing of it may cost the training
            return f"measuring failed with {type(error).__name__}: {error}"


def _writes(trainer: Trainer) -> bool:
    return bool(trainer.is_global_zero and not trainer.fast_dev_run)  # type: ignore[attr-defined]


def _averaging(trainer: Trainer) -> WeightAveraging | None:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, WeightAveraging)), None)


def _average(averaging: WeightAveraging) -> Any:
    # Lightning has no public name for it, and its own weights depend on whether on_train_end was called.
    return averaging._average_model


def _updates(averaging: WeightAveraging) -> int:
    return int(_average(averaging).n_averaged)


def _free(path: Path) -> Path:
    """``path``, or, where it holds other files than an export's, ``path``_2 and so on: these are left alone."""
    for number in itertools.count(2):
        try:
            check_export_folder(path, overwrite=True)
            return path
        except ConfigurationError:
            path = path.with_name(f"{path.name.removesuffix(f'_{number - 1}')}_{number}")
    raise AssertionError("unreachable")

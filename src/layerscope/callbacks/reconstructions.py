"""Pictures of the same validation images as training goes on."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from PIL import Image

from layerscope.callbacks.gather import gather_objects
from layerscope.callbacks.run_folder import RunFolder, run_folder
from layerscope.errors import ConfigurationError
from layerscope.functional.controls import to_uint8
from layerscope.functional.reconstruction import psnr
from layerscope.report.figure_style import png
from layerscope.report.figures_reconstruction import PicturedSample, latent_figure, reconstruction_figure
from layerscope.types import ReconstructionOutput


class ReconstructionPictures(Callback):
    """Draws ``reconstructions/recon_epoch_<n>.png`` and ``latents_epoch_<n>.png`` from what validation saw.

    n counts finished epochs. The files come with the first validation at or after each multiple of
    ``every_n_epochs``, so also where validation is not done every epoch; a validation before training
    (``trainer.validate`` without a checkpoint) gives n = 0. The sanity check and ``fast_dev_run`` draw nothing.

    The images are those whose ids have the smallest SHA-256: like a random choice from the whole split, but the same
    in every run, order, batch size and number of processes, and nearly the same when images are added. Only they are
    held, as 8-bit images on the CPU, until they are drawn. TensorBoard gets the same pictures as ``reconstructions``
    and ``latents``, with n as their step.

    Args:
        every_n_epochs: how often.
        images: how many, 1 to 32.
        amplify: how many times the difference is enlarged: its colours end at ±255 / amplify 8-bit levels. It stays
            the same through training, so that epochs can be compared.
    """

    def __init__(self, every_n_epochs: int = 10, images: int = 8, amplify: float = 8.0) -> None:
        if every_n_epochs < 1 or not 1 <= images <= 32 or not amplify > 0:
            raise ConfigurationError(
                f"ReconstructionPictures got every_n_epochs={every_n_epochs}, images={images}, amplify={amplify}: "
                "expected every_n_epochs of at least 1, 1 to 32 images and a positive amplify."
            )
        self.every_n_epochs = every_n_epochs
        self.images = images
        self.amplify = amplify
        self._last = 0
        self._draws = False
        self._kept: dict[str, PicturedSample] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"last": self._last}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._last = state_dict["last"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            run_folder(trainer)  # a missing run directory is an error now, not after ten epochs

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._kept = {}
        self._draws = self._is_due(trainer)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not self._draws:
            return
        if not isinstance(outputs, ReconstructionOutput):
            raise ConfigurationError(
                f"ReconstructionPictures draws what validation_step returns, and {type(pl_module).__name__} returned "
                f"{type(outputs).__name__}. Return a layerscope.types.ReconstructionOutput, or take the callback out."
            )
        index = outputs.index.tolist()
        for row, identifier in enumerate(outputs.id):
            key = hashlib.sha256(identifier.encode("utf-8", "surrogatepass")).hexdigest()
            if index[row] >= 0 and (len(self._kept) < self.images or key < max(self._kept)):
                self._kept[key] = _pictured(outputs, row)
                if len(self._kept) > self.images:
                    del self._kept[max(self._kept)]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Merges the processes' choices, first the keys, then only the winners; rank zero draws."""
        if not self._draws:
            return
        number = _finished_epochs(trainer)
        winners = sorted(key for part in gather_objects(trainer, list(self._kept)) for key in part)[: self.images]
        parts = gather_objects(trainer, {key: self._kept[key] for key in winners if key in self._kept})
        self._kept, self._draws, self._last = {}, False, number
        if trainer.is_global_zero and winners:
            chosen = {key: sample for part in parts for key, sample in part.items()}
            self._write(trainer, [chosen[key] for key in winners], number)

    def _write(self, trainer: Trainer, samples: list[PicturedSample], number: int) -> None:
        figures = {
            "reconstructions": (f"recon_epoch_{number}", reconstruction_figure(samples, number, self.amplify)),
            "latents": (f"latents_epoch_{number}", latent_figure(samples, number)),
        }
        directory = run_folder(trainer).directory
        assert directory is not None
        with directory.staged() as stage:
            for tag, (name, figure) in figures.items():
                picture = png(figure)
                stage.write_bytes(f"reconstructions/{name}.png", picture)
                _log(trainer, tag, picture, number)

    def _is_due(self, trainer: Trainer) -> bool:
        """The same answer on every process."""
        if trainer.sanity_checking or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return False
        number = _finished_epochs(trainer)
        if trainer.state.fn == TrainerFn.FITTING:
            return number == 0 or number // self.every_n_epochs > self._last // self.every_n_epochs
        # Alone, only the untrained state is drawn, and only into a run directory that rank zero knows.
        known = any(isinstance(c, RunFolder) and c.directory is not None for c in trainer.callbacks)  # type: ignore[attr-defined]
        return bool(trainer.strategy.broadcast(known)) and number == 0 and trainer.ckpt_path is None


def _finished_epochs(trainer: Trainer) -> int:
    """Zero before the first step; the running epoch counts as finished, because its validation comes at its end."""
    return trainer.current_epoch + (trainer.state.fn == TrainerFn.FITTING and trainer.global_step > 0)


def _pictured(outputs: ReconstructionOutput, row: int) -> PicturedSample:
    one = slice(row, row + 1)
    original, recon = (to_uint8(x[row]).permute(1, 2, 0).cpu().numpy() for x in (outputs.image, outputs.recon))
    fidelity = float(psnr(outputs.recon[one], outputs.image[one]))
    return PicturedSample(outputs.id[row], original, recon, outputs.mean[row].float().cpu().numpy(), fidelity)


def _log(trainer: Trainer, tag: str, picture: bytes, step: int) -> None:
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))
            logger.experiment.add_image(tag, pixels, step, dataformats="HWC")

"""Reconstructions as image files, and the tables beside them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from layerscope.artifacts import (
    UNFINISHED,
    Headline,
    PictureFormat,
    RunDirectory,
    encode_picture,
    mirrored_file_name,
    open_run_directory,
    read_picture,
    read_summary,
    to_plain,
    write_file,
    write_json_file,
)
from layerscope.callbacks.results import provenance
from layerscope.callbacks.run_folder import RunFolder
from layerscope.data.labelled import labelled_data
from layerscope.errors import ConfigurationError
from layerscope.functional.controls import to_uint8
from layerscope.metrics.table import IndexedTable
from layerscope.report.reconstruction import mean_not_defined
from layerscope.types import ReconstructedBatch

COLUMNS = ("id", "index", "file", "width", "height", "psnr", "ssim")
MARK = "reconstruction.json"
"""What an unfinished directory's images were made with."""


@runtime_checkable
class ReconstructingTask(Protocol):
    """A task whose ``predict_step`` returns ``ReconstructedBatch``."""

    stored: Callable[[str, tuple[int, int]], Tensor | None] | None

    def settings(self) -> dict[str, Any]: ...

    def measured(self) -> dict[str, list[float]]: ...


class ReconstructedFiles(Callback):
    """``images/<id>.<format>`` for every image of the split, ``reconstruction.csv`` and ``summary.json``.

    The folders of an id are kept; an id that could leave the run directory becomes a safe name. Every file is written
    whole, 8 bits a channel, without loss. A predict into the same directory with the same weights, data and settings
    goes on: files that are there and can be read stay, missing ones are written. Tables describe the files, so they do
    not depend on how often a run was interrupted. With anything else in another configuration, or where another result
    stands, the directory is refused. What originals look like inside is not compared, only their ids and sizes.

    The results go to the trainer's ``default_root_dir``, the run directory of the command line. Predictions are not
    returned from ``Trainer.predict``, which would keep all of them in memory.

    Args:
        format: of the files: ``png``, ``webp`` (lossless) or ``tiff`` (deflate).
    """

    def __init__(self, format: PictureFormat = "png") -> None:
        if format not in ("png", "webp", "tiff"):
            raise ConfigurationError(f"format is {format!r}: expected png, webp or tiff, which lose nothing.")
        self.format: PictureFormat = format

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "predict":
            trainer.predict_loop.return_predictions = False

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not isinstance(pl_module, ReconstructingTask):
            raise ConfigurationError(
                "ReconstructedFiles writes what layerscope.tasks.reconstruction.Reconstruction gives, and the model is "
                f"a {type(pl_module).__name__}. Name that task as the model, or remove the callback."
            )
        self._path = Path(trainer.default_root_dir)
        self._directory: RunDirectory | None = None
        refusal: Exception | None = None
        if trainer.is_global_zero:
            try:
                self._claim(trainer, pl_module)
            except Exception as error:
                refusal = error
        # All processes end, not the first alone while the others write.
        refusal = trainer.strategy.broadcast(refusal)
        if refusal is not None:
            raise refusal
        loader: Any = trainer.predict_dataloaders
        self._ids: list[str] = list(loader.dataset.ids)
        columns: dict[str, tuple[int, ...]] = dict.fromkeys(("width", "height", "psnr", "ssim"), ())
        self._table = IndexedTable(len(self._ids), columns).to(pl_module.device)
        self._kept: set[str] = set()
        pl_module.stored = self._stored

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        output = cast(ReconstructedBatch, outputs)
        pictures = to_uint8(output.recon).permute(0, 2, 3, 1).cpu().numpy()
        for name, index, picture in zip(output.id, output.index.tolist(), pictures):
            if index >= 0 and name not in self._kept:  # −1: the stand-in of a process without images
                write_file(self._path / self._file(name), encode_picture(picture, self.format))
        self._kept.clear()
        height, width = output.recon.shape[-2:]
        size = torch.ones_like(output.psnr)
        self._table.update(
            output.index, {"width": size * width, "height": size * height, "psnr": output.psnr, "ssim": output.ssim}
        )

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        table = {name: column.double().cpu().numpy() for name, column in self._table.compute().items()}
        if self._directory is None:
            return
        rows = [
            {
                "id": name,
                "index": index,
                "file": self._file(name),
                "width": int(table["width"][index]),
                "height": int(table["height"][index]),
                "psnr": float(table["psnr"][index]),
                "ssim": float(table["ssim"][index]),
            }
            for index, name in enumerate(self._ids)
        ]
        data: Any = labelled_data(trainer)
        metrics = {name: _over_images(table[name]) for name in ("psnr", "ssim")}
        summary = {
            "headline": Headline("mean psnr", metrics["psnr"]["mean"]),
            "metrics": metrics,
            "counts": {"images": len(rows)},
            "not_measured": mean_not_defined("PSNR", table["psnr"]),
            "reconstruction": self._wanted,
            "latents": cast(ReconstructingTask, pl_module).measured(),
            **provenance(trainer, data.eval_split),
        }
        with self._directory.staged() as stage:
            if configuration := _configuration(trainer):
                stage.write_text("config_used.yaml", configuration)
            stage.write_csv("reconstruction.csv", rows, COLUMNS)
            stage.write_json("summary.json", summary)
        psnr, ssim = (float(table[name].mean()) for name in ("psnr", "ssim"))
        print(f"\nReconstructions: {self._path}  ({len(rows)} images, PSNR {psnr:.2f} dB, SSIM {ssim:.3f})")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        _forget(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Lightning calls no ``teardown`` when a step raises."""
        _forget(pl_module)

    # -- parts ---------------------------------------------------------------------------------------------------

    def _claim(self, trainer: Trainer, task: ReconstructingTask) -> None:
        """Takes the run directory if it is new or holds images of the same configuration."""
        self._wanted = to_plain(self._settings(trainer, task))
        finished = (self._path / "summary.json").exists() and not (self._path / UNFINISHED).exists()
        if finished:
            self._compare(read_summary(self._path).get("reconstruction"), "summary.json")
        elif (self._path / MARK).exists():
            self._compare(_read_json(self._path / MARK), MARK)
        elif (self._path / "images").exists():
            raise ConfigurationError(
                f"{self._path / 'images'} exists, and no {MARK} beside it says what made the images. They are left "
                "alone: choose another --experiment_name, or delete the directory."
            )
        # A finished result of the same configuration is completed where files were deleted, and stays what it was.
        self._directory = open_run_directory(self._path, overwrite=finished)
        write_json_file(self._path / MARK, self._wanted)

    def _settings(self, trainer: Trainer, task: ReconstructingTask) -> dict[str, Any]:
        """All that decides what the files hold; the autoencoder's configuration for what no weight tells, as tiling."""
        data: Any = labelled_data(trainer)
        configuration = yaml.safe_load(_configuration(trainer) or "{}")
        return {
            **task.settings(),
            "autoencoder_configuration": configuration.get("model", {}).get("init_args", {}).get("autoencoder"),
            "split": data.eval_split,
            "data_hash": data.data_hash(data.eval_split),
            **{name: getattr(data, name, None) for name in ("image_size", "center_crop_size", "resize_filter")},
            "precision": str(trainer.precision),
            "format": self.format,
        }

    def _compare(self, there: Any, where: str) -> None:
        if not isinstance(there, dict):
            raise ConfigurationError(
                f"{self._path} holds another result, not reconstructed images ({where} says nothing of them). Choose "
                "another --experiment_name."
            )
        names = [name for name in {**there, **self._wanted} if there.get(name) != self._wanted.get(name)]
        if names:
            told = [f"{name}: {there.get(name)!r} there, {self._wanted.get(name)!r} now" for name in names[:4]]
            differences = "; ".join(told) + (f"; and {len(names) - 4} more" if len(names) > 4 else "")
            raise ConfigurationError(
                f"The images in {self._path} were made otherwise ({differences}; {where}), and a directory holds one "
                "kind. Choose another --experiment_name, set these back to go on there, or delete the directory."
            )

    def _file(self, name: str) -> str:
        return f"images/{mirrored_file_name(name, f'.{self.format}')}"

    def _stored(self, name: str, size: tuple[int, int]) -> Tensor | None:
        """uint8 (3, H, W) of a file that is there; None where it is missing or damaged, and will be written again."""
        pixels = read_picture(self._path / self._file(name), self.format)
        if pixels is None or pixels.shape[:2] != size:
            return None
        self._kept.add(name)
        return torch.from_numpy(pixels).permute(2, 0, 1)


def _forget(pl_module: LightningModule) -> None:
    if isinstance(pl_module, ReconstructingTask):
        pl_module.stored = None


def _configuration(trainer: Trainer) -> str:
    """The resolved configuration of the command line; empty from Python."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback.config_yaml for callback in callbacks if isinstance(callback, RunFolder)), "")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"{path} cannot be read ({error}), so whether the images beside it were made the same way is not known. "
            "Choose another --experiment_name, or delete the directory."
        ) from error


def _over_images(values: np.ndarray) -> dict[str, Any]:
    """Mean of the figures of single images and their standard deviation; null where not finite or of one image."""
    finite = bool(np.isfinite(values).all())
    return {
        "mean": float(values.mean()) if finite else None,
        "std": float(values.std(ddof=1)) if finite and len(values) > 1 else None,
    }

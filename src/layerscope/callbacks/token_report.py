"""Writes the run directory of a token diagnosis: files of each image as they come, tables and figures at the end."""

from __future__ import annotations

import textwrap
from typing import Any, cast

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from layerscope.artifacts.tables import AGGREGATE_COLUMNS, TOKEN_COLUMNS
from layerscope.callbacks.results import provenance, write_parts
from layerscope.callbacks.run_folder import run_folder
from layerscope.callbacks.staging_folder import StagingCallback, StagingFolder
from layerscope.callbacks.tensorboard import log_result
from layerscope.callbacks.token_files import TokenArrays, without_files, write_image_files
from layerscope.callbacks.token_table import TokenTable
from layerscope.data.hashing import weights_hash
from layerscope.errors import ConfigurationError
from layerscope.report.figure_style import png
from layerscope.report.sentences import joined
from layerscope.report.token_curves import layer_curves_figure
from layerscope.report.token_rows import aggregate_rows, image_rows, token_summary
from layerscope.report.token_sentences import token_sentences
from layerscope.report.token_statistics import TokenSettings, analyse_tokens
from layerscope.report.token_style import TokenPictures
from layerscope.report.token_table import token_table
from layerscope.types import TokenOutput

_NEEDED = ("labels", "evaluated_groups", "data_hash", "describe", "eval_split")
"""What the summary reads of a datamodule."""


class TokenReport(StagingCallback):
    """``similarities.npz`` and pictures of each image, ``images.csv``, ``aggregate.csv``, ``summary.json``.

    The files of an image are written when its batch is through, on the process that saw it, into a hidden folder of the
    run directory, and appear with the summary. In memory stay a few figures an image and layer.

    Args:
        visualization: which figures of single images are drawn, and how.
        output: which arrays are written.
        level: confidence level of every interval. n_bootstrap: resamples behind them. seed: of the resampling.
    """

    def __init__(
        self,
        visualization: TokenPictures | None = None,
        output: TokenArrays | None = None,
        level: float = 0.95,
        n_bootstrap: int = 1000,
        seed: int = 0,
    ) -> None:
        self.visualization = visualization or TokenPictures()
        self.output = output or TokenArrays()
        self.settings = TokenSettings(level, n_bootstrap, seed)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._ids = _image_ids(trainer)
        self._table = TokenTable(self._ids, pl_module.device)
        self._folder = StagingFolder(trainer, "tokens")

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        output = cast(TokenOutput, outputs)
        self._table.update(output)
        assert self._folder is not None
        for place, row in enumerate(output.index.tolist()):
            if row >= 0:
                with self._folder.written():
                    write_image_files(self._folder.path, output, place, len(self._ids), self.visualization, self.output)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Brings the processes' shares together."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self.scores = self._table.scores(trainer, data.evaluated_groups())

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        rank_zero_info("Computing intervals and drawing.")
        analysis = analyse_tokens(self.scores, self.settings)
        folder, data, task = run_folder(trainer), cast(Any, trainer).datamodule, cast(Any, pl_module)
        assert folder.directory is not None
        assert self._folder is not None
        figures = {"figures/layer_curves.png": layer_curves_figure(analysis)} if len(self._ids) > 1 else {}
        headline, aggregate = token_summary(analysis), list(aggregate_rows(analysis))
        not_written = self._not_written()  # before the files are moved to where they belong
        summary = {
            "task": "token_similarity",
            "experiment_name": folder.directory.path.name,
            **headline,
            "not_measured": [*headline["not_measured"], *not_written],
            "tokens": task.describe(),
            "model_hashes": {
                name: weights_hash(module)
                for name, module in (
                    ("encoder", task.encoder),
                    ("other_encoder", task.other_encoder),
                    ("autoencoder", task.autoencoder),
                )
                if module is not None
            },
            "data": data.describe(),
            **provenance(trainer, data.eval_split),
        }
        with folder.directory.staged() as stage:
            if folder.config_yaml:
                stage.write_text("config.yaml", folder.config_yaml)
            stage.adopt(self._folder.path)
            stage.write_csv("images.csv", image_rows(self.scores), TOKEN_COLUMNS)
            stage.write_csv("aggregate.csv", aggregate, AGGREGATE_COLUMNS)
            for name, figure in figures.items():
                stage.write_bytes(name, png(figure))
            write_parts(trainer, stage)
            stage.write_json("summary.json", summary)
        log_result(trainer, figures, _scalars(aggregate))
        for sentence in ["", *token_sentences(analysis), ""]:
            print(textwrap.fill(sentence, width=100))
        print(token_table(analysis))
        for row in not_written:
            print(f"Without {row['what']}: {row['reason']}.")
        print(f"\nResults: {folder.directory.path}")

    def _not_written(self) -> list[dict[str, str]]:
        """What single images lack."""
        found = []
        images, drawn = len(self._ids), self.visualization.limit
        if images > drawn:
            reason = f"only the first {drawn} are drawn" if drawn else "none are to be drawn"
            what = f"pictures of {images - drawn} of {images} images"
            found.append({"what": what, "reason": f"{reason} (visualization.limit)"})
        assert self._folder is not None
        skipped = {name for name, _ in self.scores.skipped}
        expected = [name for name in self._ids if name not in skipped]
        if self.output.save_similarities and (absent := without_files(self._folder.path, expected, images)):
            found.append(
                {
                    "what": f"files of {len(absent)} of {images} images",
                    "reason": "they were written on another node, whose disk this one does not see, and not kept; "
                    "use an output folder that all nodes share",
                }
            )
        return found


def _image_ids(trainer: Trainer) -> list[str]:
    """The images' ids in the order of the rows.

    Raises:
        ConfigurationError: the datamodule lacks something that the results need, before any image is seen.
    """
    data: Any = getattr(trainer, "datamodule", None)
    loaders: Any = trainer.test_dataloaders
    dataset = getattr(loaders[0] if isinstance(loaders, list) else loaders, "dataset", None)
    absent = [name for name in _NEEDED if not hasattr(data, name)]
    absent += [] if hasattr(dataset, "ids") else ["a test dataset with ids"]
    if absent:
        raise ConfigurationError(
            "TokenReport needs a datamodule of images that tells labels, evaluated_groups, data_hash "
            "(layerscope.protocols.LabelledData), describe and eval_split, and whose test dataset has ids; "
            f"{type(data).__name__} lacks {joined(absent)}. Use layerscope.data.image_paths.ImagePaths, or give yours "
            "these."
        )
    return list(cast(Any, dataset).ids)


def _scalars(aggregate: list[dict[str, Any]]) -> dict[str, float]:
    """Means over images for TensorBoard, by figure and layer."""
    return {
        f"{row['figure']}/{row['layer']}": float(row["mean"])
        for row in aggregate
        if row["view"] == "image" and row["mean"] is not None
    }

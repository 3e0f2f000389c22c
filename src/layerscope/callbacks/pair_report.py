"""Writes the run directory of a pair diagnosis."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info
from matplotlib.figure import Figure

from layerscope.artifacts import Stage, safe_file_name
from layerscope.artifacts.layer_scores import DIFFERENCES, LOCALISATION, LayerScores
from layerscope.artifacts.tables import LOCALISATION_COLUMNS, PAIR_COLUMNS
from layerscope.callbacks.pair_listener import PairListener, measuring_callback
from layerscope.callbacks.pair_pictures import KeptPair, PairPictures
from layerscope.callbacks.results import provenance, write_parts
from layerscope.callbacks.run_folder import run_folder
from layerscope.callbacks.tensorboard import log_result
from layerscope.data.hashing import weights_hash
from layerscope.data.pairs.records import ONE_PAIR
from layerscope.errors import ConfigurationError
from layerscope.report.attribution import attribute
from layerscope.report.figure_style import png
from layerscope.report.figures_layers import aggregated_figure, localisation_figure, pair_figure
from layerscope.report.heat_maps import HeatMap, heat_map_overlay, heat_map_sheet, reconstruction_figure
from layerscope.report.layer_effects import LayerAnalysis, Method, PairSettings, RankBy, analyse_layers
from layerscope.report.layer_rows import aggregated_json, layer_json, localisation_rows, pair_rows, summary_of
from layerscope.report.layer_table import layer_table
from layerscope.report.pictures import write_png


class PairReport(Callback):
    """Statistics, tables, figures and pictures of layer differences, written when the test loop ends.

    Stands behind ``LayerDifferences``, which measures, and ``PairPictures``, which keeps what pictures need.

    Args:
        method: which differences are drawn, printed and written for each pair: ``l2`` (and its size-free forms),
            ``cosine`` or ``both``. CSV files and ``aggregated_results.json`` always hold all.
        rank_by: what layers are ranked by: ``effect`` (standardised, of relative_l2, against the noise floor) or the
            mean of a size-free metric.
        level: confidence level of every interval.
        n_bootstrap: resamples behind the intervals.
        seed: of the resampling.
    """

    def __init__(
        self,
        method: Method = "both",
        rank_by: RankBy = "effect",
        level: float = 0.95,
        n_bootstrap: int = 1000,
        seed: int = 0,
    ) -> None:
        if method not in get_args(Method):
            raise ConfigurationError(f"method is {method!r}: expected l2, cosine or both.")
        self.method: Method = method
        self.settings = PairSettings(level, n_bootstrap, seed, rank_by)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._measuring = measuring_callback(trainer)
        if trainer.is_global_zero:
            run_folder(trainer)  # a missing run directory is an error now, not after hours of work

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        scores = self._measuring.scores
        rank_zero_info("Computing intervals and drawing.")
        analysis = analyse_layers(scores, self.settings)
        attribution = attribute(analysis)
        folder = run_folder(trainer)
        assert folder.directory is not None
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        task: Any = pl_module
        about = data.describe()
        single = about["layout"] == ONE_PAIR
        figures = {} if single else self._figures(analysis)
        headline = summary_of(analysis, attribution)
        summary = {
            "task": "layer_differences",
            "experiment_name": folder.directory.path.name,
            "method": self.method,
            **headline,
            "not_measured": [*headline["not_measured"], *self._measuring.not_measured, *_not_drawn(trainer)],
            "subject": task.describe(),
            "model_hashes": {"subject": weights_hash(task.subject)},
            "data": about,
            **provenance(trainer, data.eval_split),
        }
        with folder.directory.staged() as stage:
            if folder.config_yaml:
                stage.write_text("config_used.yaml", folder.config_yaml)
            for kept in _kept(trainer):
                place = "" if single else f"pairs/{safe_file_name(kept.id)}/"
                self._write_pair(stage, place, scores, kept)
            stage.write_csv("pairs.csv", pair_rows(scores), PAIR_COLUMNS)
            stage.write_csv("localisation.csv", localisation_rows(scores), LOCALISATION_COLUMNS)
            if not single:
                stage.write_json("aggregated_results.json", aggregated_json(analysis))
            for name, figure in figures.items():
                stage.write_bytes(name, png(figure))
            write_parts(trainer, stage)
            stage.write_json("summary.json", summary)
        log_result(trainer, figures, _scalars(analysis))
        print(
            f"\n{attribution.sentence}\n\n{layer_table(analysis, method=self.method)}\n\n{attribution.interpretation}"
        )
        print(f"\nResults: {folder.directory.path}")

    def _figures(self, analysis: LayerAnalysis) -> dict[str, Figure]:
        figures = {"aggregated_differences.png": aggregated_figure(analysis, self.method)}
        if (localisation := localisation_figure(analysis)) is not None:
            figures["figures/localisation.png"] = localisation
        return figures

    def _write_pair(self, stage: Stage, folder: str, scores: LayerScores, kept: KeptPair) -> None:
        """What a single pair's result consists of."""
        row = scores.id.index(kept.id)
        stage.write_json(f"{folder}layer_differences.json", layer_json(scores, row, self.method))
        stage.write_bytes(f"{folder}layer_differences_plot.png", png(pair_figure(scores, row, self.method)))
        if kept.recon_positive is not None and kept.recon_negative is not None:
            images = (kept.positive, kept.negative, kept.recon_positive, kept.recon_negative)
            stage.write_bytes(f"{folder}reconstructed_images.png", png(reconstruction_figure(*images, kept.mask)))
        auroc = LOCALISATION.index("auroc")
        maps = [
            HeatMap(
                name, kept.distance[name], scores.localisation[row, place, auroc], scores.control[row, place, auroc]
            )
            for place, name in enumerate(scores.layer)
            if name in kept.distance
        ]
        if not maps:
            return
        sheet = heat_map_sheet(kept.id, kept.positive, kept.negative, kept.mask, maps)
        stage.write_bytes(f"{folder}heatmaps/all_layers.png", png(sheet))
        for place, one in enumerate(maps):
            picture = heat_map_overlay(kept.positive, one.distance, kept.mask, one.top)
            # Numbered, so that a listing shows the order of the computation.
            write_png(stage.path(f"{folder}heatmaps/{place:02d}_{safe_file_name(one.layer)}.png"), picture)


def _not_drawn(trainer: Trainer) -> Iterator[dict[str, str]]:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, PairListener):
            yield from callback.not_measured


def _kept(trainer: Trainer) -> Iterator[KeptPair]:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, PairPictures):
            yield from callback.kept()


def _scalars(analysis: LayerAnalysis) -> dict[str, float]:
    """Of each layer the mean of relative L2 and its effect, for TensorBoard."""
    table, column = analysis.differences, DIFFERENCES.index("relative_l2")
    return {
        f"{figure}/{name}": float(values[row, column])
        for figure, values in (("relative_l2", table.pairs.mean), ("effect", table.effect))
        for row, name in enumerate(analysis.scores.layer)
    }

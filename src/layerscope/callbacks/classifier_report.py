"""Writes the run directory of a teacher's evaluation (E0)."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from layerscope.artifacts import Headline
from layerscope.artifacts.tables import CLASSIFIER_COLUMNS
from layerscope.callbacks.results import provenance, threshold_caveats, write_parts
from layerscope.callbacks.run_folder import run_folder
from layerscope.callbacks.tensorboard import log_result
from layerscope.report.bottleneck import AnalysisSettings
from layerscope.report.classifier import RELIABILITY_COLUMNS, analyse_classifier
from layerscope.report.console import at_chance, caption, classifier_table
from layerscope.report.figure_style import png
from layerscope.report.figures_classifier import classifier_figures


class ClassifierReport(Callback):
    """Metrics with intervals, thresholds, scores and figures of a classifier, written when the test loop ends.

    Args:
        level: confidence level of every interval.
        n_bootstrap: resamples behind the intervals of AP and F1.
        seed: of the resampling.
    """

    def __init__(self, level: float = 0.95, n_bootstrap: int = 1000, seed: int = 0) -> None:
        self.settings = AnalysisSettings(level=level, n_bootstrap=n_bootstrap, seed=seed)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        task: Any = pl_module
        analysis = analyse_classifier(task.scores, self.settings)
        figures = classifier_figures(analysis)
        folder = run_folder(trainer)
        assert folder.directory is not None
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        macro = analysis.summary_metrics["macro"]
        with folder.directory.staged() as stage:
            stage.write_text("config_used.yaml", folder.config_yaml)
            stage.write_csv("per_label.csv", analysis.per_label, CLASSIFIER_COLUMNS)
            stage.write_csv("reliability.csv", analysis.reliability, RELIABILITY_COLUMNS)
            stage.write_json("threshold.json", task.thresholds.as_json())
            stage.write_npz("scores.npz", task.scores.arrays())
            for name, figure in figures.items():
                stage.write_bytes(f"figures/{name}", png(figure))
            write_parts(trainer, stage)
            stage.write_json(
                "summary.json",
                {
                    "task": "classifier",
                    "experiment_name": folder.directory.path.name,
                    "headline": Headline("macro auroc", **macro["auroc"]),
                    "metrics": analysis.summary_metrics,
                    "not_measured": [
                        *threshold_caveats(data, task.thresholds.data_hash),
                        *analysis.not_measured,
                    ],
                    "model_hashes": {"teacher": task.thresholds.teacher_hash},
                    "counts": {"images": len(task.scores.id), "labels": len(task.scores.label)},
                    **provenance(trainer, data.eval_split),
                },
            )
        log_result(trainer, figures, {f"test/macro_{name}": found["value"] for name, found in macro.items()})
        groups = task.scores.groups
        about = caption(
            data.eval_split,
            len(task.scores.id),
            None if groups is None else len(set(groups)),
            self.settings.level,
            None,
        )
        print(f"\n{classifier_table(analysis.per_label, analysis.display_names)}")
        print(f"{about}; F1 at the global threshold fitted on val")
        if warning := at_chance(analysis.per_label, analysis.display_names):
            print(warning)
        print(f"\nResults: {folder.directory.path}")

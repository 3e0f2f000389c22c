"""Writes the run directory of a bottleneck diagnosis."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from layerscope.artifacts import UNREPORTED_SCORES, BottleneckScores
from layerscope.artifacts.tables import COLLAPSE_COLUMNS, LONG_COLUMNS
from layerscope.callbacks.results import provenance, threshold_caveats, write_parts
from layerscope.callbacks.run_folder import run_folder
from layerscope.callbacks.tensorboard import log_result
from layerscope.data.hashing import weights_hash
from layerscope.report.bottleneck import AnalysisSettings, analyse_bottleneck
from layerscope.report.console import caption, verdict_table
from layerscope.report.figure_style import png
from layerscope.report.figures_bottleneck import bottleneck_figures


class BottleneckReport(Callback):
    """Statistics, verdict, tables, figures and summary of E1 and E2, written when the test loop ends.

    Args:
        level: confidence level of every interval.
        margin_macro: a macro AUROC drop within this margin does not matter.
        margin_label: the same for a single label.
        n_bootstrap: resamples behind the intervals of AP, F1 and collapse points.
        seed: of the resampling.
    """

    def __init__(
        self,
        level: float = 0.95,
        margin_macro: float = 0.02,
        margin_label: float = 0.05,
        n_bootstrap: int = 1000,
        seed: int = 0,
    ) -> None:
        self.settings = AnalysisSettings(level, margin_macro, margin_label, n_bootstrap, seed)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            run_folder(trainer)  # a missing run directory is an error now, not after hours of work
        self._started = time.monotonic()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        loop_seconds = time.monotonic() - self._started
        task: Any = pl_module
        scores: BottleneckScores = task.scores
        folder = run_folder(trainer)
        assert folder.directory is not None
        rank_zero_info("Computing intervals and writing tables and figures.")
        with _kept_if_it_fails(scores, folder.directory.path / UNREPORTED_SCORES):
            analysis = analyse_bottleneck(scores, self.settings)
            figures = bottleneck_figures(analysis, self.settings.margin_macro, self.settings.margin_label)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        split = data.eval_split
        thresholds = task.thresholds
        source = provenance(trainer, split)
        caveats = threshold_caveats(data, thresholds.data_hash)
        summary: dict[str, Any] = {
            "task": "vae_bottleneck",
            "experiment_name": folder.directory.path.name,
            **analysis.summary(),
            "not_measured": _merged([*task.not_measured(), *caveats], analysis.not_measured),
            "cost": {**task.cost(), "device": source["device"]},
            "noise": task.describe(),
            "thresholds": {
                "source": scores.threshold_source,
                "fitted_on": thresholds.fitted_on,
                "global_probability": thresholds.global_probability,
                "data_hash": thresholds.data_hash,
                "data_hash_matches": thresholds.data_hash == data.data_hash("val"),
                "teacher_hash_matches": thresholds.teacher_hash == task.teacher_hash,
            },
            "model_hashes": {"teacher": task.teacher_hash, "autoencoder": weights_hash(task.autoencoder)},
            "counts": _counts(scores),
            "settings": self.settings,
            "loop_seconds": loop_seconds,
            **source,
        }
        with folder.directory.staged() as stage:
            stage.write_text("config_used.yaml", folder.config_yaml)
            stage.write_csv("per_label.csv", analysis.per_label, LONG_COLUMNS)
            stage.write_csv("t_curve.csv", analysis.t_curve, LONG_COLUMNS)
            stage.write_csv("agreement.csv", analysis.agreement, LONG_COLUMNS)
            stage.write_csv("collapse.csv", analysis.collapse, COLLAPSE_COLUMNS)
            stage.write_npz("scores.npz", scores.arrays())
            for name, figure in figures.items():
                stage.write_bytes(f"figures/{name}", png(figure))
            write_parts(trainer, stage)
            stage.write_json("summary.json", summary)
        log_result(trainer, figures, _scalars(analysis.verdict["overall"]))
        overall = analysis.verdict["overall"]
        counts, margins = summary["counts"], (self.settings.margin_macro, self.settings.margin_label)
        about = caption(split, counts["images"], counts["groups"], self.settings.level, margins)
        print(f"\n{overall['sentence']}\n\n{verdict_table(analysis.summary())}\n{about}")
        print(f"\nResults: {folder.directory.path}")


@contextmanager
def _kept_if_it_fails(scores: BottleneckScores, path: Path) -> Iterator[None]:
    """Hours of model time are not lost to an error in the statistics or a figure."""
    try:
        yield
    except Exception:
        scores.save(path)
        rank_zero_warn(
            f"The report failed, and the scores are kept in {path}. layerscope.report.bottleneck.analyse_bottleneck("
            "BottleneckScores.load(path)) does the statistics again without the models."
        )
        raise


def _counts(scores: BottleneckScores) -> dict[str, Any]:
    groups = scores.groups
    return {
        "images": len(scores.id),
        "groups": None if groups is None else len(set(groups.tolist())),
        "labels": len(scores.label),
        "evaluated_labels": int(scores.evaluated.sum()),
        "conditions": dict(Counter(scores.kind.tolist())),
        "positives": {
            str(name): int(((scores.target[:, i] == 1) & scores.known[:, i]).sum())
            for i, name in enumerate(scores.label)
        },
    }


def _scalars(verdict: dict[str, Any]) -> dict[str, float]:
    return {f"bottleneck/{key}": value for key, value in verdict.items() if isinstance(value, float)}


def _merged(first: list[dict[str, str]], second: list[dict[str, str]]) -> list[dict[str, str]]:
    """What either names; the task knows the reason better than the scores do."""
    named = {entry["what"] for entry in first}
    return [*first, *(entry for entry in second if entry["what"] not in named)]

"""Shared fixtures. Its presence puts this directory on the import path, so configurations can name ``oracles``."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from layerscope.cli import main
from layerscope.data.phantom.write import write_phantom


@pytest.fixture(scope="session")
def exact_phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Disks of 3, 6, 12 and 24 px in white noise, 1,600 images of 64 px.

    ``splits.yaml`` gives 40 % of the patients to val, so that thresholds are well fitted, nearly all others to test.
    """
    root = write_phantom(
        tmp_path_factory.mktemp("phantoms") / "exact", "exact", n=1600, size=64, lesion_sizes=(3, 6, 12, 24), seed=6
    )
    with (root / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    splits: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for row in rows:
        share = int(row["group"].lstrip("p")) % 10
        splits["val" if share < 4 else "test" if int(row["group"].lstrip("p")) > 10 else "train"].append(row["id"])
    (root / "splits.yaml").write_text(yaml.safe_dump(splits))
    return root


@pytest.fixture(scope="session")
def fundus_phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few small fundus images."""
    return write_phantom(tmp_path_factory.mktemp("phantoms") / "fundus", "fundus", n=60, size=32, seed=2)


@pytest.fixture(scope="session")
def oracle_config(exact_phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diagnosis of the exact phantom with the ideal teacher; tests name the autoencoder."""
    config = {
        "seed_everything": 1,
        "trainer": {
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": [
                {
                    "class_path": "layerscope.callbacks.bottleneck_report.BottleneckReport",
                    "init_args": {"n_bootstrap": 200},
                },
                {"class_path": "layerscope.callbacks.worst_samples.WorstSamples", "init_args": {"top_k": 2}},
            ],
        },
        "model": {
            "class_path": "layerscope.tasks.diagnosis.bottleneck.BottleneckDiagnosis",
            "init_args": {
                "autoencoder": {"class_path": "oracles.Identity"},
                "teacher": {
                    "class_path": "layerscope.data.phantom.matched_filter.MatchedFilterTeacher",
                    "init_args": {"root": str(exact_phantom)},
                },
                "noise": {"timesteps": [0], "draws": 1, "latent_statistics_images": 64},
                "decode_batch_size": 64,
            },
        },
        "data": {
            "class_path": "layerscope.data.multilabel.MultilabelImages",
            "init_args": {
                "root": str(exact_phantom),
                "table": "labels.csv",
                "split_file": "splits.yaml",
                "schema": "schema.yaml",
                "batch_size": 64,
                "eval_split": "test",
            },
        },
    }
    path = tmp_path_factory.mktemp("configs") / "oracle.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture
def diagnose(oracle_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """``layerscope test`` with the oracle configuration and overrides, in this process; returns the run directory."""
    monkeypatch.chdir(tmp_path)

    def run(*overrides: str, name: str = "run") -> Path:
        arguments = ["--config", str(oracle_config), f"--experiment_name={name}", "--allow-import=oracles", *overrides]
        status = main(["test", "--debug", *arguments])
        assert status == 0
        return tmp_path / "outputs" / name

    return run

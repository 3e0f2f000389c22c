"""The configuration of a small VAE training on a phantom, and the command on it in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from small_architectures import SMALL_KL

from layerscope.cli import main

LAST = {
    "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
    "init_args": {"filename": "last", "enable_version_counter": False},
}
SUMMARY = {"class_path": "layerscope.callbacks.training.TrainingSummary"}


def settings(root: Path, losses: list[dict[str, Any]] | None = None, **trainer: Any) -> dict[str, Any]:
    return {
        "seed_everything": 3,
        "trainer": {
            "accelerator": "cpu",
            "logger": False,
            "num_sanity_val_steps": 0,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": [SUMMARY],
            **trainer,
        },
        "model": {
            "class_path": "layerscope.tasks.vae.AutoencoderTraining",
            "init_args": {
                "autoencoder": {
                    "class_path": "layerscope.models.autoencoders.DiffusersAutoencoder",
                    "init_args": {"architecture": SMALL_KL, "initial_logvar": -6.0},
                },
                "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.005}},
                **({} if losses is None else {"losses": losses}),
            },
        },
        "data": {
            "class_path": "layerscope.data.multilabel.MultilabelImages",
            "init_args": {
                "root": str(root),
                "table": "labels.csv",
                "schema": "schema.yaml",
                "limit": 4,
                "batch_size": 4,
            },
        },
    }


def write(folder: Path, name: str, config: dict[str, Any]) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def fit(folder: Path, name: str, config: dict[str, Any], *overrides: str) -> Path:
    path = write(folder, name, config)
    arguments = [f"--output_root={folder}", f"--experiment_name={name}", *overrides]
    assert main(["fit", "--debug", "--config", str(path), *arguments]) == 0
    return folder / name

"""The configuration of a small pair diagnosis, and the command on it in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from small_architectures import SMALL_KL

from layerscope.artifacts import read_csv
from layerscope.cli import main

CALLBACKS = "layerscope.callbacks"
SD = SMALL_KL | {"latent_channels": 4}
SDXL = SD | {"block_out_channels": [8, 8, 8], "scaling_factor": 0.13025, "force_upcast": True} | {
    "down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3
}  # fmt: skip
FLUX = SMALL_KL | {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False, "shift_factor": 0.1159}


def settings(root: Path, architecture: dict[str, Any] = SD, **data: Any) -> dict[str, Any]:
    return {
        "seed_everything": 1,
        "trainer": {
            "accelerator": "cpu",
            "logger": False,
            "enable_progress_bar": False,
            "callbacks": [
                {"class_path": f"{CALLBACKS}.layer_differences.LayerDifferences"},
                {"class_path": f"{CALLBACKS}.pair_pictures.PairPictures", "init_args": {"first": 0, "top": 0}},
                {"class_path": f"{CALLBACKS}.pair_report.PairReport", "init_args": {"n_bootstrap": 50}},
            ],
        },
        "model": {
            "class_path": "layerscope.tasks.diagnosis.pairs.PairDiagnosis",
            "init_args": {
                "subject": {
                    "class_path": "layerscope.models.autoencoders.DiffusersAutoencoder",
                    "init_args": {"architecture": architecture, "seed": 0},
                }
            },
        },
        "data": {
            "class_path": "layerscope.data.pairs.folder.PairFolder",
            "init_args": {"root": str(root), "image_size": 32, "batch_size": 4, **data},
        },
    }


def write(folder: Path, name: str, config: dict[str, Any]) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def run(folder: Path, name: str, config: dict[str, Any], *overrides: str) -> Path:
    """The run directory of a command that succeeds."""
    path = write(folder, name, config)
    arguments = [f"--output_root={folder}", f"--experiment_name={name}", *overrides]
    assert main(["test", "--debug", "--config", str(path), *arguments]) == 0
    return folder / name


def values(run_directory: Path) -> dict[tuple[str, str, str, str], float]:
    """pairs.csv: (role, id, layer, metric) to value."""
    rows = read_csv(run_directory / "pairs.csv")
    return {(row["role"], row["id"], row["layer"], row["metric"]): row["value"] for row in rows}


def read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content

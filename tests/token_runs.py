"""The configuration of a small token diagnosis, and pictures for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from image_files import write_noise
from token_families import TINY_CLIP

TASK, ENCODER = "--model.init_args", "--model.init_args.encoder"


def clip(**arguments: Any) -> dict[str, Any]:
    """A vision tower with random weights for 4 × 4 patches of 8 px."""
    return {
        "class_path": "layerscope.models.transformers_tokens.TransformersTokens",
        "init_args": {"config": TINY_CLIP, "seed": 0, **arguments},
    }


def settings(path: Path, **model: Any) -> dict[str, Any]:
    """Of the images in ``path``, without pictures of them."""
    return {
        "seed_everything": 1,
        "trainer": {
            "accelerator": "cpu",
            "logger": False,
            "enable_progress_bar": False,
            "callbacks": [
                {
                    "class_path": "layerscope.callbacks.token_report.TokenReport",
                    "init_args": {"n_bootstrap": 50, "visualization": {"limit": 0}},
                }
            ],
        },
        "model": {
            "class_path": "layerscope.tasks.diagnosis.tokens.TokenSimilarity",
            "init_args": {"encoder": clip(), "layers": "all", **model},
        },
        "data": {
            "class_path": "layerscope.data.image_paths.ImagePaths",
            "init_args": {"path": str(path), "batch_size": 2},
        },
    }


def write_images(folder: Path, images: int) -> Path:
    """``a0.png``, ``a1.png``, ..., noise of 40 × 36 px."""
    for number in range(images):
        write_noise(folder / f"a{number}.png", seed=number, size=(40, 36))
    return folder

"""Small image files for tests of what reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write_noise(path: Path, seed: int = 0, size: tuple[int, int] = (12, 12), mode: str = "RGB") -> Path:
    """An image of noise, ``size`` is (width, height), in the format of the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"RGB": (3,), "RGBA": (4,), "L": ()}[mode]
    noise = np.random.default_rng(seed).integers(0, 256, (*size[::-1], *channels), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def write_mask(path: Path, *boxes: tuple[int, int, int, int], size: tuple[int, int] = (12, 12)) -> Path:
    """White rectangles (left, top, right, bottom) on black, ``size`` is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros(size[::-1], np.uint8)
    for left, top, right, bottom in boxes:
        mask[top:bottom, left:right] = 255
    Image.fromarray(mask).save(path)
    return path


def break_file(path: Path) -> Path:
    """Cuts an image file off in the middle."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path

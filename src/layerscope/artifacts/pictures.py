"""Pictures as files that lose nothing: 8 bits a channel, the same bytes for the same pixels."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PictureFormat = Literal["png", "webp", "tiff"]


def encode_picture(picture: NDArray[np.uint8], format: PictureFormat) -> bytes:
    """A file's content from uint8 (H, W, 3); WebP is lossless, TIFF deflated."""
    buffer = io.BytesIO()
    image = Image.fromarray(picture)
    match format:
        case "png":
            image.save(buffer, format="PNG")
        case "webp":
            image.save(buffer, format="WEBP", lossless=True)
        case "tiff":
            image.save(buffer, format="TIFF", compression="tiff_adobe_deflate")
        case _:
            raise ValueError(f"format is {format!r}: expected png, webp or tiff")
    return buffer.getvalue()


def read_picture(path: Path, format: PictureFormat) -> NDArray[np.uint8] | None:
    """uint8 (H, W, 3) of a file that ``encode_picture`` made; None where it is missing, cut off or no such picture."""
    if not path.is_file():
        return None
    try:
        with Image.open(path, formats=[format.upper()]) as image:
            return np.array(image.convert("RGB"))
    except Exception:  # decoders of damaged files raise nearly anything
        return None

"""Pictures that are in memory already, as ``data.images.read_pixels`` would give them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from layerscope.errors import DataError


def in_memory_pixels(picture: Any) -> NDArray[np.float32]:
    """A picture in memory to float32 (H, W, 3) in [0, 1].

    Grey is repeated over the channels, alpha is composited on black, an EXIF orientation is applied.

    Args:
        picture: a PIL image; a NumPy array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); or a torch tensor (H, W),
            (1, H, W), (3, H, W) or (4, H, W). Arrays and tensors are uint8, uint16 (of 65535), or floats in [0, 1].

    Raises:
        DataError: another kind, shape, type or range of values.
    """
    if isinstance(picture, Image.Image):
        return _channels(_of_pillow(ImageOps.exif_transpose(picture)), "the PIL image")
    if isinstance(picture, np.ndarray):
        what, values = f"the array of shape {picture.shape}", picture
        values = values[..., None] if values.ndim == 2 else values
    elif hasattr(picture, "detach"):  # a tensor, without importing torch to ask
        what, values = f"the tensor of shape {tuple(picture.shape)}", picture.detach().cpu()
        values = (values.float() if values.dtype.is_floating_point else values).numpy()
        values = values[..., None] if values.ndim == 2 else np.moveaxis(values, 0, -1)
    else:
        raise DataError(
            f"A {type(picture).__name__} is no picture. Give the path of a file, a PIL image, an array (H, W, 3) or a "
            "tensor (3, H, W)."
        )
    if values.ndim != 3 or values.shape[-1] not in (1, 3, 4) or 0 in values.shape:
        raise DataError(
            f"{what} is no picture: expected (H, W), (H, W, 3) or (H, W, 4) of an array, and (H, W), (3, H, W) or "
            "(4, H, W) of a tensor. Give several pictures as a list."
        )
    return _channels(_in_unit_range(values, what), what)


def _of_pillow(image: Image.Image) -> NDArray[np.float32]:
    match image.mode:
        case "I;16" | "I;16B" | "I;16L":
            return np.asarray(image).astype(np.float32)[..., None] / np.float32(65535)
        case "I" | "F":
            raise DataError(
                f"The PIL image has the mode {image.mode} (32-bit or floating point numbers), whose black and white "
                "are not defined. Convert it, or give an array in [0, 1]."
            )
    if image.mode == "La":  # Pillow converts grey with premultiplied alpha only to its like
        image = image.convert("LA")
    has_alpha = image.mode in ("PA", "LA", "RGBA", "La", "RGBa") or "transparency" in image.info
    return np.asarray(image.convert("RGBA" if has_alpha else "RGB")).astype(np.float32) / np.float32(255)


def _in_unit_range(values: NDArray, what: str) -> NDArray[np.float32]:
    if values.dtype == np.bool_ or np.issubdtype(values.dtype, np.floating):
        scaled = values.astype(np.float32)
        # Not <: NaN is refused too.
        if not (float(scaled.min()) >= 0 and float(scaled.max()) <= 1):
            raise DataError(
                f"{what} holds floats from {scaled.min():.4g} to {scaled.max():.4g}: expected [0, 1]. Divide 8-bit "
                "levels by 255; bring [-1, 1] there by (x + 1) / 2."
            )
        return scaled
    if values.dtype in (np.uint8, np.uint16):
        return values.astype(np.float32) / np.float32(np.iinfo(values.dtype).max)
    raise DataError(f"{what} holds {values.dtype}: expected uint8, uint16, or floats in [0, 1].")


def _channels(values: NDArray[np.float32], what: str) -> NDArray[np.float32]:
    """(H, W, 1), (H, W, 3) or (H, W, 4) to (H, W, 3)."""
    match values.shape[-1]:
        case 1:
            return np.repeat(values, 3, axis=2)
        case 4:
            return values[..., :3] * values[..., 3:]
        case _:
            return values

"""Pictures that are in memory already, as ``data.images.read_pixels`` would give them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from layerscope.data.images import channels_to_rgb, pillow_pixels
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
        return pillow_pixels(picture, "The PIL image")
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
    return channels_to_rgb(_in_unit_range(values, what))


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

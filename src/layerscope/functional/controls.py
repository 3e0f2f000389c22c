"""Known degradations of an image. Drawn in the same plots, they give a reader a measure for what a VAE does."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg, encode_jpeg

from layerscope.errors import ConfigurationError

Control = Callable[[Tensor], Tensor]


def to_uint8(image: Tensor) -> Tensor:
    """Float images in [-1, 1] to uint8, clamped and rounded to the nearest level."""
    return ((image.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def from_uint8(image: Tensor) -> Tensor:
    """uint8 images to float32 in [-1, 1]."""
    return image.float() / 127.5 - 1


def roundtrip8(image: Tensor) -> Tensor:
    """The image as an 8-bit file would keep it."""
    return from_uint8(to_uint8(image))


def jpeg(image: Tensor, quality: int) -> Tensor:
    """Each image (B, 3, H, W) through a JPEG of the given quality (libjpeg's scale), chroma subsampled 4:2:0."""
    encoded = encode_jpeg(list(to_uint8(image).cpu()), quality=quality)
    decoded = [decode_jpeg(stream, mode=ImageReadMode.RGB) for stream in encoded]
    return from_uint8(torch.stack(decoded).to(image.device))


def down_up(image: Tensor, factor: int) -> Tensor:
    """Averaged over blocks of ``factor`` pixels, then brought back by bicubic interpolation and clamped."""
    height, width = image.shape[-2:]
    small = F.interpolate(image, size=(max(1, height // factor), max(1, width // factor)), mode="area")
    return F.interpolate(small, size=(height, width), mode="bicubic", align_corners=False).clamp(-1, 1)


def box_blur(image: Tensor, size: int) -> Tensor:
    """Mean over a ``size`` × ``size`` window; the border is replicated."""
    padded = F.pad(image, [size // 2] * 4, mode="replicate")
    return F.avg_pool2d(padded, size, stride=1)


def shift(image: Tensor, pixels: int) -> Tensor:
    """Moved right and down by whole pixels; the border is replicated. Loses nothing that matters."""
    return F.pad(image, (pixels, 0, pixels, 0), mode="replicate")[..., : image.shape[-2], : image.shape[-1]]


CONTROLS: dict[str, Control] = {
    "roundtrip8": roundtrip8,
    "jpeg_q95": partial(jpeg, quality=95),
    "jpeg_q75": partial(jpeg, quality=75),
    "jpeg_q50": partial(jpeg, quality=50),
    "down2": partial(down_up, factor=2),
    "down4": partial(down_up, factor=4),
    "down8": partial(down_up, factor=8),
    "blur3": partial(box_blur, size=3),
    "blur5": partial(box_blur, size=5),
    "shift1": partial(shift, pixels=1),
}


def controls_by_name(names: list[str]) -> dict[str, Control]:
    """The chosen controls in the given order; an unknown name lists the known ones."""
    unknown = [name for name in names if name not in CONTROLS]
    if unknown:
        raise ConfigurationError(f"Unknown controls {unknown}. Known: {', '.join(CONTROLS)}.")
    return {name: CONTROLS[name] for name in names}

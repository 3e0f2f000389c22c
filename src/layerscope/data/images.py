"""Reading an image file into a tensor, whole or not at all.

``read_image`` is all of it. Its parts, ``read_pixels``, ``fit_pixels`` and ``image_tensor``, are for whoever changes an
image at its own resolution before it is resized.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from layerscope.errors import ConfigurationError, DataError
from layerscope.types import ResizeFilter

Fit = Literal["crop", "stretch"]

# Formats that are opened at all; Pillow knows some that start other programs.
FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp")
# Where Pillow itself refuses: 179 million pixels, half a gigabyte as 8-bit RGB.
MAX_PIXELS = 178_956_970

Scalar = TypeVar("Scalar", bound=np.generic)

_ORIENTATION = 0x0112
_BITS_PER_SAMPLE = 258
_PLANAR_CONFIGURATION = 284


def read_image(
    path: str | Path,
    *,
    center_crop_size: int | None = None,
    image_size: int | None = None,
    fit: Fit = "crop",
    resize_filter: ResizeFilter = "bicubic",
    max_pixels: int = MAX_PIXELS,
) -> Tensor:
    """One decode: float32 (3, H, W) in [-1, 1].

    See ``read_pixels`` for what is decoded how. Then ``center_crop_size`` cuts the central square of that side, in
    pixels of the file; then ``image_size`` resizes as ``fit_pixels`` does.

    Raises:
        DataError: as ``read_pixels``, or the image is smaller than ``center_crop_size``.
    """
    pixels = read_pixels(path, max_pixels)
    if center_crop_size is not None:
        height, width = pixels.shape[:2]
        if min(height, width) < center_crop_size:
            raise DataError(
                f"{path} has {width}×{height} pixels, too few for center_crop_size {center_crop_size}. "
                "Choose a smaller center_crop_size, or leave it out and set image_size."
            )
        pixels = central_square(pixels, center_crop_size)
    return image_tensor(fit_pixels(pixels, image_size, fit, resize_filter))


def read_pixels(path: str | Path, max_pixels: int = MAX_PIXELS) -> NDArray[np.float32]:
    """One decode at the file's resolution: (H, W, 3) in [0, 1], upright.

    8-bit samples are divided by 255 and 16-bit ones by 65535; a 16-bit image never passes through 8 bits. Grey is
    repeated over the channels, a palette is looked up, CMYK becomes RGB by (1 − C)(1 − K), alpha is composited on
    black; embedded colour profiles are ignored. EXIF orientation is applied. Of several pages the first is read.

    Raises:
        DataError: the file is missing, empty, truncated or no image, has more than ``max_pixels`` pixels according
            to its header (checked before decoding), or holds numbers without a defined range (float, 32 bit).
    """
    return _decode(Path(path), max_pixels)


def pillow_pixels(image: Image.Image, name: str) -> NDArray[np.float32]:
    """What ``read_pixels`` gives of a picture that Pillow holds, with the channels that Pillow gave it.

    Raises:
        DataError: it holds numbers without a defined range (float, 32 bit); ``name`` is how the message calls it.
    """
    rgb = _rgb_of_mode(image, name)
    return _upright(rgb, image.getexif().get(_ORIENTATION, 1))


def fit_pixels(
    pixels: NDArray[np.float32], image_size: int | None, fit: Fit = "crop", resize_filter: ResizeFilter = "bicubic"
) -> NDArray[np.float32]:
    """(H, W, 3) in [0, 1] to a square of side ``image_size``; unchanged where that is None.

    Of an image that is not square, ``crop`` resizes the largest central square and ``stretch`` the whole, without
    keeping its proportions. Resizing is antialiased (the filter widens with the reduction, as in Pillow), in float32,
    and clamped to [0, 1].
    """
    if image_size is None:
        return pixels
    return resize_pixels(fit_region(pixels, fit), (image_size, image_size), resize_filter)


def fit_region(pixels: NDArray[Scalar], fit: Fit) -> NDArray[Scalar]:
    """The part of an image or mask (H, W, ...) that ``fit_pixels`` resizes."""
    match fit:
        case "crop":
            return central_square(pixels, min(pixels.shape[:2]))
        case "stretch":
            return pixels
        case _:
            raise ConfigurationError(f"fit is {fit!r}: expected stretch or crop.")


def resize_pixels(
    pixels: NDArray[np.float32], size: tuple[int, int], resize_filter: ResizeFilter = "bicubic"
) -> NDArray[np.float32]:
    """(H, W, 3) in [0, 1] to ``size`` (H, W): antialiased, in float32, clamped to [0, 1]; see ``fit_pixels``."""
    if pixels.shape[:2] == size:
        return pixels
    match resize_filter:
        case "bilinear":
            resampling = Image.Resampling.BILINEAR
        case "bicubic":
            resampling = Image.Resampling.BICUBIC
        case "lanczos":
            resampling = Image.Resampling.LANCZOS
        case "box":
            resampling = Image.Resampling.BOX
        case _:
            raise ConfigurationError(f"resize_filter is {resize_filter!r}: expected bilinear, bicubic, lanczos or box.")
    height, width = size
    channels = [
        np.asarray(Image.fromarray(np.ascontiguousarray(pixels[..., c])).resize((width, height), resampling))
        for c in range(3)
    ]
    return np.clip(np.stack(channels, axis=2), 0, 1)


def central_square(pixels: NDArray[Scalar], side: int) -> NDArray[Scalar]:
    """The central square of ``side`` pixels of an image or mask (H, W, ...)."""
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]


def image_tensor(pixels: NDArray[np.float32]) -> Tensor:
    """(H, W, 3) in [0, 1] to a tensor of its own, (3, H, W) in [-1, 1]."""
    # In numpy: torch would start its threads for this, which costs ten times the arithmetic when workers share cores.
    image = pixels.transpose(2, 0, 1).copy()
    image *= 2
    image -= 1
    return torch.from_numpy(image)


class ImageHeader(NamedTuple):
    """What a file's header says: pixels, Pillow's name of the pixel format, and the file format ("PNG")."""

    width: int
    height: int
    mode: str
    format: str

    @property
    def is_grey(self) -> bool:
        """Whether the file stores one channel of brightness, with or without alpha."""
        return self.mode in ("1", "L", "LA", "La", "I;16", "I;16B", "I;16L")


def image_header(path: str | Path, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """Reads the header, without decoding. Raises DataError as ``read_image`` does."""
    with _open(Path(path), max_pixels) as image:
        return ImageHeader(image.width, image.height, image.mode, str(image.format))


def image_size_in_file(path: str | Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Width and height from the header, without decoding. Raises DataError as ``read_image`` does."""
    header = image_header(path, max_pixels)
    return header.width, header.height


def _open(path: Path, max_pixels: int) -> Image.Image:
    """The file with its header read and its size checked."""
    if not path.is_file():
        raise DataError(
            f"The image {path} does not exist or is not a file (seen from {Path.cwd()}). Correct the path; those in a "
            "table start from `root`."
        )
    if path.stat().st_size == 0:
        raise DataError(f"The image {path} is empty (0 bytes). Copy the file again, or take it out of the data.")
    try:
        with warnings.catch_warnings():
            # Pillow warns at half the limit; ours is checked below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise DataError(_too_large(path, str(error), max_pixels)) from error
    except Exception as error:  # decoders of damaged files raise nearly anything
        raise DataError(
            f"{path} is not an image that can be read ({_first_line(error)}). Expected PNG, JPEG, TIFF, WebP or BMP; "
            "convert the file, copy it again, or take it out of the data."
        ) from error
    if image.width * image.height > max_pixels:
        size = f"{image.width}×{image.height} pixels"
        image.close()
        raise DataError(_too_large(path, size, max_pixels))
    return image


def _too_large(path: Path, size: str, max_pixels: int) -> str:
    return (
        f"{path} claims to be too large to decode safely: {size}, and the limit is {max_pixels} pixels. If the image "
        "is real, save it at the size that the model needs."
    )


def _decode(path: Path, max_pixels: int) -> NDArray[np.float32]:
    """(H, W, 3) in [0, 1], upright."""
    with _open(path, max_pixels) as image:
        try:
            rgb = _rgb(image, path)
            # TIFF is turned while Pillow loads it and then says "upright", so ask only now.
            orientation = image.getexif().get(_ORIENTATION, 1)
        except DataError:
            raise
        except Exception as error:
            raise DataError(
                f"{path} cannot be decoded ({_first_line(error)}): the file is truncated or damaged. Copy it again, or "
                "take it out of the data."
            ) from error
    return _upright(rgb, orientation)


def _rgb(image: Image.Image, path: Path) -> NDArray[np.float32]:
    if _is_wide_colour(image):
        samples = _wide_png(path) if image.format == "PNG" else _wide_tiff(image, path)
        image.load()
        return channels_to_rgb(samples.astype(np.float32) / np.float32(65535), image.mode)
    return _rgb_of_mode(image, str(path))


def _rgb_of_mode(image: Image.Image, name: str) -> NDArray[np.float32]:
    match image.mode:
        case "I;16" | "I;16B" | "I;16L":
            return channels_to_rgb(np.asarray(image).astype(np.float32)[..., None] / np.float32(65535), "L")
        case "RGB" if "transparency" not in image.info:
            pass
        case "1" | "L" if "transparency" not in image.info:
            image = image.convert("RGB")
        case "CMYK":
            pass
        case "1" | "L" | "P" | "PA" | "LA" | "RGB" | "RGBA" | "La" | "RGBa":
            image = image.convert("RGBA" if _has_alpha(image) else "RGB")
        case "YCbCr" | "LAB" | "HSV" | "RGBX":
            image = image.convert("RGB")
        case mode:
            raise DataError(
                f"{name} stores its pixels as {mode!r} (32-bit or floating point numbers), whose black and white are "
                "not defined. Save it with 8 or 16 bits a channel."
            )
    return channels_to_rgb(np.asarray(image).astype(np.float32) / np.float32(255), image.mode)


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("PA", "LA", "RGBA", "La", "RGBa") or "transparency" in image.info


def channels_to_rgb(samples: NDArray[np.float32], mode: str = "") -> NDArray[np.float32]:
    """(H, W, C) in [0, 1] to (H, W, 3); alpha on black, which is a product.

    By C they are grey, grey and alpha, RGB or RGBA, unless Pillow's ``mode`` says otherwise.
    """
    match mode, samples.shape[2]:
        case "CMYK", 4:
            return (1 - samples[..., :3]) * (1 - samples[..., 3:])
        case _, 1:
            return np.repeat(samples, 3, axis=2)
        case _, 2:
            return np.repeat(samples[..., :1] * samples[..., 1:], 3, axis=2)
        case _, 3:
            return samples
        case "RGBX", 4:
            return samples[..., :3]
        case _:
            return samples[..., :3] * samples[..., 3:]


def _is_wide_colour(image: Image.Image) -> bool:
    """16 bits a channel and more than one channel, of which Pillow would drop the lower byte without a word."""
    if image.mode.startswith("I"):
        return False
    if image.format == "TIFF":
        bits: tuple[int, ...] = image.tag_v2.get(_BITS_PER_SAMPLE, (1,))  # type: ignore[attr-defined]
        return 16 in bits
    tiles = getattr(image, "tile", [])
    return bool(tiles) and "16B" in str(tiles[0].args)


def _wide_png(path: Path) -> NDArray[np.uint16]:
    """A 16-bit PNG with more than one channel, (H, W, C): Pillow would halve its depth, torchvision does not."""
    from torchvision.io import ImageReadMode, decode_png, read_file

    samples = decode_png(read_file(str(path)), mode=ImageReadMode.UNCHANGED)
    return samples.permute(1, 2, 0).numpy().astype(np.uint16)


def _wide_tiff(image: Image.Image, path: Path) -> NDArray[np.uint16]:
    """A 16-bit TIFF with more than one channel, (H, W, C).

    Pillow keeps the upper byte of each sample. Read once more with the byte order reversed it keeps the lower one.
    """
    if image.tag_v2.get(_PLANAR_CONFIGURATION, 1) != 1:  # type: ignore[attr-defined]
        raise DataError(f"{path} is a 16-bit TIFF with separate colour planes. Save it with interleaved channels.")
    with Image.open(path, formats=FORMATS) as twin:
        other_order = {"16B": "16L", "16L": "16B", "16N": "16B" if sys.byteorder == "little" else "16L"}
        for place, tile in enumerate(twin.tile):
            raw_mode, order = tile.args[0].split(";")
            twin.tile[place] = tile._replace(args=(f"{raw_mode};{other_order[order]}", *tile.args[1:]))
        upper, lower = (np.asarray(half).astype(np.uint16) for half in (image, twin))
    return upper * np.uint16(256) + lower


def _upright(pixels: NDArray[np.float32], orientation: int) -> NDArray[np.float32]:
    """Applies an EXIF orientation, 1 to 8 (EXIF 2.32, tag 0x0112); anything else is taken as upright."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _first_line(error: Exception) -> str:
    return str(error).split("\n")[0] or type(error).__name__

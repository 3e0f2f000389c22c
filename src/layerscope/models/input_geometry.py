"""How pictures become the pixels of a vision transformer: as its own preprocessing says, or as the user asks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

from layerscope.errors import ConfigurationError
from layerscope.models.image_input import Size, as_size
from layerscope.models.weight_files import first_line
from layerscope.types import InputGeometry, ResizeFilter

Fit = Literal["processor", "crop", "stretch", "whole"]
"""How a picture meets the size: as the model's own processor does, cropped, stretched, or whole."""

OwnWay = Callable[[Size | None], InputGeometry]
"""The model's own preprocessing at a size (H, W), or at its own where None is asked."""

# Pillow's codes, in which image processors state their filter.
PIL_FILTERS: dict[int, ResizeFilter] = {1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box"}
NAMED_FILTERS: tuple[ResizeFilter, ...] = ("bilinear", "bicubic", "lanczos", "box")
# Image processors of transformers that resize and crop as their settings say, and do nothing else to a picture.
PLAIN_PROCESSORS = (
    "BitImageProcessor",
    "BlipImageProcessor",
    "ChineseCLIPImageProcessor",
    "CLIPImageProcessor",
    "DeiTImageProcessor",
    "DINOv3ViTImageProcessor",
    "SiglipImageProcessor",
    "ViTImageProcessor",
)
OTHER_FITS = "Set fit to crop, stretch or whole, and image_size."


def fitted(
    own: OwnWay,
    resize_filter: ResizeFilter,
    fit: Fit,
    image_size: int | Size | list[int] | None,
    patch: Size,
    own_size: Size,
) -> InputGeometry:
    """The preprocessing of a model at the size that the user asks for.

    ``processor`` keeps the model's own way, with its share of the picture that is cropped off. ``crop`` resizes to
    where the shorter side is the longer of H and W, and keeps the central H × W. ``stretch`` resizes to H × W.
    ``whole`` makes ``image_size`` the shorter side, and both sides the nearest multiples of the patch.

    Args:
        own: the model's own way; asked only where that is needed, since it may fail.
        resize_filter: the model's own.
        fit: which.
        image_size: side of a square or (H, W); None is the size of the model's own way.
        patch: (h, w) in pixels.
        own_size: (H, W) that the model was built for, which it takes also where the patches do not fill it.

    Raises:
        ConfigurationError: the size is none, or no multiple of the patch, or the fit is unknown or impossible.
    """
    size = None if image_size is None else asked_size(image_size, patch, own_size)
    match fit:
        case "processor":
            geometry = own(size)
            if geometry.crop is None and not isinstance(geometry.resize, tuple):
                # Such processors give any size; the model takes whole patches.
                geometry = replace(geometry, step=patch if geometry.resize is not None else (1, 1))
        case "crop":
            height, width = size or _final_size(own(None))
            geometry = InputGeometry(max(height, width), (height, width), resize_filter=resize_filter)
        case "stretch":
            geometry = InputGeometry(size or _final_size(own(None)), resize_filter=resize_filter)
        case "whole":
            if size is not None and not isinstance(image_size, int):
                raise ConfigurationError(
                    f"fit: whole keeps the proportions of every picture, and image_size is {list(size)}: give the "
                    "shorter side alone, or set fit to crop or stretch for images of one size."
                )
            side = min(size or _final_size(own(None)))
            geometry = InputGeometry(side, step=patch, resize_filter=resize_filter)
        case _:
            raise ConfigurationError(f"fit is {fit!r}: expected processor, crop, stretch or whole.")
    return replace(geometry, smallest=patch)


def asked_size(image_size: Any, patch: Size, own_size: Size) -> Size:
    """A side or (H, W) as configurations give either, whole patches or the model's own size."""
    sides = image_size if isinstance(image_size, (tuple, list)) else (image_size, image_size)
    if len(sides) != 2 or any(not isinstance(side, int) or isinstance(side, bool) or side < 1 for side in sides):
        raise ConfigurationError(
            f"image_size is {image_size!r}: expected the side of a square in pixels, [height, width], or null for the "
            "size of the model's own preprocessing."
        )
    size = (int(sides[0]), int(sides[1]))
    check_multiple(size, patch, own_size, "An image_size")
    return size


def check_multiple(size: Size, patch: Size, own_size: Size, what: str) -> None:
    """A ConfigurationError naming the nearest sizes unless (H, W) are whole patches, or the model's own size."""
    if size == own_size or not (size[0] % patch[0] or size[1] % patch[1]):
        return
    nearest = [
        " or ".join(str(n * step) for n in dict.fromkeys((side // step, -(-side // step))) if n)
        for side, step in zip(size, patch)
    ]
    raise ConfigurationError(
        f"{what} of {size[0]} × {size[1]} pixels (height × width) is no multiple of the model's patches of {patch[0]} "
        f"× {patch[1]}, so that it would not see all of the picture. The nearest heights are {nearest[0]}, the "
        f"nearest widths {nearest[1]}."
    )


def output_size(geometry: InputGeometry) -> Size | None:
    """(H, W) of what the geometry gives for every picture; None where it depends on the picture."""
    if geometry.crop is not None:
        return geometry.crop
    return geometry.resize if isinstance(geometry.resize, tuple) else None


def at_size(geometry: InputGeometry, size: Size) -> InputGeometry:
    """A way of preprocessing at another size (H, W), with the same share of the picture cropped off."""
    height, width = size
    resize, crop = geometry.resize, geometry.crop
    if crop is None:
        if resize is None:
            raise ConfigurationError(
                f"The model's own preprocessing does not resize, and image_size is given. {OTHER_FITS}"
            )
        if isinstance(resize, int) and height != width:
            raise ConfigurationError(
                "The model's own preprocessing keeps the proportions of every picture, and image_size is "
                f"{list(size)}. {OTHER_FITS}"
            )
        return replace(geometry, resize=height if isinstance(resize, int) else size)
    if isinstance(resize, int):
        return replace(geometry, resize=max(size) * resize // max(crop), crop=size)
    if resize is not None:
        resize = (height * resize[0] // crop[0], width * resize[1] // crop[1])
    return replace(geometry, resize=resize, crop=size)


def read_image_processor(settings: Mapping[str, Any], family_class: str) -> Any:
    """The image processor of transformers that such settings make.

    Its class reads the settings, so that old forms (``size: 224``) and what is left out mean what they mean there.

    Args:
        settings: content of ``preprocessor_config.json``; empty for the defaults of the class.
        family_class: of the model's family, where the settings name none that transformers has.

    Raises:
        ConfigurationError: the settings are impossible.
    """
    import transformers
    from transformers.image_processing_base import ImageProcessingMixin

    stated = str(settings.get("image_processor_type") or settings.get("feature_extractor_type") or family_class)
    name = stated.replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast")
    kind: Any = getattr(transformers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, ImageProcessingMixin)):
        kind = getattr(transformers, family_class)
    try:
        return kind.from_dict(dict(settings))
    except Exception as error:  # transformers' checks raise errors of several libraries
        raise ConfigurationError(f"The model's {name} has settings it cannot use: {first_line(error)}") from error


def processor_geometry(processor: Any) -> InputGeometry:
    """What an image processor of transformers does with a picture before it normalises it.

    Raises:
        ConfigurationError: it pads, or resizes in a way that a geometry cannot say.
    """
    name = type(processor).__name__
    if name not in PLAIN_PROCESSORS:
        raise ConfigurationError(
            f"The model's image processor is a {name}, whose ways layerscope does not know; it knows "
            f"{', '.join(PLAIN_PROCESSORS)}. {OTHER_FITS}"
        )
    if getattr(processor, "do_pad", None):
        raise ConfigurationError(
            f"The model's {name} pads pictures: its tokens would show the padding as if it were theirs. {OTHER_FITS}"
        )
    resize: int | Size | None = None
    if processor.do_resize:
        size = _sides(processor, "size")
        resize = size["shortest_edge"] if size.keys() == {"shortest_edge"} else _pair(size, name, "size")
    crop = None
    if getattr(processor, "do_center_crop", None):
        crop = _pair(_sides(processor, "crop_size"), name, "crop_size")
    return _checked(InputGeometry(resize, crop, resize_filter=processor_filter(processor)))


def processor_filter(processor: Any) -> ResizeFilter:
    """The filter with which an image processor of transformers resizes; bilinear where it states none."""
    code = getattr(processor, "resample", None)
    return "bilinear" if code is None else _known_filter(PIL_FILTERS.get(int(code)), code)


def timm_geometry(stated: Mapping[str, Any], size: Size) -> InputGeometry:
    """What timm's transforms for evaluation do with a picture, at a size (H, W).

    timm resizes to ⌊size / crop_pct⌋ and crops. Where H and W differ, it covers H × W as closely as the picture's
    proportions allow; here the shorter side becomes the longer of the two, so that more is cropped off.

    Args:
        stated: ``timm.data.resolve_model_data_config`` of the model.
        size: (H, W).

    Raises:
        ConfigurationError: a crop_mode or interpolation that a geometry cannot say.
    """
    height, width = size
    resize = (math.floor(height / stated["crop_pct"]), math.floor(width / stated["crop_pct"]))
    resize_filter = timm_filter(stated)
    match stated["crop_mode"]:
        case "center":
            return InputGeometry(max(resize), size, resize_filter=resize_filter, crop_rounding="even")
        case "squash":
            return InputGeometry(
                resize, None if resize == size else size, resize_filter=resize_filter, crop_rounding="even"
            )
        case mode:
            raise ConfigurationError(
                f"timm's data configuration of the model has the crop_mode {mode!r}, which pads pictures: its tokens "
                f"would show the padding as if it were theirs. {OTHER_FITS}"
            )


def timm_filter(stated: Mapping[str, Any]) -> ResizeFilter:
    """The filter of timm's data configuration."""
    name = stated["interpolation"]
    return _known_filter(name if name in NAMED_FILTERS else None, name)


def _known_filter(name: ResizeFilter | None, stated: Any) -> ResizeFilter:
    if name is None:
        raise ConfigurationError(
            f"The model's own preprocessing resizes with the filter {stated!r}; layerscope has "
            f"{', '.join(NAMED_FILTERS)}."
        )
    return name


def _sides(processor: Any, name: str) -> dict[str, int]:
    """A size of an image processor as the keys that it has."""
    value = getattr(processor, name, None)
    return {} if value is None else {key: int(side) for key, side in dict(value).items() if side is not None}


def _pair(size: Mapping[str, int], name: str, what: str) -> Size:
    if size.keys() != {"height", "width"}:
        raise ConfigurationError(
            f"The model's {name} has a {what} of {dict(size)}: expected height and width"
            f"{', or shortest_edge' * (what == 'size')}. {OTHER_FITS}"
        )
    return size["height"], size["width"]


def _checked(geometry: InputGeometry) -> InputGeometry:
    if geometry.crop is not None and geometry.resize is not None:
        resize = as_size(geometry.resize)
        if resize[0] < geometry.crop[0] or resize[1] < geometry.crop[1]:
            raise ConfigurationError(
                f"The model's own preprocessing resizes pictures to {geometry.resize} and then crops {geometry.crop}, "
                f"which is more than there is: it would pad them. {OTHER_FITS}"
            )
    return geometry


def _final_size(geometry: InputGeometry) -> Size:
    """Of the model's own way, where the user asks for none."""
    size = output_size(geometry)
    if size is None and geometry.resize is None:
        raise ConfigurationError("The model's own preprocessing does not say a size: set image_size.")
    return size or as_size(geometry.resize)

"""Input geometries: the numbers of the models' own processors, and the sizes and fits that users ask for."""

from __future__ import annotations

import re
from typing import Any

import pytest
import timm.data
import torch
import torchvision.transforms.v2.functional as tv
import transformers
from PIL import Image
from torchvision.transforms import InterpolationMode

from layerscope.errors import ConfigurationError
from layerscope.models.input_geometry import (
    at_size,
    fitted,
    output_size,
    processor_filter,
    processor_geometry,
    read_image_processor,
    timm_geometry,
)
from layerscope.types import InputGeometry

MODES = {
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
    "lanczos": InterpolationMode.LANCZOS,
}
PICTURE = torch.randint(0, 256, (3, 90, 140), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
FILTERS = [Image.Resampling.LANCZOS, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.BOX]
PATCH, OWN = (8, 8), (64, 64)


def applied(geometry: InputGeometry, picture: Any) -> Any:
    """Resizing and cropping by the numbers of a geometry, with torchvision."""
    if geometry.resize is not None:
        size = [geometry.resize] if isinstance(geometry.resize, int) else list(geometry.resize)
        picture = tv.resize(picture, size, interpolation=MODES[geometry.resize_filter], antialias=True)
    return picture if geometry.crop is None else tv.center_crop(picture, list(geometry.crop))


def own_way(settings: dict[str, Any], kind: str = "CLIPImageProcessor") -> InputGeometry:
    return processor_geometry(read_image_processor(settings, kind))


SETTINGS = {
    "clip": ("CLIPImageProcessor", {"size": {"shortest_edge": 72}, "crop_size": {"height": 64, "width": 64}}),
    "clip_old": ("CLIPFeatureExtractor", {"size": 72, "crop_size": 64, "resample": 3}),
    "clip_fast": ("CLIPImageProcessorFast", {"size": {"shortest_edge": 40}, "crop_size": 32, "resample": 2}),
    "siglip": ("SiglipImageProcessor", {"size": {"height": 48, "width": 64}}),
    "vit_old": ("ViTFeatureExtractor", {"size": 64, "resample": 2}),
    "vit_lanczos": ("ViTImageProcessor", {"size": {"height": 64, "width": 64}, "resample": 1}),
    "deit": ("DeiTImageProcessor", {"size": {"height": 73, "width": 73}, "crop_size": {"height": 64, "width": 64}}),
    "dinov2": ("BitImageProcessor", {"size": {"shortest_edge": 73}, "crop_size": {"height": 64, "width": 56}}),
    "no_crop": ("CLIPImageProcessor", {"size": {"shortest_edge": 64}, "do_center_crop": False}),
    "no_resize": ("CLIPImageProcessor", {"do_resize": False, "crop_size": {"height": 64, "width": 64}}),
    "defaults": ("DeiTImageProcessor", {}),
}


class TestProcessors:
    @pytest.mark.parametrize("name", SETTINGS)
    def test_pixels_are_the_processors(self, name):
        stated, settings = SETTINGS[name]
        kind = stated.replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast")
        processor = getattr(transformers, kind).from_dict(settings)
        pixels = processor(PICTURE, do_rescale=False, do_normalize=False, return_tensors="pt").pixel_values[0]
        geometry = own_way({"image_processor_type": stated} | settings, "BitImageProcessor")
        assert torch.equal(applied(geometry, PICTURE), pixels)

    def test_dinov3_resizes_after_rescaling(self):
        settings = {"size": {"height": 64, "width": 48}}
        processor = transformers.DINOv3ViTImageProcessor.from_dict(settings)
        pixels = processor(PICTURE, do_normalize=False, return_tensors="pt").pixel_values[0]
        ours = applied(own_way(settings, "DINOv3ViTImageProcessor"), PICTURE / 255)
        torch.testing.assert_close(ours, pixels, atol=1e-6, rtol=0)

    def test_a_class_that_transformers_does_not_have_is_read_as_the_familys(self):
        geometry = own_way({"image_processor_type": "TheirProcessor", "size": 64}, "ViTImageProcessor")
        assert geometry == InputGeometry((64, 64), resize_filter="bilinear")

    def test_a_class_with_ways_of_its_own(self):
        processor = read_image_processor(
            {"image_processor_type": "DPTImageProcessor", "resample": 2}, "BitImageProcessor"
        )
        assert processor_filter(processor) == "bilinear"
        with pytest.raises(ConfigurationError, match=r"DPTImageProcessor, whose ways .*Set fit to crop"):
            processor_geometry(processor)

    def test_a_name_that_is_no_image_processors(self):
        assert own_way({"image_processor_type": "CLIPConfig", "size": 32, "crop_size": 32}).resize == 32

    def test_filters_by_pillows_codes(self):
        named = {filter.name.lower(): own_way({"resample": int(filter)}).resize_filter for filter in FILTERS}
        assert all(name == ours for name, ours in named.items())

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ({"size": {"shortest_edge": 64, "longest_edge": 80}}, "longest_edge"),
            ({"resample": 0}, "filter 0; layerscope has bilinear"),
            ({"size": {"depth": 3}}, "settings it cannot use"),
            ({"size": {"shortest_edge": 32}, "crop_size": 64}, "more than there is: it would pad"),
            ({"do_pad": True}, "pads pictures.*Set fit to crop"),
        ],
    )
    def test_what_a_geometry_cannot_say(self, settings, said):
        with pytest.raises(ConfigurationError, match=said):
            own_way(settings)


class TestTimm:
    @pytest.mark.parametrize("mode", ["center", "squash"])
    @pytest.mark.parametrize(("crop_pct", "side"), [(1.0, 64), (0.9, 64), (0.875, 48), (0.95, 224)])
    def test_pixels_are_those_of_its_transforms(self, mode, crop_pct, side):
        config = {"interpolation": "bicubic", "crop_pct": crop_pct, "crop_mode": mode}
        picture = Image.fromarray(PICTURE.permute(1, 2, 0).numpy())
        transform = timm.data.create_transform(
            input_size=(3, side, side), **config, mean=(0.0,) * 3, std=(1.0,) * 3, is_training=False
        )
        ours = tv.pil_to_tensor(applied(timm_geometry(config, (side, side)), picture)) / 255
        assert torch.equal(ours, transform(picture))

    def test_sides_that_differ_are_covered_by_every_picture(self):
        config = {"interpolation": "bilinear", "crop_pct": 0.875, "crop_mode": "center"}
        assert timm_geometry(config, (56, 112)) == InputGeometry(
            128, (56, 112), resize_filter="bilinear", crop_rounding="even"
        )

    def test_what_a_geometry_cannot_say(self):
        config = {"interpolation": "bicubic", "crop_pct": 1.0, "crop_mode": "border"}
        with pytest.raises(ConfigurationError, match=r"'border', which pads.*Set fit to crop"):
            timm_geometry(config, OWN)
        with pytest.raises(ConfigurationError, match="filter 'random'"):
            timm_geometry(config | {"interpolation": "random", "crop_mode": "center"}, OWN)


def ask(own: InputGeometry, fit: Any, image_size: Any, patch=PATCH, own_size=OWN) -> InputGeometry:
    return fitted(
        lambda size: own if size is None else at_size(own, size), own.resize_filter, fit, image_size, patch, own_size
    )


CROPPED = InputGeometry(73, (64, 64), resize_filter="box")
STRETCHED = InputGeometry((64, 64))
KEPT = InputGeometry(64)


class TestFits:
    @pytest.mark.parametrize(
        ("own", "fit", "image_size", "resize", "crop", "step"),
        [
            (CROPPED, "processor", None, 73, (64, 64), (1, 1)),
            (CROPPED, "processor", 128, 146, (128, 128), (1, 1)),
            (CROPPED, "processor", [64, 128], 146, (64, 128), (1, 1)),
            (CROPPED, "crop", None, 64, (64, 64), (1, 1)),
            (CROPPED, "crop", (48, 96), 96, (48, 96), (1, 1)),
            (CROPPED, "stretch", [48, 96], (48, 96), None, (1, 1)),
            (CROPPED, "stretch", None, (64, 64), None, (1, 1)),
            (CROPPED, "whole", None, 64, None, PATCH),
            (CROPPED, "whole", 96, 96, None, PATCH),
            (STRETCHED, "processor", None, (64, 64), None, (1, 1)),
            (STRETCHED, "processor", (48, 96), (48, 96), None, (1, 1)),
            (STRETCHED, "crop", 96, 96, (96, 96), (1, 1)),
            (InputGeometry((73, 73), (64, 64)), "processor", (128, 64), (146, 73), (128, 64), (1, 1)),
            (KEPT, "processor", None, 64, None, PATCH),
            (KEPT, "processor", 96, 96, None, PATCH),
            (KEPT, "crop", None, 64, (64, 64), (1, 1)),
            (InputGeometry(None, (64, 64)), "processor", 48, None, (48, 48), (1, 1)),
            (InputGeometry(), "processor", None, None, None, (1, 1)),
        ],
    )
    def test_sizes(self, own, fit, image_size, resize, crop, step):
        assert ask(own, fit, image_size) == InputGeometry(resize, crop, step, own.resize_filter, PATCH)

    def test_the_size_of_a_model_whose_patches_do_not_fill_it(self):
        """SigLIP at 384 with patches of 14."""
        for size in (384, None):
            geometry = ask(InputGeometry((384, 384)), "processor", size, (14, 14), (384, 384))
            assert output_size(geometry) == (384, 384)

    @pytest.mark.parametrize(
        ("own", "fit", "image_size", "said"),
        [
            (CROPPED, "processor", 100, "no multiple .* nearest heights are 96 or 104, the nearest widths 96 or 104"),
            (CROPPED, "stretch", [64, 5], r"64 × 5 pixels .* nearest heights are 64, the nearest widths 8\."),
            (CROPPED, "whole", [64, 64], r"image_size is \[64, 64\]: give the shorter side alone"),
            (CROPPED, "fill", None, "fit is 'fill': expected processor, crop, stretch or whole"),
            (CROPPED, "crop", 0, r"image_size is 0: expected the side"),
            (CROPPED, "crop", [8, 8, 8], r"image_size is \[8, 8, 8\]: expected the side"),
            (CROPPED, "crop", 64.0, r"image_size is 64\.0: expected the side"),
            (KEPT, "processor", [64, 96], "keeps the proportions of every picture.*Set fit"),
            (InputGeometry(), "processor", 64, "does not resize.*Set fit"),
            (InputGeometry(), "stretch", None, "does not say a size: set image_size"),
        ],
    )
    def test_what_is_refused(self, own, fit, image_size, said):
        with pytest.raises(ConfigurationError, match=re.compile(said)):
            ask(own, fit, image_size)

    def test_another_fit_needs_nothing_of_an_own_way_that_cannot_be_had(self):
        def own(_size: Any) -> InputGeometry:
            raise ConfigurationError("it pads")

        assert fitted(own, "bicubic", "stretch", 64, PATCH, OWN) == InputGeometry((64, 64), smallest=PATCH)
        with pytest.raises(ConfigurationError, match="it pads"):
            fitted(own, "bicubic", "processor", 64, PATCH, OWN)

"""Vision backbones of timm whose layers are watched."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from layerscope.errors import ConfigurationError
from layerscope.models.hub_sources import seeded
from layerscope.models.image_input import InputSize, Size, as_size
from layerscope.models.layer_names import block_layers
from layerscope.models.position_grids import POWERS_OF_TWO, map_grid, token_grid
from layerscope.models.timm_models import create_timm_model, input_size_explained, load_timm_weights
from layerscope.models.vision_backbone import VisionBackbone
from layerscope.models.weight_files import first_line
from layerscope.shipped import here_or_shipped
from layerscope.types import PositionGrid

# Their tokens stand in the order of mask units, not row by row.
REORDERED = ("Hiera",)


class TimmBackbone(VisionBackbone):
    """Any image model of timm without its classifier.

    It takes the datamodule's tensor and does the rest itself: mean and std as timm states them for the model, and
    resizing, bilinear and antialiased. A model that takes one size only (most ViTs, Swin) gets every image in that
    size, also one that is not square; one that takes any gets images as they are, or in the nearest multiple of its
    patches. Like any new module it is in training mode; tasks call ``eval()``.

    Args:
        name: timm's name of the model, such as ``resnet50`` or ``vit_base_patch16_224``.
        pretrained: timm's own weights; needs the network or timm's cache. Otherwise weights are random.
        checkpoint: file with trained weights: safetensors, a Lightning checkpoint, or a plain state dict. Loaded
            strictly and without executing anything; a common prefix of the keys is recognised, a classifier left out.
        model_kwargs: further arguments of ``timm.create_model``, such as ``img_size`` or ``dynamic_img_size``.
        image_size: side of the square to which images are resized. A model of another fixed size is adapted to it once
            its weights are loaded, in timm's way (``set_input_size`` resamples its position table; Swin's windows grow
            with the image).
        seed: of random weights; None draws from torch's global generator.

    Attributes:
        model: the timm module.

    Raises:
        ConfigurationError: a name or argument that timm does not know, or a size that the model cannot have.
        WeightsError: weights that are missing, incomplete or of another model.
    """

    def __init__(
        self,
        name: str,
        pretrained: bool = False,
        checkpoint: str | None = None,
        model_kwargs: dict[str, Any] | None = None,
        image_size: int | None = None,
        seed: int | None = None,
    ) -> None:
        if checkpoint is not None and pretrained:
            raise ConfigurationError("checkpoint and pretrained both say where weights come from: give one of them.")
        if image_size is not None and image_size < 1:
            raise ConfigurationError(f"image_size is {image_size}: expected a number of pixels, or null.")
        from timm.data.config import resolve_model_data_config

        model_kwargs = model_kwargs or {}
        with seeded(seed):
            model = create_timm_model(
                name, 0, pretrained, model_kwargs, reserved="pretrained and checkpoint; a backbone has no classifier"
            )
        if checkpoint is not None:
            load_timm_weights(model, here_or_shipped(checkpoint), "backbone", num_labels=None)
        input_size = adapted_input_size(model, name, model_kwargs, None if image_size is None else as_size(image_size))
        stated = resolve_model_data_config(model)
        super().__init__(model, stated["mean"], stated["std"], input_size)
        self.name = name
        weights = checkpoint or ("pretrained" if pretrained else "random weights")
        self.source_name = f"{name}, {weights}"

    @property
    def default_layers(self) -> tuple[str, ...]:
        """timm's own list of the model's features: the blocks of a ViT, the stages of a CNN."""
        names = [str(info["module"]) for info in getattr(self.model, "feature_info", [])]
        modules = dict(self.model.named_modules())
        # Some models list one block twice, one that does not exist, or a list, which is never called.
        if not names or len(set(names)) < len(names) or any(_never_called(modules.get(name)) for name in names):
            return block_layers(self.model)
        return tuple(names)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to what timm gives without a classifier, mostly (B, D)."""
        x = self.normalise(image)
        remedy = (
            "Set the backbone's image_size to its size, or model_kwargs: {img_size: …} to build it for another one."
        )
        with input_size_explained(self.name, x, "backbone", remedy):
            features: Tensor = self.model(x)
        return features

    def position_grid(self, shape: tuple[int, ...], image_size: tuple[int, int]) -> PositionGrid | None:
        """Of an activation of ``layer_root`` for images of (H, W) pixels, before resizing.

        Maps (B, C, h, w) and (B, h, w, C), and tokens (B, N, C) behind as many prefix tokens as timm states. None where
        the tokens are not those of the image row by row, as in Hiera and inside Swin's windows.
        """
        size = self._input_size.of(image_size)
        tokens = getattr(self.model, "num_prefix_tokens", None) is not None
        channels_last = getattr(self.model, "output_fmt", None) == "NHWC"
        if len(shape) == 4:
            steps = self._patches() if tokens else self._reductions()
            return map_grid(shape, size, steps, channels_last, any_map=not tokens and not channels_last)
        if len(shape) != 3 or channels_last or type(self.model).__name__ in REORDERED:
            return None
        prefix = int(getattr(self.model, "num_prefix_tokens", None) or 0)
        return token_grid(shape, self._token_grids(size), prefix)

    def _token_grids(self, size: Size) -> list[Size]:
        embed: Any = getattr(self.model, "patch_embed", None)
        grids = []
        if hasattr(embed, "dynamic_feat_size"):
            rows, columns = embed.dynamic_feat_size(size)
            grids.append((int(rows), int(columns)))
        return grids + [(math.ceil(size[0] / step), math.ceil(size[1] / step)) for step in self._reductions()]

    def _patches(self) -> list[tuple[int, int]]:
        patch = patch_size(self.model)
        return [patch] if patch is not None else [(step, step) for step in self._reductions()]

    def _reductions(self) -> list[int]:
        """Pixels per position that occur in the model, timm's own first."""
        stated = [int(info["reduction"]) for info in getattr(self.model, "feature_info", [])]
        return list(dict.fromkeys([*stated, *POWERS_OF_TWO]))


def adapted_input_size(model: nn.Module, name: str, model_kwargs: dict[str, Any], asked: Size | None) -> InputSize:
    """The size that a timm model takes, after it was adapted to the one asked for, (H, W)."""
    patch = patch_size(model) or (1, 1)
    image_size = "" if asked is None else f"{asked[0]}" if asked[0] == asked[1] else f"{list(asked)}"
    if asked is not None and (asked[0] % patch[0] or asked[1] % patch[1]):
        raise ConfigurationError(
            f"An image_size of {image_size} is no multiple of the patches of timm's {name}, {patch[1]} × {patch[0]} "
            "pixels: it would not see the last of them."
        )
    any_model: Any = model
    stated = any_model.pretrained_cfg
    dynamic = getattr(model, "dynamic_img_size", False) or not model_kwargs.get("strict_img_size", True)
    if dynamic or not stated.get("fixed_input_size", False):
        pads = getattr(getattr(model, "patch_embed", None), "dynamic_img_pad", False)
        return InputSize(asked, patch if dynamic and not pads else (1, 1))
    built = getattr(getattr(model, "patch_embed", None), "img_size", None) or model_kwargs.get("img_size")
    built = as_size(built or stated["input_size"][1:])
    if asked is None or asked == built:
        return InputSize(built)
    remedy = f"Leave image_size out to resize images to {built[1]} × {built[0]}, or try model_kwargs: {{img_size: …}}."
    if not hasattr(model, "set_input_size"):
        raise ConfigurationError(f"timm's {name} cannot be adapted to an image_size of {image_size}. {remedy}")
    try:
        with torch.no_grad():
            any_model.set_input_size(img_size=asked)
    except (AssertionError, ValueError, RuntimeError, TypeError) as error:
        raise ConfigurationError(
            f"timm's {name} cannot be adapted to an image_size of {image_size}: {first_line(error)}. {remedy}"
        ) from error
    return InputSize(asked)


def patch_size(model: nn.Module) -> Size | None:
    """Pixels of a ViT's patch (h, w); None for models that have no patches."""
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    return None if patch is None else as_size(patch)


def _never_called(module: nn.Module | None) -> bool:
    return module is None or isinstance(module, nn.ModuleList)

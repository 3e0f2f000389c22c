"""Vision backbones of transformers whose layers are watched."""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor, nn

from layerscope.errors import ConfigurationError
from layerscope.models.image_input import IMAGENET_MEAN, IMAGENET_STD, InputSize, Size, as_size
from layerscope.models.layer_names import block_layers
from layerscope.models.position_grids import POWERS_OF_TWO, map_grid, token_grid
from layerscope.models.transformers_sources import PROCESSOR_NAME, build_random, load_pretrained, read_processor
from layerscope.models.vision_backbone import VisionBackbone
from layerscope.shipped import here_or_shipped, shipped
from layerscope.types import PositionGrid

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
# Families, by the beginning of their model_type, that were trained with other values than 0.5.
FAMILY_VALUES = {
    "clip": (CLIP_MEAN, CLIP_STD),
    "chinese_clip": (CLIP_MEAN, CLIP_STD),
    "altclip": (CLIP_MEAN, CLIP_STD),
    "metaclip": (CLIP_MEAN, CLIP_STD),
    "aimv2": (CLIP_MEAN, CLIP_STD),
    "dino": (IMAGENET_MEAN, IMAGENET_STD),
    "convnext": (IMAGENET_MEAN, IMAGENET_STD),
    "resnet": (IMAGENET_MEAN, IMAGENET_STD),
    "swin": (IMAGENET_MEAN, IMAGENET_STD),
    "hiera": (IMAGENET_MEAN, IMAGENET_STD),
    "ijepa": (IMAGENET_MEAN, IMAGENET_STD),
    "deit": (IMAGENET_MEAN, IMAGENET_STD),
}
# Vision transformers that interpolate or compute their positions for images of any size.
ANY_SIZE_VITS = ("dinov2", "dinov2_with_registers", "dinov3_vit")
# Their configurations have an image_size and a patch_size, but they are convolutional.
CONVOLUTIONAL = ("convnext", "convnextv2", "dinov3_convnext")
# Its tokens stand in the order of mask units, not row by row.
REORDERED = ("hiera",)
PREFIX_TOKENS = ("cls_token", "class_embedding", "class_token", "distillation_token", "register_tokens")


class TransformersBackbone(VisionBackbone):
    """A vision model of transformers, or the vision tower of CLIP, SigLIP and their like.

    It takes the datamodule's tensor and does the rest itself. A model that takes one size only gets every image in
    that size (``image_size`` of its config), bilinear and antialiased, also one that is not square. DINOv2, DINOv3
    and CNNs take any: images stay as they are, or are brought to the nearest multiple of the patches. Mean and std are
    the image processor's; with random weights, or where there is no ``preprocessor_config.json``, the family's own:
    CLIP's for CLIP, ImageNet's for DINO, ConvNeXt, ResNet, Swin, Hiera, I-JEPA and DeiT, 0.5 for ViT, SigLIP and all
    others. Like any new module it is in training mode; tasks call ``eval()``.

    Exactly one of ``source`` and ``config`` says which model. Weights are loaded strictly from safetensors: one that is
    missing, unknown or of another shape is an error that names it; a text tower and heads are left out.

    Args:
        source: a local folder (``config.json``, ``model.safetensors``, ``preprocessor_config.json``) or a hub id.
        config: a transformers JSON (path, or its content as a mapping) with ``model_type``: random weights.
        subfolder: of the folder or hub repository.
        model_class: a class of transformers that takes images; by default the plain model of the type.
        seed: of random weights; None draws from torch's global generator.

    Attributes:
        model: the transformers module.
        normalisation: where mean and std come from: ``processor`` or ``family``.

    Raises:
        ConfigurationError: arguments that do not go together or do not describe a model that takes images.
        WeightsError: weights that are missing, incomplete or of another model, or a hub that cannot be reached.
    """

    def __init__(
        self,
        source: str | None = None,
        config: str | dict[str, Any] | None = None,
        subfolder: str | None = None,
        model_class: str | None = None,
        seed: int | None = None,
    ) -> None:
        if (source is None) == (config is None):
            raise ConfigurationError(
                "Give exactly one of source (a transformers folder or hub id) and config (a transformers JSON, random "
                f"weights); given: {'none' if source is None else 'source, config'}."
            )
        if source is None:
            assert config is not None
            if subfolder is not None:
                raise ConfigurationError(f"subfolder is {subfolder!r} without a source: it names a folder inside one.")
            config = str(here_or_shipped(config)) if isinstance(config, str) else config
            model = build_random(config, model_class, seed)
            processor = None
        else:  # a hub id stays what it is
            source = str(here_or_shipped(source)) if shipped(source).exists() else source
            model = load_pretrained(source, subfolder, model_class)
            processor = read_processor(source, subfolder)
        kind = str(model_config(model).model_type)
        mean, std = _family_values(kind) if processor is None else _processor_values(processor)
        if source is not None and processor is None:
            warnings.warn(
                f"{source} has no {PROCESSOR_NAME}: mean and std are those of the family {kind}, {mean} and {std}.",
                stacklevel=2,
            )
        super().__init__(model.train(), mean, std, _input_size(model))
        self.source_name = source or f"{kind}, random weights"
        self.normalisation = "family" if processor is None else "processor"
        self._processor = processor

    @property
    def default_layers(self) -> tuple[str, ...]:
        """The blocks of a vision transformer, the stages of a CNN."""
        return block_layers(self.model)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to the model's first output, mostly its last hidden state."""
        first: Tensor = self.model(pixel_values=self.normalise(image), return_dict=True)[0]
        return first

    def position_grid(self, shape: tuple[int, ...], image_size: tuple[int, int]) -> PositionGrid | None:
        """Of an activation of ``layer_root`` for images of (H, W) pixels, before resizing.

        Tokens (B, N, C) behind as many prefix tokens as the model has parameters for (CLS, distillation, registers:
        SigLIP none, CLIP and ViT 1, DINOv2 with registers 5), and maps (B, C, h, w) or (B, h, w, C). None where the
        tokens are not those of the image row by row, as in Hiera.
        """
        size, patch = self._input_size.of(image_size), patch_size(self.model)
        # Models with stages (Swin) halve the grid between them.
        halvings = range(len(getattr(model_config(self.model), "depths", None) or (1,)))
        if len(shape) == 4:
            if patch is None:
                return map_grid(shape, size, POWERS_OF_TWO, any_map=True)
            return map_grid(shape, size, [(patch[0] * 2**k, patch[1] * 2**k) for k in halvings])
        if len(shape) != 3 or patch is None or model_config(self.model).model_type in REORDERED:
            return None
        rows, columns = size[0] // patch[0], size[1] // patch[1]
        return token_grid(shape, [(-(-rows // 2**k), -(-columns // 2**k)) for k in halvings], self._prefix_tokens)

    @property
    def _prefix_tokens(self) -> int:
        """Tokens before the image's, counted by their parameters: (D,), (1, 1, D), (1, R, D)."""
        return sum(
            parameter.shape[-2] if parameter.ndim > 1 else 1
            for name, parameter in self.model.named_parameters()
            if name.split(".")[-1] in PREFIX_TOKENS
        )


def model_config(model: nn.Module) -> Any:
    return model.config


def patch_size(model: nn.Module) -> Size | None:
    """Of a vision transformer; None of a CNN."""
    patch = getattr(model_config(model), "patch_size", None)
    return None if patch is None or model_config(model).model_type in CONVOLUTIONAL else as_size(patch)


def _input_size(model: nn.Module) -> InputSize:
    patch, stated = patch_size(model), getattr(model_config(model), "image_size", None)
    if patch is None:
        return InputSize()
    if model_config(model).model_type in ANY_SIZE_VITS or stated is None:
        return InputSize(step=patch)
    return InputSize(fixed=as_size(stated))


def _family_values(model_type: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    known = (values for beginning, values in FAMILY_VALUES.items() if model_type.startswith(beginning))
    return next(known, ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))


def _processor_values(processor: dict[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of an image processor's settings; an error where it normalises without saying how."""
    if processor.get("do_normalize") is False:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    mean, std = processor.get("image_mean"), processor.get("image_std")
    if mean is None or std is None:
        raise ConfigurationError(
            f"The backbone's {PROCESSOR_NAME} normalises images without saying image_mean and image_std. Add "
            "them, three numbers each, as the model was trained."
        )
    return tuple(mean), tuple(std)

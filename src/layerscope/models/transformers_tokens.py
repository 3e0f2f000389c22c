"""Vision transformers of transformers whose tokens are looked at."""

from __future__ import annotations

import inspect
import warnings
from typing import Any, NamedTuple

from torch import Tensor, nn

from layerscope.errors import ConfigurationError
from layerscope.models.clip_text import ClipText
from layerscope.models.image_input import Size, as_size
from layerscope.models.input_geometry import (
    Fit,
    OwnWay,
    at_size,
    fitted,
    processor_filter,
    processor_geometry,
    read_image_processor,
)
from layerscope.models.token_encoding import PLAIN_ONLY, TokenEncoding, TokenFacts, check_tokens, token_counts
from layerscope.models.transformers_backbone import ANY_SIZE_VITS, TransformersBackbone, model_config, patch_size
from layerscope.models.transformers_sources import PROCESSOR_NAME
from layerscope.types import InputGeometry


class TokenFamily(NamedTuple):
    """What the models of a type have in common, as the source of transformers has it.

    prefix: parameters of the embeddings in the order in which their tokens are put before the patches.
    norm: the module that norms the last tokens. processor: class of their image processor.
    """

    prefix: tuple[str, ...]
    norm: str
    processor: str


# CLIP and its like give last_hidden_state before post_layernorm, which they apply to the CLS token alone.
_CLIP = TokenFamily(("class_embedding",), "post_layernorm", "CLIPImageProcessor")
_VIT = TokenFamily(("cls_token",), "layernorm", "ViTImageProcessor")
TOKEN_FAMILIES = {
    "clip_vision_model": _CLIP,
    "chinese_clip_vision_model": _CLIP._replace(processor="ChineseCLIPImageProcessor"),
    "altclip_vision_model": _CLIP,
    "metaclip_2_vision_model": _CLIP,
    "siglip_vision_model": TokenFamily((), "post_layernorm", "SiglipImageProcessor"),
    "vit": _VIT,
    "vit_msn": _VIT,
    "ijepa": _VIT._replace(prefix=()),
    "deit": TokenFamily(("cls_token", "distillation_token"), "layernorm", "DeiTImageProcessor"),
    "dinov2": TokenFamily(("cls_token",), "layernorm", "BitImageProcessor"),
    "dinov2_with_registers": TokenFamily(("cls_token", "register_tokens"), "layernorm", "BitImageProcessor"),
    "dinov3_vit": TokenFamily(("cls_token", "register_tokens"), "norm", "DINOv3ViTImageProcessor"),
}
KINDS = {
    "class_embedding": "cls",
    "cls_token": "cls",
    "distillation_token": "distillation",
    "register_tokens": "register",
}


class TransformersTokens(TokenEncoding, TransformersBackbone):
    """The tokens of a vision transformer of transformers, or of the vision tower of CLIP, SigLIP and their like.

    Pictures are prepared as the model's ``preprocessor_config.json`` says; with random weights, or without that file,
    as the image processor's class does by itself, at the size of the model's config. Images of other sizes than the
    model's own have their positions interpolated by transformers (``interpolate_pos_encoding``; DINOv2 and DINOv3 do
    so unasked). Models that keep no single grid of tokens (Swin, Hiera, CNNs) are refused.

    Args:
        source, config, subfolder, model_class, seed: as of ``TransformersBackbone``; exactly one of the first two.
        image_size: side of a square or [height, width] in pixels, multiples of the patch; None is the processor's.
        fit: how pictures meet it: ``processor`` as the model's own does, ``crop`` the central part, ``stretch``, or
            ``whole``, where ``image_size`` is the shorter side and the proportions are kept to whole patches.

    Attributes:
        model, normalisation, source_name: as of ``TransformersBackbone``.

    Raises:
        ConfigurationError: arguments that do not go together, a model of another kind, or a size it cannot take.
        WeightsError: weights that are missing, incomplete or of another model, or a hub that cannot be reached.
    """

    def __init__(
        self,
        source: str | None = None,
        config: str | dict[str, Any] | None = None,
        subfolder: str | None = None,
        model_class: str | None = None,
        seed: int | None = None,
        image_size: int | tuple[int, int] | list[int] | None = None,
        fit: Fit = "processor",
    ) -> None:
        super().__init__(source, config, subfolder, model_class, seed)
        settings = model_config(self.model)
        family = TOKEN_FAMILIES.get(settings.model_type)
        if family is None:
            raise ConfigurationError(
                f"{self.source_name} is a {settings.model_type}. {PLAIN_ONLY} Of transformers these are "
                f"{', '.join(TOKEN_FAMILIES)}."
            )
        if source is not None and self._processor is None:
            warnings.warn(
                f"{self.source_name} has no {PROCESSOR_NAME}: pictures are resized and cropped as the "
                f"{family.processor} does, to the size of the model's config.",
                stacklevel=2,
            )
        # With a projection on top, transformers keeps the tower inside.
        tower = "vision_model." if isinstance(getattr(self.model, "vision_model", None), nn.Module) else ""
        own_size, patch = as_size(settings.image_size), patch_size(self.model)
        assert patch is not None
        processor = read_image_processor(self._processor or {}, family.processor)
        own = _own_way(processor, None if self.normalisation == "processor" else own_size)
        facts = TokenFacts(
            prefix=_prefix(self.model.get_submodule(f"{tower}embeddings"), family, settings),
            patch=patch,
            own_size=own_size,
            any_size=settings.model_type in ANY_SIZE_VITS or _interpolates(self.model, own_size, patch),
            norm=tower + family.norm,
            pooled_by="attention pooling head" if self._pooling_head(tower) is not None else None,
        )
        self._tower = tower
        self._set_tokens(facts, fitted(own, processor_filter(processor), fit, image_size, patch, own_size))
        self._text = ClipText(self.source_name, subfolder, self._described) if source is not None else None

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to the model's last tokens (B, T, D), as it gives them: CLIP's before its norm.

        Raises:
            ConfigurationError: the images are of a size that the model does not take, or it gives other tokens than
                its layout says.
        """
        x = self.normalise(image)
        size = (x.shape[-2], x.shape[-1])
        foreign = size != self._facts.own_size and model_config(self.model).model_type not in ANY_SIZE_VITS
        extra = {"interpolate_pos_encoding": True} if foreign else {}
        tokens: Tensor = self.model(pixel_values=x, return_dict=True, **extra).last_hidden_state
        check_tokens(tuple(tokens.shape), self.token_layout(size), self._described)
        return tokens

    def pool(self, tokens: Tensor) -> Tensor:
        """Tokens (B, T, D) after the final norm to (B, D), by SigLIP's attention pooling head.

        Raises:
            ConfigurationError: the model has none.
        """
        head = self._pooling_head(self._tower)
        if head is None:
            raise self._no_pooling()
        pooled: Tensor = head(tokens)
        return pooled

    def embed_text(self, text: str) -> Tensor:
        """A text in the space of ``project``: (E,) float32, on the device of the model, of any length.

        The text tower and the tokenizer are loaded when they are first asked for.

        Raises:
            ConfigurationError: the model is no CLIP with a text tower, or the text is empty or too long for it.
            WeightsError: the text tower's weights or the tokenizer are missing or do not fit.
        """
        return self._clip_text().embed(text, next(self.model.parameters()).device)

    def project(self, tokens: Tensor) -> Tensor:
        """Tokens (B, T, D) after the final norm to (B, T, E), by CLIP's visual projection; errors as ``embed_text``."""
        return self._clip_text().project(tokens)

    def _clip_text(self) -> ClipText:
        if model_config(self.model).model_type != "clip_vision_model" or self._text is None:
            reason = "random weights know no words" if self._text is None else "it is no CLIP of transformers"
            raise ConfigurationError(
                f"{self.source_name} has no text tower that its tokens can be compared with: {reason}. Give as source "
                "a whole CLIP, such as openai/clip-vit-base-patch16."
            )
        return self._text

    def _pooling_head(self, tower: str) -> nn.Module | None:
        """SigLIP's, where ``vision_use_head`` does not leave it out."""
        if model_config(self.model).model_type != "siglip_vision_model":
            return None
        return dict(self.model.named_modules()).get(f"{tower}head")


def _prefix(embeddings: nn.Module, family: TokenFamily, settings: Any) -> tuple[str, ...]:
    prefix = token_counts({KINDS[name]: getattr(embeddings, name) for name in family.prefix})
    stated = getattr(settings, "num_register_tokens", 0)
    if prefix.count("register") != stated:
        raise ConfigurationError(
            f"The {settings.model_type}'s config has num_register_tokens {stated}, and the model has "
            f"{prefix.count('register')}."
        )
    return prefix


def _interpolates(model: nn.Module, own_size: Size, patch: Size) -> bool:
    """transformers interpolates from a square table of positions, and divides both sides by one patch size."""
    takes = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
    return takes and own_size[0] == own_size[1] and patch[0] == patch[1]


def _own_way(processor: Any, default_size: Size | None) -> OwnWay:
    """As a processor does it; at ``default_size`` where its settings are a class's defaults, not the model's own."""

    def own(size: Size | None) -> InputGeometry:
        geometry = processor_geometry(processor)
        size = size or default_size
        return geometry if size is None else at_size(geometry, size)

    return own

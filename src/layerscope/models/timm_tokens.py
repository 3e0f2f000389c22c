"""Vision transformers of timm whose tokens are looked at."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn

from layerscope.errors import ConfigurationError, LayerscopeError
from layerscope.models.image_input import Size, as_size
from layerscope.models.input_geometry import Fit, fitted, output_size, timm_filter, timm_geometry
from layerscope.models.timm_backbone import TimmBackbone, adapted_input_size
from layerscope.models.token_encoding import PLAIN_ONLY, TokenEncoding, TokenFacts, check_tokens, token_counts
from layerscope.types import InputGeometry

# Pooling that makes one token of all; with "token" and "" the CLS token is taken as it is.
MEANS = {"avg": "mean of the patches", "avgmax": "mean and maximum of the patches", "max": "maximum of the patches"}


class TimmTokens(TokenEncoding, TimmBackbone):
    """The tokens of a vision transformer of timm.

    Pictures are prepared as timm's data configuration of the model says, at the size for which it is built. For
    another one timm resamples the positions (``set_input_size``), once its weights are loaded; with ``fit: whole`` it
    does so for each image (``dynamic_img_size``). Models that keep no single grid of tokens (Swin, Hiera, CNNs) are
    refused.

    Args:
        name, pretrained, checkpoint, model_kwargs, seed: as of ``TimmBackbone``.
        image_size, fit: as of ``TransformersTokens``.

    Attributes:
        model, name, source_name: as of ``TimmBackbone``.

    Raises:
        ConfigurationError: a name or argument that timm does not know, a model of another kind, or a size that it
            cannot have.
        WeightsError: weights that are missing, incomplete or of another model.
    """

    def __init__(
        self,
        name: str,
        pretrained: bool = False,
        checkpoint: str | None = None,
        model_kwargs: dict[str, Any] | None = None,
        seed: int | None = None,
        image_size: int | tuple[int, int] | list[int] | None = None,
        fit: Fit = "processor",
    ) -> None:
        model_kwargs = dict(model_kwargs or {})
        if fit == "whole":
            model_kwargs["dynamic_img_size"] = True
        try:
            super().__init__(name, pretrained, checkpoint, model_kwargs, None, seed)
        except LayerscopeError as error:
            if fit == "whole" and isinstance(error.__cause__, TypeError) and "dynamic_img_size" in str(error.__cause__):
                raise ConfigurationError(
                    f"timm's {name} takes images of one size only, and with fit: whole each picture keeps its "
                    f"proportions. Set fit to crop or stretch. {PLAIN_ONLY}"
                ) from error
            raise
        _check_plain(self.model, name)
        model: Any = self.model
        # Not patch_size, which is that of the patches of a convolutional stem's map where the model has one.
        patch = as_size(model.patch_embed.feat_ratio(as_scalar=False))
        any_size = bool(getattr(model, "dynamic_img_size", False))
        own_size = as_size(model.patch_embed.img_size)
        if any_size:
            # Then timm takes whole patches alone, also at the size for which the model is built.
            own_size = (own_size[0] // patch[0] * patch[0], own_size[1] // patch[1] * patch[1])
        stated = self._data_config()
        own = partial(_own_way, stated, own_size)
        geometry = fitted(own, timm_filter(stated), fit, image_size, patch, own_size)
        size = output_size(geometry)
        if not any_size and size is not None and size != own_size:
            adapted_input_size(model, name, model_kwargs, size)
            own_size = size
        norm = None if isinstance(model.norm, nn.Identity) else "norm"
        self._set_tokens(TokenFacts(_prefix(model, name), patch, own_size, any_size, norm, _pooled_by(model)), geometry)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to the model's last tokens (B, T, D), normed where it norms tokens.

        Raises:
            ConfigurationError: the images are of a size that the model does not take, or it gives other tokens than
                its layout says.
        """
        x = self.normalise(image)
        model: Any = self.model
        tokens: Tensor = model.forward_features(x)
        check_tokens(tuple(tokens.shape), self.token_layout((x.shape[-2], x.shape[-1])), self._described)
        return tokens

    def pool(self, tokens: Tensor) -> Tensor:
        """Tokens (B, T, D) after the final norm to (B, D), as the model does before its classifier.

        By an attention pooling head, or by the mean of the patches. Models of the latter norm what they pooled
        (``fc_norm``) instead of the tokens, and so does this.

        Raises:
            ConfigurationError: the model does neither.
        """
        if self._facts.pooled_by is None:
            raise self._no_pooling()
        model: Any = self.model
        pooled: Tensor = model.forward_head(tokens, pre_logits=True)
        return pooled

    def embed_text(self, text: str) -> Tensor:
        """No model of timm has a text tower: a ConfigurationError that says what has."""
        raise self._no_text()

    def project(self, tokens: Tensor) -> Tensor:
        """As ``embed_text``."""
        raise self._no_text()

    @property
    def _described(self) -> str:
        return f"The {self.name} of timm"

    def _no_text(self) -> ConfigurationError:
        return ConfigurationError(
            f"timm's {self.name} has no text tower that its tokens can be compared with. Take a CLIP of transformers "
            "(layerscope.models.transformers_tokens.TransformersTokens), such as openai/clip-vit-base-patch16."
        )

    def _data_config(self) -> dict[str, Any]:
        from timm.data.config import resolve_model_data_config

        stated: dict[str, Any] = resolve_model_data_config(self.model)
        return stated


def _own_way(stated: dict[str, Any], own_size: Size, size: Size | None) -> InputGeometry:
    return timm_geometry(stated, size or own_size)


def _check_plain(model: nn.Module, name: str) -> None:
    from timm.models.beit import Beit
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer
    from timm.models.vision_transformer_relpos import VisionTransformerRelPos

    if not isinstance(model, (VisionTransformer, Eva, Beit, VisionTransformerRelPos)):
        raise ConfigurationError(
            f"timm's {name} is a {type(model).__name__}. {PLAIN_ONLY} Of timm these are its VisionTransformer (ViT, "
            "DeiT, CLIP, SigLIP, DINOv2), Eva (EVA-02, DINOv3), Beit and VisionTransformerRelPos."
        )


def _prefix(model: Any, name: str) -> tuple[str, ...]:
    """In timm's order: CLS, distillation, registers; as many as timm states."""
    prefix = token_counts(
        {
            "cls": getattr(model, "cls_token", None),
            "distillation": getattr(model, "dist_token", None),
            "register": getattr(model, "reg_token", None),
        }
    )
    if len(prefix) != model.num_prefix_tokens:
        raise ConfigurationError(
            f"timm's {name} states {model.num_prefix_tokens} tokens before its patches and has parameters for "
            f"{len(prefix)}: {', '.join(prefix) or 'none'}. Which is right cannot be told."
        )
    return prefix


def _pooled_by(model: Any) -> str | None:
    if getattr(model, "attn_pool", None) is not None:
        return "attention pooling head"
    return MEANS.get(model.global_pool)

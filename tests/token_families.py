"""Small token encoders with random weights, one of each family, at the sizes that real ones take."""

from __future__ import annotations

from typing import Any, NamedTuple

from layerscope.models.timm_tokens import TimmTokens
from layerscope.models.transformers_tokens import TransformersTokens

_DINO = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
_SMALL = _DINO | {"intermediate_size": 64}
_TIMM = {"embed_dim": 32, "depth": 2, "num_heads": 2}


class Family(NamedTuple):
    """patch: pixels of a side. cls, registers: how many tokens stand before the patches.

    config: of transformers; or name and arguments of timm.
    """

    patch: int
    cls: int
    registers: int
    config: dict[str, Any]
    name: str = ""


FAMILIES = {
    "clip": Family(16, 1, 0, _SMALL | {"model_type": "clip_vision_model", "patch_size": 16, "projection_dim": 16}),
    "siglip": Family(16, 0, 0, _SMALL | {"model_type": "siglip_vision_model", "patch_size": 16}),
    "vit": Family(16, 1, 0, _SMALL | {"model_type": "vit", "patch_size": 16}),
    "dinov2": Family(14, 1, 0, _DINO | {"model_type": "dinov2", "patch_size": 14}),
    "dinov2 registers": Family(
        14, 1, 4, _DINO | {"model_type": "dinov2_with_registers", "patch_size": 14, "num_register_tokens": 4}
    ),
    "dinov3": Family(16, 1, 4, _SMALL | {"model_type": "dinov3_vit", "patch_size": 16, "num_register_tokens": 4}),
    "timm vit": Family(16, 1, 0, _TIMM, "vit_base_patch16_224"),
    "timm clip": Family(16, 1, 0, _TIMM, "vit_base_patch16_clip_224"),
    "timm registers": Family(16, 0, 4, _TIMM, "vit_medium_patch16_reg4_gap_256"),
    "timm siglip": Family(16, 0, 0, _TIMM, "vit_base_patch16_siglip_224"),
}


def token_encoder(family: str, size: tuple[int, int]) -> Any:
    """A new encoder that takes images of ``size``, in evaluation."""
    patch, _, _, config, name = FAMILIES[family]
    size = (size[0] // patch * patch, size[1] // patch * patch)
    if name:
        return TimmTokens(name, model_kwargs=config, seed=0, image_size=size).eval()
    return TransformersTokens(config=config | {"image_size": 224}, seed=0, image_size=size).eval()


TINY_CLIP = _SMALL | {"model_type": "clip_vision_model", "image_size": 32, "patch_size": 8, "projection_dim": 8}
"""The configuration of a vision tower for images of 32 px."""

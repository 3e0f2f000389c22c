"""Configurations of tiny vision transformers, and pictures for them."""

from __future__ import annotations

import torch

TOWER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8}
VIT = TOWER | {"intermediate_size": 64, "image_size": 32}
TEXT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 9,
    "max_position_embeddings": 4,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
# For timm's names, whose own sizes are large.
TIMM_VIT = {"depth": 2, "embed_dim": 32, "num_heads": 2}
SIZE = (64, 96)


def pictures(height: int = SIZE[0], width: int = SIZE[1], count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1

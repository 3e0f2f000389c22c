"""Configurations of tiny vision transformers, and pictures for them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transformers

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


WORDS = ["a</w>", "cat</w>", "c", "a", "t</w>", "ca", "<|startoftext|>", "<|endoftext|>"]
"""The vocabulary of ``write_whole_clip``."""


def write_whole_clip(folder: Path) -> Path:
    """A CLIP with text tower, tokenizer and processor, random weights, as the folders of real ones look."""
    text = TEXT | {"vocab_size": len(WORDS), "max_position_embeddings": 5, "bos_token_id": 6, "eos_token_id": 7}
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 36},
        "crop_size": {"height": 32, "width": 32},
        "resample": 3,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }
    torch.manual_seed(5)
    config = transformers.CLIPConfig(vision_config=VIT, text_config=text, projection_dim=12)
    transformers.CLIPModel(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(WORDS)}))
    (folder / "merges.txt").write_text("#version: 0.2\nc a\nca t</w>\n")
    return folder

"""Tiny random autoencoders in every layout, made once and written to disk as diffusers writes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from small_architectures import SMALL_KL
from torch import Tensor, nn

KL = SMALL_KL | {"block_out_channels": [8, 16], "latent_channels": 4, "sample_size": 32}
NO_QUANT = {"use_quant_conv": False, "use_post_quant_conv": False}
MEAN, STD = [-1.6, 1.1, 4.0, -0.2], [8.4, 5.0, 3.1, 0.7]


@dataclass(frozen=True)
class Layout:
    """A family of autoencoders: its config, and the diffusion units of its latents as its pipeline computes them."""

    config: dict[str, Any]
    downsampling: int
    latent_channels: int
    scaled: Callable[[Tensor], Tensor]


LAYOUTS = {
    "kl_sd15": Layout(KL | {"scaling_factor": 0.18215}, 2, 4, lambda z: 0.18215 * z),
    "kl_playground": Layout(
        KL | {"scaling_factor": 0.5, "latents_mean": MEAN, "latents_std": STD},
        2,
        4,
        lambda z: (z - torch.tensor(MEAN)[:, None, None]) * 0.5 / torch.tensor(STD)[:, None, None],
    ),
    "kl_flux": Layout(
        KL | NO_QUANT | {"latent_channels": 8, "scaling_factor": 0.3611, "shift_factor": 0.1159},
        2,
        8,
        lambda z: (z - 0.1159) * 0.3611,
    ),
    "vq": Layout(
        KL | {"_class_name": "VQModel", "vq_embed_dim": 3, "num_vq_embeddings": 16, "scaling_factor": 1.3},
        2,
        3,
        lambda z: 1.3 * z,
    ),
    "tiny": Layout(
        {
            "_class_name": "AutoencoderTiny",
            "encoder_block_out_channels": [8] * 4,
            "decoder_block_out_channels": [8] * 4,
            "num_encoder_blocks": [1] * 4,
            "num_decoder_blocks": [1] * 4,
        },
        8,
        4,
        lambda z: z,
    ),
    "dc": Layout(
        {
            "_class_name": "AutoencoderDC",
            "latent_channels": 6,
            "attention_head_dim": 4,
            "encoder_block_out_channels": [12, 24],
            "decoder_block_out_channels": [12, 24],
            "encoder_layers_per_block": [1, 1],
            "decoder_layers_per_block": [1, 1],
            "encoder_block_types": ["ResBlock", "EfficientViTBlock"],
            "decoder_block_types": ["ResBlock", "EfficientViTBlock"],
            "encoder_qkv_multiscales": [[], [5]],
            "decoder_qkv_multiscales": [[], [5]],
            "scaling_factor": 0.41407,
        },
        2,
        6,
        lambda z: 0.41407 * z,
    ),
}


@dataclass(frozen=True)
class Saved:
    """A random diffusers model and the folder that holds it."""

    layout: Layout
    model: nn.Module
    folder: Path


@pytest.fixture(scope="session")
def saved_autoencoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Saved]:
    import diffusers

    saved = {}
    for name, layout in LAYOUTS.items():
        torch.manual_seed(3)
        model = getattr(diffusers, layout.config["_class_name"]).from_config(layout.config).eval()
        folder = tmp_path_factory.mktemp("autoencoders") / name
        model.save_pretrained(folder)
        saved[name] = Saved(layout, model, folder)
    return saved


@pytest.fixture(params=list(LAYOUTS))
def saved(request: pytest.FixtureRequest, saved_autoencoders: dict[str, Saved]) -> Saved:
    return saved_autoencoders[request.param]


@pytest.fixture
def kl(saved_autoencoders: dict[str, Saved]) -> Saved:
    return saved_autoencoders["kl_sd15"]

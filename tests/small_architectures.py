"""The smallest AutoencoderKL that has every part: diffusers' configuration, for tests to vary."""

from __future__ import annotations

from typing import Any

SMALL_KL: dict[str, Any] = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [8, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "layers_per_block": 1,
    "norm_num_groups": 4,
}

"""Encoding and decoding large images in overlapping tiles, and what that changes.

A tile is computed as if it were a whole image. Hence a tiled result equals the untiled one only where a model is
purely local. AutoencoderTiny is: it has neither normalisation nor attention, and away from seams (farther than its
receptive field from any tile's border) both are equal to rounding. AutoencoderKL and AutoencoderDC are not: group
norm takes its statistics over the tile, and attention sees the tile only, so every pixel may change. The change is
small where tiles look alike and large where they do not; use tiling where memory forces it, and compare one image.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from layerscope.errors import ConfigurationError


def enable_tiling(model: nn.Module, downsampling: int, tile_size: int | None) -> None:
    """Switches a diffusers autoencoder to tiles.

    Args:
        model: AutoencoderKL, AutoencoderTiny or AutoencoderDC.
        downsampling: pixels per latent position.
        tile_size: side of a tile in pixels; None keeps the model's own.

    Raises:
        ConfigurationError: the model cannot tile, or the tile size does not fit its downsampling.
    """
    switch: Any = model
    match type(model).__name__:
        case "AutoencoderKL":
            own = switch.config.sample_size
            size = tile_size or int(own[0] if isinstance(own, (list, tuple)) else own)
            # A quarter of each tile overlaps; diffusers truncates to whole latents and would leave gaps.
            _check_multiple(size, 4 * downsampling)
            switch.enable_tiling()
            switch.tile_sample_min_size = size
            switch.tile_latent_min_size = size // downsampling
        case "AutoencoderTiny":
            _check_tiny(switch, downsampling)
            size = tile_size or 512
            # An eighth of each tile overlaps; with a single latent of overlap diffusers divides by zero.
            _check_multiple(size, 16 * downsampling)
            switch.enable_tiling()
            switch.tile_sample_min_size = size
            switch.tile_latent_min_size = size // downsampling
        case "AutoencoderDC":
            size = tile_size or 512
            _check_multiple(size, 2 * downsampling)
            stride = max(size * 7 // 8 // downsampling, 1) * downsampling
            switch.enable_tiling(size, size, stride, stride)
        case name:
            raise ConfigurationError(f"diffusers has no tiling for {name}. Set tiling: false.")


def _check_multiple(size: int, step: int) -> None:
    if size < step or size % step:
        raise ConfigurationError(
            f"A tile of {size} pixels does not fit this autoencoder: tile and overlap must be whole latents. Set "
            f"tile_size to a multiple of {step}."
        )


def _check_tiny(model: Any, downsampling: int) -> None:
    """diffusers' tiled AutoencoderTiny is written for RGB, 4 latent channels and a downsampling of 8."""
    channels = model.config.latent_channels
    if (channels, downsampling, model.config.out_channels) != (4, 8, 3):
        raise ConfigurationError(
            f"diffusers tiles an AutoencoderTiny only with 4 latent channels and a downsampling of 8; this one has "
            f"{channels} and {downsampling}. Set tiling: false."
        )

"""Encoding and decoding large images in overlapping tiles, and what that changes.

A tile is computed as if it were a whole image. Hence a tiled result equals the untiled one only where a model is
purely local:

- AutoencoderTiny is: it has neither normalisation nor attention. Farther from every border of a tile than its
  receptive field, tiled and untiled differ by at most 1e-5 (rounding).
- AutoencoderKL and AutoencoderDC are not: normalisation takes its statistics over the tile, and attention sees the
  tile only, so that every pixel changes and no bound holds in general. With both taken out they too are equal to 1e-5.
  Measured on an AutoencoderKL of (16, 32, 32) channels trained on the fundus phantom: the tiled decode is 23 dB from
  the untiled one where the image's side is twice the tile's, 19 dB where it is four times. That is the size of a
  reconstruction error, and would be blamed on the model: do not diagnose with tiles what fits into memory without.

``tiling_difference`` measures it for a model and images of one's own.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from layerscope.errors import ConfigurationError

if TYPE_CHECKING:
    from layerscope.models.autoencoders import DiffusersAutoencoder


def enable_tiling(model: nn.Module, downsampling: int, tile_size: int | None) -> None:
    """Switches a diffusers autoencoder to tiles.

    Args:
        model: AutoencoderKL, AutoencoderTiny or AutoencoderDC.
        downsampling: pixels per latent position.
        tile_size: side of a tile in pixels; None keeps the model's own.

    Warns:
        UserWarning: for a model that is not purely local, whose every pixel tiles change.

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
    if type(model).__name__ != "AutoencoderTiny":
        warnings.warn(
            f"tiling changes every pixel that an {type(model).__name__} decodes from an image larger than {size} "
            "pixels, because normalisation and attention see a tile only. Measure it with "
            "layerscope.models.tiling.tiling_difference, or set tiling: false.",
            stacklevel=3,
        )


def works_in_tiles(model: nn.Module, image_size: tuple[int, int]) -> bool:
    """Whether a diffusers autoencoder cuts images of (H, W) pixels into tiles."""
    switch: Any = model
    if not getattr(switch, "use_tiling", False):
        return False
    side = getattr(switch, "tile_sample_min_size", None) or switch.tile_sample_min_height
    return max(image_size) > side


@torch.no_grad()
def tiling_difference(autoencoder: DiffusersAutoencoder, image: Tensor) -> Tensor:
    """How far the tiled decode of the (tiled) encoding lies from the same without tiles.

    Args:
        autoencoder: built with ``tiling=True``; left as it was.
        image: (B, 3, H, W) in [-1, 1].

    Returns:
        (B,) PSNR in dB between both reconstructions, for a range of 2; higher is better, infinite where equal.
    """
    switch: Any = autoencoder.model
    if not getattr(switch, "use_tiling", False):
        raise ConfigurationError("tiling_difference needs an autoencoder that was built with tiling: true.")
    tiled = autoencoder.decode(autoencoder.encode(image).mean)
    switch.use_tiling = False
    try:
        whole = autoencoder.decode(autoencoder.encode(image).mean)
    finally:
        switch.use_tiling = True
    return 10 * torch.log10(4 / (tiled - whole).square().flatten(1).mean(1))


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

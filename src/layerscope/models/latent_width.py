"""An AutoencoderKL with another number of latent channels, trained weights kept wherever their shapes agree."""

from __future__ import annotations

from typing import Any

from torch import nn

from layerscope.errors import ConfigurationError
from layerscope.models.sources import build_random

# These factors were measured on one latent and mean nothing for another; so they stand until the new one is measured.
UNKNOWN_SCALING: dict[str, Any] = {
    "scaling_factor": 1.0,
    "shift_factor": None,
    "latents_mean": None,
    "latents_std": None,
}


def check_latent_channels(latent_channels: int | None, source: str | None) -> None:
    """Refuses what can be refused before the weights are read or fetched.

    Raises:
        ConfigurationError: less than one channel, or no trained weights that could be given another width.
    """
    if latent_channels is None:
        return
    if latent_channels < 1:
        raise ConfigurationError(
            f"latent_channels is {latent_channels}: an autoencoder needs at least 1, usually 4, 8 or 16. Remove it to "
            "keep the width of the source."
        )
    if source is None:
        raise ConfigurationError(
            f"latent_channels is {latent_channels} without a source: it gives trained weights another width. Random "
            "weights have the width that their configuration says: latent_channels in the architecture, z_channels and "
            "embed_dim in the YAML of original_config. Set it there, and remove it here."
        )


def with_latent_channels(model: nn.Module, latent_channels: int, seed: int | None) -> tuple[nn.Module, tuple[str, ...]]:
    """The autoencoder with ``latent_channels``: tensors of the same shape are copied whole, the others start new.

    New are encoder.conv_out, decoder.conv_in's weight (its bias has the width of the decoder) and, where the model has
    them, quant_conv and post_quant_conv: with the initialisation of a new diffusers model. Nothing is taken of
    a tensor that only overlaps: quant_conv mixes all channels, so a part of it does not give a part of the old latent.
    The config's factors of the old latent are reset to ``UNKNOWN_SCALING``. A message on rank zero says all that.

    Args:
        model: an AutoencoderKL.
        latent_channels: at least 1; with the model's own nothing changes and nothing is said.
        seed: of the new tensors; with None they come from torch's global generator.

    Returns:
        The model and the names of its new tensors, in the order of its state.

    Raises:
        ConfigurationError: a model of another class.
    """
    config: Any = model.config
    if (name := type(model).__name__) != "AutoencoderKL":
        raise ConfigurationError(
            f"latent_channels is {latent_channels}, and the source holds a {name}: only an AutoencoderKL can be given "
            "another width. Remove latent_channels, or give the source of an AutoencoderKL."
        )
    before = int(config["latent_channels"])
    if latent_channels == before:
        return model, ()
    # diffusers takes the class's default for what a config lists under _use_default_values: its own entries stay out.
    arguments = {key: value for key, value in config.items() if not key.startswith("_")}
    wider = build_random(arguments | UNKNOWN_SCALING | {"latent_channels": latent_channels}, seed)
    state = wider.state_dict()
    trained = {key: value for key, value in model.state_dict().items() if value.shape == state[key].shape}
    wider.load_state_dict(trained, strict=False)
    new = tuple(key for key in state if key not in trained)
    reset = [key for key, value in UNKNOWN_SCALING.items() if config.get(key) != value]
    _announce(before, latent_channels, new, len(trained), reset)
    return wider, new


def _announce(before: int, after: int, new: tuple[str, ...], copied: int, reset: list[str]) -> None:
    """Imported here: the adapters do not need Lightning otherwise, and it takes seconds."""
    from lightning.pytorch.utilities import rank_zero_info

    factors = (
        f" The source's {', '.join(reset)} belonged to its latent: scaling_factor is 1 now, and no shift_factor, "
        "latents_mean or latents_std is set."
    )
    rank_zero_info(
        f"The autoencoder has {after} latent channels instead of its source's {before}. {len(new)} tensors start new: "
        f"{', '.join(new)}. The other {copied} are those of the source.{factors if reset else ''}"
    )

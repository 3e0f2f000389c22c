"""Image autoencoders of diffusers behind ``layerscope.protocols.Autoencoder``."""

from __future__ import annotations

import inspect
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from layerscope.errors import ConfigurationError
from layerscope.models.latent_width import check_latent_channels, with_latent_channels
from layerscope.models.layer_names import decoder_layers
from layerscope.models.ldm import build_random_ldm, load_ldm_file
from layerscope.models.position_grids import POWERS_OF_TWO, map_grid
from layerscope.models.posterior import GaussianPosterior, PointPosterior
from layerscope.models.sources import build_random, load_pretrained
from layerscope.models.tiling import enable_tiling, works_in_tiles
from layerscope.models.weight_files import make_readable
from layerscope.shipped import here_or_shipped, shipped
from layerscope.types import PositionGrid

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class DiffusersAutoencoder(nn.Module):
    """AutoencoderKL, VQModel, AutoencoderTiny or AutoencoderDC, from whatever they are stored in.

    Exactly one of ``source``, ``architecture`` and ``original_config`` says which; ``original_config`` also goes with
    a ``source`` that is a single original checkpoint. Weights are loaded strictly: one that is missing, unknown or of
    another shape is an error that names it. Like any new module it is in training mode; tasks call ``eval()``.

    Inputs are converted to the precision of the weights; posteriors and images come back in float32.

    Args:
        source: a local diffusers folder, a single checkpoint (``.safetensors``, ``.ckpt``, ``.pt``), or a hub id.
        subfolder: of the folder or hub repository, such as ``vae`` in a whole pipeline.
        original_config: the YAML of an original LDM model (``v1-inference.yaml``); alone, random weights of its
            ``ddconfig``.
        architecture: a diffusers JSON (path, or its content as a mapping): random weights.
        dtype: precision of the weights and the computation.
        tiling: encode and decode large images in overlapping tiles. Only AutoencoderTiny's answer stays the same (to
            1e-5, away from seams); ``layerscope.models.tiling`` says by how much the others' changes.
        tile_size: side of a tile in pixels; by default the model's own (``sample_size``, or 512).
        seed: of random weights; None draws from torch's global generator.
        initial_logvar: where the posterior's log-variance starts; for an AutoencoderKL whose last layer of the encoder
            is random. -6 lets a small VAE learn much faster than diffusers' start near 0.
        latent_channels: another width for the latent of an AutoencoderKL read from ``source``; tensors whose shape
            depends on it start new from ``seed``, and its factors are reset (``layerscope.models.latent_width``).

    Attributes:
        model: the diffusers module; train it, and export with ``save``.
        new_tensors: names of the tensors of ``model`` that ``latent_channels`` made new.
        source_name: what its weights come from, for summaries.
        pretrained: whether it began with the weights of ``source``, all of them.

    Raises:
        ConfigurationError: arguments that do not go together or do not describe a model.
        WeightsError: weights that are missing, incomplete, of another model, or not safe to read.
    """

    def __init__(
        self,
        source: str | None = None,
        subfolder: str | None = None,
        original_config: str | None = None,
        architecture: str | dict[str, Any] | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        tiling: bool = False,
        tile_size: int | None = None,
        seed: int | None = None,
        initial_logvar: float | None = None,
        latent_channels: int | None = None,
    ) -> None:
        super().__init__()
        if dtype not in DTYPES:
            raise ConfigurationError(f"dtype is {dtype!r}: expected one of {', '.join(DTYPES)}.")
        self.source_name = source or "random weights"
        if isinstance(architecture, str):
            architecture = str(here_or_shipped(architecture))
        if original_config is not None:
            original_config = str(here_or_shipped(original_config))
        if source is not None:  # a hub id stays what it is
            source = str(here_or_shipped(source)) if shipped(source).exists() else source
        check_latent_channels(latent_channels, source)
        self.model = _build(source, subfolder, original_config, architecture, seed)
        self.new_tensors: tuple[str, ...] = ()
        if latent_channels is not None:
            self.model, self.new_tensors = with_latent_channels(self.model, latent_channels, seed)
        self.pretrained = source is not None and not self.new_tensors
        if initial_logvar is not None:
            if source is not None and not self.new_tensors:
                raise ConfigurationError(
                    "initial_logvar sets the start of a random autoencoder; with trained weights from source it would "
                    "overwrite part of the encoder. Remove it."
                )
            start_logvar_at(self.model, initial_logvar)
        self.model.train()
        if dtype != "float32":
            # Not diffusers' own `to`, which warns of an empty list of modules that ought to stay in float32.
            nn.Module.to(self.model, DTYPES[dtype])
        self._downsampling = downsampling_of(self.model)
        if tiling:
            enable_tiling(self.model, self._downsampling, tile_size)
        elif tile_size is not None:
            raise ConfigurationError(
                f"tile_size is {tile_size} but tiling is off. Set tiling: true, or remove tile_size."
            )

    @property
    def config(self) -> Mapping[str, Any]:
        """The diffusers configuration of ``model``."""
        config: Mapping[str, Any] = self.model.config  # type: ignore[assignment]
        return config

    @property
    def latent_channels(self) -> int:
        """Channels of the latent that ``encode`` gives and ``decode`` takes."""
        # A VQModel's codebook may be of another width than its encoder's last convolution.
        width = self.config.get("vq_embed_dim") or self.config["latent_channels"]
        return int(width)

    @property
    def codebook_size(self) -> int | None:
        """Entries of a VQModel's codebook; None for the others, whose latents are continuous."""
        size = self.config.get("num_vq_embeddings")
        return None if size is None else int(size)

    @property
    def downsampling(self) -> int:
        """Pixels per latent position along each side."""
        return self._downsampling

    @property
    def layer_root(self) -> nn.Module:
        """``model``: layers are named as diffusers names them."""
        return self.model

    @property
    def default_layers(self) -> tuple[str, ...]:
        """The decoder at block granularity, as far as this model has it."""
        return decoder_layers(self.model)

    def position_grid(self, shape: tuple[int, ...], image_size: tuple[int, int]) -> PositionGrid | None:
        """Of an activation (B, C, h, w) of ``layer_root``, or (B, h, w, C) in AutoencoderDC's norms and attention.

        None for anything else: inside an AutoencoderKL's attention positions stand in one row. None too where the model
        cuts the image into tiles: which part of it an activation belongs to is not known.
        """
        if len(shape) != 4 or works_in_tiles(self.model, image_size):
            return None
        return map_grid(shape, image_size, POWERS_OF_TWO, any_map=True)

    def encode(self, x: Tensor) -> GaussianPosterior | PointPosterior:
        """Images to the posterior over raw latents.

        A VQModel's latents are those before quantisation; its ``decode`` quantises.

        Args:
            x: (B, 3, H, W) in [-1, 1].

        Raises:
            ConfigurationError: H or W is no multiple of ``downsampling``, or the number of channels is wrong.
        """
        self._check_image(x)
        encoded = self.model.encode(x.to(self._dtype))  # type: ignore[operator]
        if hasattr(encoded, "latent_dist"):
            gaussian = encoded.latent_dist
            return GaussianPosterior(gaussian.mean.float(), torch.exp(0.5 * gaussian.logvar.float()))
        # Tiny and VQ call it latents, DC calls it latent.
        point = encoded.latents if hasattr(encoded, "latents") else encoded.latent
        return PointPosterior(point.float())

    def decode(self, z: Tensor) -> Tensor:
        """Raw latents (B, C, h, w) to images float32 (B, 3, H, W), not clamped."""
        if z.ndim != 4 or z.shape[1] != self.latent_channels:
            raise ConfigurationError(
                f"The {type(self.model).__name__} decodes latents (B, {self.latent_channels}, h, w) and was given "
                f"{tuple(z.shape)}."
            )
        image: Tensor = self.model.decode(z.to(self._dtype)).sample  # type: ignore[operator]
        return image.float()

    def scale(self, z: Tensor) -> Tensor:
        """Raw latents to those of the diffusion model, as diffusers' pipelines do it.

        With ``latents_mean`` and ``latents_std`` in the config: (z − mean) · scaling_factor / std per channel;
        otherwise (z − shift_factor) · scaling_factor. AutoencoderTiny's own ``scale_latents``, which clamps to [0, 1]
        for storage, is another thing.
        """
        shift, factor = self._affine(z)
        return (z - shift) * factor

    def unscale(self, z: Tensor) -> Tensor:
        """The inverse of ``scale``."""
        shift, factor = self._affine(z)
        return z / factor + shift

    def update_config(self, entries: Mapping[str, Any]) -> dict[str, Any]:
        """Sets those ``entries`` of ``config`` that the model's class has a place for, and returns them.

        AutoencoderKL alone has ``latents_mean`` and ``latents_std``; VQModel and AutoencoderDC have no shift either.
        """
        known = inspect.signature(type(self.model).__init__).parameters
        written = {name: value for name, value in entries.items() if name in known}
        self.model.register_to_config(**written)  # type: ignore[operator]
        return written

    def save(self, path: str | Path) -> None:
        """Writes a diffusers folder, which ``source`` reads; each file whole or not at all."""
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as partial:
            self.model.save_pretrained(partial)  # type: ignore[operator]
            for file in Path(partial).iterdir():
                make_readable(file)
                os.replace(file, path / file.name)

    @property
    def _dtype(self) -> torch.dtype:
        """Of the weights as they are now: Lightning may have converted them."""
        return next(self.model.parameters()).dtype

    def _affine(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Shift and factor of ``scale``, each broadcastable to z."""
        get = self.config.get
        factor = z.new_tensor(1.0 if get("scaling_factor") is None else get("scaling_factor"))
        mean, std = get("latents_mean"), get("latents_std")
        if mean is not None and std is not None:
            return z.new_tensor(list(mean)).view(1, -1, 1, 1), factor / z.new_tensor(list(std)).view(1, -1, 1, 1)
        return z.new_tensor(get("shift_factor") or 0.0), factor

    def _check_image(self, x: Tensor) -> None:
        channels = int(self.config["in_channels"])
        if x.ndim != 4 or x.shape[1] != channels:
            raise ConfigurationError(
                f"The {type(self.model).__name__} encodes images (B, {channels}, H, W) and was given {tuple(x.shape)}."
            )
        height, width = x.shape[-2:]
        if height % self.downsampling or width % self.downsampling or 0 in (height, width):
            step = self.downsampling
            near = " or ".join(f"{w} × {h}" for w, h in _divisible(width, height, step))
            raise ConfigurationError(
                f"Images of {width} × {height} pixels do not divide by the autoencoder's downsampling of {step}: it "
                f"would crop them silently. Set the data's image_size or center_crop_size to multiples of {step}, such "
                f"as {near}."
            )


def _divisible(width: int, height: int, step: int) -> list[tuple[int, int]]:
    """The next smaller (if any) and the next larger size that divide."""
    smaller = (width // step * step, height // step * step)
    larger = (-(-width // step) * step, -(-height // step) * step)
    return [size for size in (smaller, larger) if min(size) > 0]


def _build(
    source: str | None,
    subfolder: str | None,
    original_config: str | None,
    architecture: str | dict[str, Any] | None,
    seed: int | None,
) -> nn.Module:
    given = [name for name, value in (("source", source), ("architecture", architecture)) if value is not None]
    if len(given) != 1 and not (original_config is not None and not given):
        raise ConfigurationError(
            "Give exactly one of source (a diffusers folder, a checkpoint file or a hub id), architecture (a diffusers "
            "JSON, random weights) and original_config alone (an LDM YAML, random weights); "
            f"given: {', '.join(given) or 'none'}."
        )
    if source is None:
        if subfolder is not None:
            raise ConfigurationError(f"subfolder is {subfolder!r} without a source: it names a folder inside one.")
        if architecture is None:
            assert original_config is not None
            return build_random_ldm(original_config, seed)
        if original_config is not None:
            raise ConfigurationError("architecture and original_config both describe the model: give one of them.")
        return build_random(architecture, seed)
    path = Path(source).expanduser()
    if not path.is_file():
        if original_config is not None and not path.suffix:
            raise ConfigurationError(
                f"original_config goes with a single original checkpoint file; {source} is none, and a diffusers "
                "folder or hub repository brings its own config.json. Remove original_config, or give the file."
            )
        return load_pretrained(source, subfolder)
    if subfolder is not None:
        raise ConfigurationError(f"subfolder is {subfolder!r}, but {source} is a file.")
    if original_config is None:
        beside = (path.parent / "config.json").is_file()
        raise ConfigurationError(
            f"{source} is a single file, which does not say its architecture. "
            + ("`layerscope export` makes a folder of a training's checkpoint. " if path.suffix == ".ckpt" else "")
            + (
                f"There is a config.json beside it: give the folder {path.parent} as source."
                if beside
                else "Set original_config to the model's YAML (v1-inference.yaml for Stable Diffusion 1 and its "
                "fine-tuned VAEs), or put the file into a folder with its diffusers config.json as "
                "diffusion_pytorch_model.safetensors and give the folder."
            )
        )
    return load_ldm_file(path, original_config)


def downsampling_of(model: nn.Module) -> int:
    """Pixels per latent position of a diffusers autoencoder: 2 to the number of its levels less one."""
    config: Any = model.config
    match type(model).__name__:
        case "AutoencoderDC":
            return int(model.spatial_compression_ratio)  # type: ignore[arg-type]
        case "AutoencoderTiny":
            down = 2 ** (len(config["encoder_block_out_channels"]) - 1)
            up = int(config["upsampling_scaling_factor"]) ** (len(config["decoder_block_out_channels"]) - 1)
            if down != up:
                raise ConfigurationError(
                    f"This AutoencoderTiny shrinks images by {down} and enlarges latents by {up}; its encoder and "
                    "decoder need equally many levels, and upsampling_scaling_factor 2."
                )
            return down
        case "AutoencoderKL" | "VQModel":
            return 2 ** (len(config["block_out_channels"]) - 1)
        case name:
            raise ConfigurationError(f"layerscope does not know the downsampling of {name}.")


def start_logvar_at(model: nn.Module, logvar: float) -> None:
    """Makes an AutoencoderKL's posterior log-variance constant at the start: zero weights, bias ``logvar``."""
    if type(model).__name__ != "AutoencoderKL":
        raise ConfigurationError(f"initial_logvar is for AutoencoderKL; a {type(model).__name__} has no variance.")
    autoencoder: Any = model
    quant_conv = autoencoder.quant_conv
    last = quant_conv if quant_conv is not None else autoencoder.encoder.conv_out
    half = last.out_channels // 2
    with torch.no_grad():
        last.weight[half:] = 0.0
        last.bias[half:] = logvar

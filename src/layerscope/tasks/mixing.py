"""Reconstructions in the place of some training images: augmentation by an autoencoder."""

from __future__ import annotations

import hashlib
import json
import math
import platform
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningModule
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from layerscope.artifacts import package_versions
from layerscope.data.hashing import definition_hash, weights_hash
from layerscope.data.images_to_measure import images_to_measure
from layerscope.data.reconstruction_cache import ReconstructionCache
from layerscope.data.records import SPLITS
from layerscope.errors import ConfigurationError, DataError
from layerscope.functional.controls import from_uint8
from layerscope.functional.mixing import MixedIn, mixed_in
from layerscope.losses.frozen import Frozen
from layerscope.protocols import Autoencoder, SplitIds
from layerscope.tasks.diagnosis.latent_space import LatentSpace, NoiseProcess, measure_latent_space
from layerscope.tasks.reconstruction import reconstruct
from layerscope.types import Batch

_THREADS = 4


@dataclass
class Mixing:
    """How often a training sample is the image x, its reconstruction, or one from a noisy latent.

    P(x) = 1 − mix, P(recon(x)) = mix·(1 − noisy), P(recon(x, t)) = mix·noisy. A sample's part in an epoch follows from
    (seed, epoch, id) alone (``functional.mixing``). A reconstruction is what ``tasks.reconstruction`` writes into a
    file: decoded, clamped and rounded to 256 levels; the random augmentation comes after it.

    autoencoder: satisfies ``layerscope.protocols.Autoencoder``; frozen, on the device of the training, in its
        precision, and in no checkpoint.
    mix: share of the samples that are reconstructions, from 0 (no autoencoder is called) to 1.
    noisy: share of these that are decoded from a noisy latent.
    timesteps: different steps of the noise schedule above 0, chosen with equal probability.
    draws: number of different noises of an image at a step, chosen with equal probability; a finite number, so that
        reconstructions can be kept. The first is that of ``tasks.reconstruction``.
    noise: the noise, in units of latents that are measured on images of train.
    posterior: ``mode`` encodes to the posterior's mode, ``sample`` draws from it, once per image, from the noise seed.
    seed: of the decisions.
    cache: folder that keeps reconstructions from epoch to epoch and run to run; null makes each anew. With and without
        it the same images are trained on, bit by bit.
    cache_gigabytes: bound of all files in it, in 10⁹ bytes; an entry takes 3 bytes a pixel.
    """

    autoencoder: nn.Module
    mix: float
    noisy: float = 0.0
    timesteps: list[int] = field(default_factory=list)
    draws: int = 4
    noise: NoiseProcess = field(default_factory=NoiseProcess)
    posterior: Literal["mode", "sample"] = "mode"
    seed: int = 0
    cache: str | None = None
    cache_gigabytes: float = 20.0

    def __post_init__(self) -> None:
        if not isinstance(self.autoencoder, Autoencoder):
            raise ConfigurationError(
                f"mixing.autoencoder is a {type(self.autoencoder).__name__}, which is no "
                "layerscope.protocols.Autoencoder: it needs encode, decode, latent_channels, downsampling, scale, "
                "unscale."
            )
        for name in ("mix", "noisy"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigurationError(f"mixing.{name} is {getattr(self, name)}: expected a share between 0 and 1.")
        schedule = self.noise.schedule()
        first = max(1, schedule.first_step)
        if any(not first <= t <= schedule.last_step for t in self.timesteps) or len(set(self.timesteps)) < len(
            self.timesteps
        ):
            raise ConfigurationError(
                f"mixing.timesteps is {self.timesteps}: expected different steps of the {schedule.name} schedule, "
                f"{first} to {schedule.last_step}. Reconstructions without noise are what mixing.noisy leaves."
            )
        if self.noisy > 0 and not self.timesteps:
            raise ConfigurationError(
                f"mixing.noisy is {self.noisy}, but mixing.timesteps names no step of the noise schedule. Name some, "
                "such as [52, 153], or set mixing.noisy to 0."
            )
        if self.draws < 1:
            raise ConfigurationError(f"mixing.draws is {self.draws}: expected at least 1.")
        if self.posterior not in ("mode", "sample"):
            raise ConfigurationError(f"mixing.posterior is {self.posterior!r}: expected mode or sample.")
        if not (self.cache_gigabytes > 0 and math.isfinite(self.cache_gigabytes)):
            raise ConfigurationError(
                f"mixing.cache_gigabytes is {self.cache_gigabytes}: expected a number above 0. To keep no "
                "reconstructions set mixing.cache to null."
            )


class Mixer:
    """Puts reconstructions into batches of training images, and refuses any other image.

    Deliberately no ``nn.Module``, like ``losses.frozen.Frozen``; averaged copies of the task share it.

    Each image is reconstructed by itself: in a batch the arithmetic may round differently by what else is in it, and
    what was kept from one batch would not be what another makes.
    """

    def __init__(self, settings: Mixing) -> None:
        self._settings = settings
        self._autoencoder = Frozen(settings.autoencoder)
        denoiser = settings.noise.denoiser
        self._denoiser = Frozen(denoiser) if isinstance(denoiser, nn.Module) else None
        self._weights_hash = weights_hash(settings.autoencoder)
        self._space: LatentSpace | None = None
        self._cache: ReconstructionCache | None = None
        # What a reconstruction at each step is made with, besides image and draw.
        self._made_with: dict[int, bytes] = {}
        self._train_ids: frozenset[str] = frozenset()
        self.start_epoch()

    def __deepcopy__(self, memo: dict[int, Any]) -> Mixer:
        return self

    def start(self, module: LightningModule) -> None:
        """Checks splits and sizes, and measures latents, before a training.

        Raises:
            ConfigurationError: an image of train is in another split too, or the autoencoder's downsampling does not
                divide the images.
        """
        settings, trainer = self._settings, module.trainer
        data: Any = getattr(trainer, "datamodule", None)
        self._train_ids = _train_ids(data)
        if settings.mix == 0:
            return
        trainer.precision_plugin.convert_module(settings.autoencoder)
        autoencoder = self._autoencoder.on(module.device)
        # Not the trainer's own loader, which may not exist yet, but one of the same images.
        loader = data.train_dataloader()
        if not isinstance(loader, DataLoader):
            raise ConfigurationError(
                f"The datamodule's train_dataloader gives a {type(loader).__name__}; mixing needs one "
                "torch.utils.data.DataLoader with a map-style data set, to measure and check images of train."
            )
        _check_size(loader, autoencoder)
        if settings.noisy > 0:
            self._space = measure_latent_space(module, autoencoder, settings.noise, loader, settings.posterior)
        if settings.cache is not None:
            self._threads = ThreadPoolExecutor(_THREADS)
            self._cache = ReconstructionCache(settings.cache, settings.cache_gigabytes, trainer.world_size)
            steps = [0, *settings.timesteps] if settings.noisy > 0 else [0]
            self._made_with = {t: self._key_of_step(t, module) for t in steps}

    def start_epoch(self) -> None:
        """Counts from zero."""
        self._samples = self._mixed = self._found = 0

    def figures(self) -> dict[str, float]:
        """Of the epoch: the share of the samples that were reconstructions, and the share of these that were read."""
        figures = {"mixed_fraction": self._mixed / max(1, self._samples)}
        if self._cache is not None:
            figures["cache_hits"] = self._found / max(1, self._mixed)
        return figures

    @torch.no_grad()
    def mix(self, batch: Batch, epoch: int) -> list[Tensor]:
        """The B images (3, H, W) of a batch of train, some of them as reconstructions.

        Raises:
            ConfigurationError: an image is not of train.
        """
        image, ids, settings = batch["image"], batch["id"], self._settings
        strangers = [name for name in ids if name not in self._train_ids]
        if strangers:
            raise ConfigurationError(
                f"The training met {len(strangers)} images that the datamodule does not count to train (first: "
                f"{strangers[0]!r}), and reconstructions are mixed into images of train only: val and test stay real. "
                "Correct the training loader or split_ids of the datamodule, or take `mixing` out."
            )
        chosen = mixed_in(ids, epoch, settings.seed, settings.mix, settings.noisy, settings.timesteps, settings.draws)
        replaced = [(row, one) for row, one in enumerate(chosen) if one is not None]
        self._samples += len(ids)
        self._mixed += len(replaced)
        if not replaced:
            return list(image)
        pictures = self._pictures(
            [image[row] for row, _ in replaced], [ids[row] for row, _ in replaced], [one for _, one in replaced]
        )
        images = list(image)
        for (row, _), picture in zip(replaced, from_uint8(pictures).to(image.dtype)):
            images[row] = picture
        return images

    def describe(self) -> dict[str, Any]:
        """What a summary says of the mixing; plain values."""
        settings = self._settings
        noisy = {"timesteps": settings.timesteps, "draws": settings.draws, "noise_seed": settings.noise.seed}
        return {
            "fractions": {
                "image": 1 - settings.mix,
                "reconstruction": settings.mix * (1 - settings.noisy),
                "noisy_reconstruction": settings.mix * settings.noisy,
            },
            "autoencoder": type(settings.autoencoder).__name__,
            "autoencoder_weights": self._weights_hash,
            "posterior": settings.posterior,
            "seed": settings.seed,
            **(noisy if settings.noisy > 0 else {}),
            "cache": settings.cache,
        }

    # -- parts ---------------------------------------------------------------------------------------------------

    def _pictures(self, images: list[Tensor], ids: list[str], chosen: list[MixedIn]) -> Tensor:
        """Reconstructions of images (3, H, W) as uint8 on their device, read or made."""
        if self._cache is None:
            return torch.stack([self._made(*one) for one in zip(images, ids, chosen)])
        arrays = [image.float().cpu().contiguous().numpy() for image in images]
        # Hashing, reading and checking let go of the interpreter's lock.
        looked_up = list(self._threads.map(self._look_up, arrays, ids, chosen))
        pictures: list[Tensor] = []
        for image, name, choice, (key, kept) in zip(images, ids, chosen, looked_up):
            if kept is None:
                picture = self._made(image, name, choice)
                self._cache.write(key, picture.cpu().numpy())
            else:
                self._found += 1
                picture = torch.from_numpy(kept.copy())
            pictures.append(picture)
        return torch.stack([picture.to(images[0].device) for picture in pictures])

    def _look_up(self, image: NDArray[np.float32], name: str, chosen: MixedIn) -> tuple[str, NDArray[np.uint8] | None]:
        """The key of a reconstruction, and what the cache holds under it."""
        assert self._cache is not None
        # Of the numbers as they are: images that differ by less than a step of 8 bits are two images.
        key = hashlib.sha256(self._made_with[chosen.timestep])
        key.update(f"{chosen.draw}\x1f{name}\x1f{image.shape}\x1f".encode())
        key.update(image.data)
        return key.hexdigest(), self._cache.read(key.hexdigest(), image.shape)

    def _made(self, image: Tensor, name: str, chosen: MixedIn) -> Tensor:
        """The reconstruction of one image (3, H, W), uint8."""
        settings = self._settings
        return reconstruct(
            self._autoencoder.on(image.device),
            image[None],
            [name],
            settings.posterior,
            settings.noise,
            chosen.timestep,
            self._space if chosen.timestep else None,
            None if self._denoiser is None else self._denoiser.on(image.device),
            chosen.draw,
        )[0]

    def _key_of_step(self, timestep: int, module: LightningModule) -> bytes:
        """All that decides a reconstruction besides its image, its id and its draw."""
        settings, device = self._settings, module.device
        parts: dict[str, Any] = {
            "autoencoder": definition_hash(settings.autoencoder),
            "posterior": settings.posterior,
            "noise_seed": settings.noise.seed,
            # Other machines, libraries and precisions may round differently.
            "precision": str(module.trainer.precision),
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device} {platform.machine()}",
            "torch": torch.__version__,
            **package_versions(("diffusers", "layerscope")),
        }
        if timestep:
            assert self._space is not None
            denoiser = settings.noise.denoiser
            parts |= {
                "timestep": timestep,
                "alpha_sigma": settings.noise.schedule().alpha_sigma(timestep),
                "latent_normalisation": settings.noise.latent_normalisation,
                "latents": self._space.hash(),
                "denoiser": denoiser if isinstance(denoiser, str) else definition_hash(denoiser),
            }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()


def _train_ids(data: Any) -> frozenset[str]:
    """Ids of train, checked to be in no other split."""
    if not isinstance(data, SplitIds):
        raise ConfigurationError(
            f"Reconstructions are mixed into images of train only, and a {type(data).__name__} does not tell which "
            "those are. Use one of layerscope's datamodules, or give yours split_ids (layerscope.protocols.SplitIds)."
        )
    train = frozenset(data.split_ids("train"))
    for split in SPLITS:
        shared = sorted(train.intersection(data.split_ids(split))) if split != "train" else []
        if shared:
            raise ConfigurationError(
                f"{len(shared)} images are in train and in {split} (first: {shared[0]!r}). Reconstructions are mixed "
                f"into images of train, and {split} is judged on real ones: take them out of one of the two."
            )
    return train


def _check_size(loader: DataLoader[Any], autoencoder: Autoencoder) -> None:
    """Raises where the first image does not divide by the downsampling; later ones are checked as they come."""
    batch = next(iter(images_to_measure(loader, 1)))
    height, width = batch["image"].shape[-2:]
    if height % autoencoder.downsampling or width % autoencoder.downsampling:
        nearest = max(1, min(height, width) // autoencoder.downsampling) * autoencoder.downsampling
        raise DataError(
            f"The training image {batch['id'][0]!r} has {width}×{height} pixels, which the downsampling of "
            f"mixing.autoencoder, {autoencoder.downsampling}, does not divide. Set data.init_args.image_size or "
            f"data.init_args.center_crop_size to a multiple of it, such as {nearest}."
        )

"""The exact phantom: disks in white noise, for which the answer of a diagnosis is known in closed form.

An image is s_n·n + Σ_l y_l·c_l·T_l: white noise n with standard deviation s_n and, for each positive label l, one disk
T_l. The contrast c_l = d'·s_n/‖T_l‖ gives every label the same detectability d' on real images, so that only the size
of its disk tells labels apart. Each label has one fixed place per data set, drawn from the data set's seed; since the
alignment with the blocks of an autoencoder matters, average over several seeds (several data sets).

Closed forms, with Φ the normal distribution function, P the block mean over k × k pixels and η = ‖P T‖²/‖T‖²:

    real            AUROC = Φ(d'/√2)
    reconstruction  AUROC = Φ(d'·√η/√2)
    noise at t      AUROC = Φ(c·‖P T‖/√(2·(s_n² + κ²σ²/α²)))

κ is the gain from unit latent noise to the noise of the filtered image: see ``noise_gain``.
Images are stored in 16 bits, so quantisation adds (1/65535)²/12 to a variance of at least 1e-4: less than 1e-6 of it.
What remains between theory and measurement is sampling of the test images; its standard error is DeLong's.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from layerscope.data.phantom.shapes import IMAGE, LAYOUT, Array, disk_patch, stream, window
from layerscope.errors import ConfigurationError, DataError

DIAMETERS = (3.0, 6.0, 12.0, 24.0, 48.0)
RECORD = "phantom.json"


@dataclass(frozen=True)
class ExactSettings:
    """An exact phantom.

    size: side of the images in pixels. lesion_sizes: diameters in pixels, one label each. seed: of places and images.
    noise: s_n in units of [-1, 1]. d_prime: detectability on real images. prevalence: share of positives.
    """

    size: int = 128
    lesion_sizes: tuple[float, ...] = DIAMETERS
    seed: int = 0
    noise: float = 0.12
    d_prime: float = 2.5
    prevalence: float = 0.3

    def __post_init__(self) -> None:
        if len(set(self.lesion_sizes)) != len(self.lesion_sizes) or not self.lesion_sizes:
            raise ConfigurationError(
                f"The exact phantom has one label per lesion size, so they must differ; got {self.lesion_sizes}."
            )
        if min(self.lesion_sizes) < 1:
            raise ConfigurationError(f"A disk needs a diameter of at least 1 pixel, got {min(self.lesion_sizes)}.")
        if not 0 < self.prevalence < 1 or self.noise <= 0 or self.d_prime <= 0:
            raise ConfigurationError(
                "The exact phantom needs a prevalence between 0 and 1, and noise and d_prime above 0."
            )

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(f"disk_{size:04.1f}px" if size % 1 else f"disk_{int(size):02d}px" for size in self.lesion_sizes)


@dataclass(frozen=True)
class Disk:
    """A label's disk: centre and diameter in pixels, contrast in units of [-1, 1]."""

    label: str
    x: float
    y: float
    diameter: float
    contrast: float


def layout(settings: ExactSettings) -> tuple[Disk, ...]:
    """The place and contrast of each label's disk.

    Disks keep a distance of 10 px at 128 px, so that no two share a block of up to 8 × 8: labels do not disturb one
    another, neither on real images nor on block means.
    """
    size = settings.size
    gap = size * 10 / 128
    for attempt in range(200):
        rng = stream(settings.seed, LAYOUT, attempt)
        placed: dict[int, tuple[float, float]] = {}
        for place in sorted(range(len(settings.lesion_sizes)), key=lambda p: -settings.lesion_sizes[p]):
            radius = settings.lesion_sizes[place] / 2
            free = size - 2 * radius - 2
            for _ in range(200 if free > 0 else 0):
                x, y = 1 + radius + rng.random(2) * free
                if all(
                    math.hypot(x - other_x, y - other_y) >= radius + settings.lesion_sizes[other] / 2 + gap
                    for other, (other_x, other_y) in placed.items()
                ):
                    placed[place] = (round(float(x), 3), round(float(y), 3))
                    break
            else:
                break
        if len(placed) == len(settings.lesion_sizes):
            return tuple(
                Disk(label, *placed[p], diameter, _contrast(settings, template(size, *placed[p], diameter)))
                for p, (label, diameter) in enumerate(zip(settings.labels, settings.lesion_sizes))
            )
    sizes = ", ".join(f"{diameter:g}" for diameter in settings.lesion_sizes)
    raise ConfigurationError(
        f"Disks of {sizes} pixels with {gap:.0f} pixels between them do not fit into an image of {size}. "
        "Choose smaller lesion sizes or larger images."
    )


def _contrast(settings: ExactSettings, disk: Array) -> float:
    return settings.d_prime * settings.noise / float(np.linalg.norm(disk.astype(np.float64)))


def template(size: int, x: float, y: float, diameter: float) -> Array:
    """The disk T as an image (size, size) with values in [0, 1]."""
    image = np.zeros((size, size), np.float32)
    patch, left, top = disk_patch(diameter, x, y)
    where, inside = window(patch, left, top, size)
    image[where] = inside
    return image


def exact_image(
    settings: ExactSettings, disks: tuple[Disk, ...], templates: Array, index: int
) -> tuple[NDArray[np.uint16], list[Disk]]:
    """Image ``index`` as 16-bit grey (size, size), 0 to 65535 for [-1, 1], and its disks; ``templates`` (L, H, W)."""
    rng = stream(settings.seed, IMAGE, index)
    present = rng.random(len(disks)) < settings.prevalence
    image = rng.standard_normal((settings.size, settings.size), dtype=np.float32) * np.float32(settings.noise)
    for disk, shape in zip([d for d, there in zip(disks, present) if there], templates[present]):
        image += np.float32(disk.contrast) * shape
    stored = np.clip((image + 1) / 2, 0, 1) * 65535
    return (stored + 0.5).astype(np.uint16), [disk for disk, there in zip(disks, present) if there]


@dataclass(frozen=True)
class ExactRecord:
    """What a written exact phantom tells about itself."""

    settings: ExactSettings
    disks: tuple[Disk, ...]

    def templates(self) -> Array:
        """(L, size, size)."""
        return np.stack([template(self.settings.size, d.x, d.y, d.diameter) for d in self.disks])


def read_record(root: str | Path) -> ExactRecord:
    """Reads ``phantom.json`` of an exact phantom in the directory ``root``."""
    path = Path(root) / RECORD
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        disks = tuple(Disk(**disk) for disk in content["disks"])
        settings = ExactSettings(**{**content["settings"], "lesion_sizes": tuple(content["settings"]["lesion_sizes"])})
    except FileNotFoundError as error:
        raise DataError(
            f"{root} is no phantom: it has no {RECORD}. Write one with `layerscope phantom {root} --kind exact`."
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} does not describe an exact phantom ({type(error).__name__}: {error}). Write one with "
            "`layerscope phantom OUT --kind exact`."
        ) from error
    return ExactRecord(settings, disks)


def block_mean(image: NDArray[Any], k: int) -> NDArray[np.float64]:
    """P: every k × k block replaced by its mean; (..., H, W) with sides divisible by k."""
    *lead, height, width = image.shape
    blocks = image.astype(np.float64).reshape(*lead, height // k, k, width // k, k).mean(axis=(-3, -1))
    return blocks.repeat(k, axis=-2).repeat(k, axis=-1)


def retained_energy(shape: NDArray[Any], k: int) -> float:
    """η = ‖P T‖²/‖T‖² in [0, 1] of a disk (H, W) at its place."""
    return float(np.square(block_mean(shape, k)).sum() / np.square(shape.astype(np.float64)).sum())


def auroc_real(d_prime: float) -> float:
    """Φ(d'/√2).

    >>> round(auroc_real(2.5), 4)
    0.9615
    """
    return float(ndtr(d_prime / math.sqrt(2)))


def auroc_recon(d_prime: float, eta: float) -> float:
    """Φ(d'·√η/√2)."""
    return auroc_real(d_prime * math.sqrt(eta))


def auroc_noise(
    disk: Disk, shape: NDArray[Any], k: int, *, noise: float, gain: float, alpha: float, sigma: float
) -> float:
    """Φ(c·‖P T‖/√(2·(s_n² + κ²σ²/α²))): block-mean latents with noise, z = α·z0 + σ·ε.

    shape: T (H, W). noise: s_n. gain: κ, from ``noise_gain``. alpha, sigma: of the step.
    """
    signal = disk.contrast * float(np.linalg.norm(block_mean(shape, k)))
    return float(ndtr(signal / math.sqrt(2 * (noise**2 + (gain * sigma / alpha) ** 2))))


def noise_gain(k: int, latent_std: float, channels: int = 3) -> float:
    """κ = k·s_z/√channels.

    The latent is the block mean of each of ``channels`` equal colour channels, and ε is scaled by its standard
    deviation s_z. A unit ε in each channel adds independent noise that averaging over channels divides by √channels;
    projected on P T it has k times the weight of pixel noise, because it is constant over k × k pixels.
    """
    return k * latent_std / math.sqrt(channels)

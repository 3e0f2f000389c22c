"""Forward noise processes z_t = alpha(t)·z + sigma(t)·eps, and noise that belongs to a sample, not to a batch.

alpha and sigma are computed in float64 from the schedule's own table. ``DDPMScheduler.add_noise`` of diffusers
takes them in the latent's type: in bfloat16 its sigma is zero at the first two steps.
"""

from __future__ import annotations

import hashlib
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from layerscope.errors import ConfigurationError

_LOG_SNR_STEPS = re.compile(r"log_snr\((\d+)\)")


class NoiseSchedule(ABC):
    """A forward process with numbered steps. Subclass it and name the subclass by ``class_path`` to bring your own.

    ``name`` and ``convention`` go into every summary: a decoder is not scale-invariant, so figures from a
    variance-preserving, an interpolating and a variance-exploding process do not compare.
    """

    name: str
    convention: str
    first_step: int = 0

    @property
    @abstractmethod
    def last_step(self) -> int:
        """The largest valid step."""

    @abstractmethod
    def alpha_sigma(self, t: int) -> tuple[float, float]:
        """alpha and sigma of step ``t`` in float64."""

    def log_snr(self, t: int) -> float:
        """ln(alpha² / sigma²) in nats; infinite at a noiseless step."""
        alpha, sigma = self.alpha_sigma(t)
        if sigma == 0:
            return math.inf
        if alpha == 0:
            return -math.inf
        return 2 * (math.log(alpha) - math.log(sigma))

    def steps(self, wanted: Sequence[int] | str) -> list[int]:
        """Sorted, validated steps from a list, or from ``"log_snr(n)"``: n steps equal in log-SNR.

        Step 0 always stands for the clean reconstruction, not for the first step of the table.

        >>> DDPMSchedule().steps("log_snr(10)")
        [0, 3, 14, 52, 153, 330, 538, 724, 875, 999]
        """
        if isinstance(wanted, str):
            match = _LOG_SNR_STEPS.fullmatch(wanted.replace(" ", ""))
            if match is None or int(match[1]) < 2:
                raise ConfigurationError(
                    f"noise.timesteps is {wanted!r}: expected a list of steps such as [0, 50, 100], or "
                    '"log_snr(n)" with n of at least 2 for n steps equal in log-SNR.'
                )
            return self._equal_log_snr_steps(int(match[1]))
        steps = sorted(set(wanted))
        outside = [t for t in steps if t != 0 and not self.first_step <= t <= self.last_step]
        if outside:
            raise ConfigurationError(
                f"noise.timesteps holds {outside}, but the {self.name} schedule has the steps {self.first_step} to "
                f"{self.last_step} (and 0 for the clean reconstruction)."
            )
        return steps

    def _equal_log_snr_steps(self, n: int) -> list[int]:
        candidates = [t for t in range(self.first_step, self.last_step + 1) if math.isfinite(self.log_snr(t))]
        log_snr = np.array([self.log_snr(t) for t in candidates])
        targets = np.linspace(log_snr[0], log_snr[-1], n)
        return sorted({candidates[int(np.abs(log_snr - target).argmin())] for target in targets})


class BetaSchedule(NoiseSchedule):
    """A variance-preserving process from a table of betas: alpha² = cumulative product of 1 − beta."""

    name = "betas"
    convention = "variance preserving: alpha² + sigma² = 1"

    def __init__(self, betas: list[float]) -> None:
        table = np.asarray(betas, dtype=np.float64)
        if table.ndim != 1 or len(table) == 0 or not ((table > 0) & (table < 1)).all():
            raise ConfigurationError("A table of betas is a list of numbers between 0 and 1, without the ends.")
        self._alphas_cumprod = np.cumprod(1 - table)

    @property
    def last_step(self) -> int:
        return len(self._alphas_cumprod) - 1

    def alpha_sigma(self, t: int) -> tuple[float, float]:
        alpha_squared = float(self._alphas_cumprod[t])
        return math.sqrt(alpha_squared), math.sqrt(1 - alpha_squared)


class DDPMSchedule(BetaSchedule):
    """The training schedule of Stable Diffusion 1.x, 2.x and SDXL (diffusers' ``DDPMScheduler``).

    All four numbers are said, since diffusers' own defaults (beta 1e-4 to 0.02) are another process: scaled_linear
    with those betas has at t = 300 the signal-to-noise ratio of SDXL's t = 211, and with the default linear table
    that of SDXL's t = 419.

    >>> schedule = DDPMSchedule()
    >>> round(schedule.log_snr(0), 2), round(schedule.log_snr(999), 2)
    (7.07, -5.36)
    """

    name = "ddpm"

    def __init__(
        self,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        beta_schedule: Literal["scaled_linear", "linear"] = "scaled_linear",
        num_train_timesteps: int = 1000,
    ) -> None:
        match beta_schedule:
            case "scaled_linear":
                betas = np.linspace(math.sqrt(beta_start), math.sqrt(beta_end), num_train_timesteps) ** 2
            case "linear":
                betas = np.linspace(beta_start, beta_end, num_train_timesteps)
            case _:
                raise ConfigurationError(f"beta_schedule is {beta_schedule!r}: expected scaled_linear or linear.")
        super().__init__(betas.tolist())


class FlowMatchSchedule(NoiseSchedule):
    """The straight path of rectified flow, z_s = (1 − s)·z + s·eps with s = t / 1000, as SD3 and Flux train.

    ``shift`` bends the time axis as these models do for larger images: s' = shift·s / (1 + (shift − 1)·s)
    (Esser et al. 2024, arXiv 2403.03206). Computed directly: diffusers' ``FlowMatchEulerDiscreteScheduler``
    raises an IndexError off its own grid.
    """

    name = "flow_match"
    convention = "linear interpolation: alpha + sigma = 1"
    first_step = 1

    def __init__(self, shift: float = 1.0) -> None:
        if shift <= 0:
            raise ConfigurationError(f"shift is {shift}: expected a positive number.")
        self.shift = shift

    @property
    def last_step(self) -> int:
        return 999

    def alpha_sigma(self, t: int) -> tuple[float, float]:
        s = t / 1000
        s = self.shift * s / (1 + (self.shift - 1) * s)
        return 1 - s, s


class TableSchedule(NoiseSchedule):
    """A process given as (alpha, sigma) pairs; step t is the t-th pair, counted from 1."""

    name = "custom"
    convention = "custom (alpha, sigma) pairs"
    first_step = 1

    def __init__(self, alpha_sigma: list[tuple[float, float]]) -> None:
        if not alpha_sigma or any(len(pair) != 2 or pair[0] < 0 or pair[1] <= 0 for pair in alpha_sigma):
            raise ConfigurationError(
                "noise.alpha_sigma is a list of [alpha, sigma] pairs with alpha of at least 0 and sigma above 0."
            )
        ratios = [alpha / sigma for alpha, sigma in alpha_sigma]
        if len(set(ratios)) < len(ratios):
            raise ConfigurationError(
                "Two pairs of noise.alpha_sigma have the same alpha / sigma, so the same log-SNR: curves against "
                "log-SNR cannot hold both. Diagnose them in two runs."
            )
        self._pairs = [(float(alpha), float(sigma)) for alpha, sigma in alpha_sigma]

    @property
    def last_step(self) -> int:
        return len(self._pairs)

    def alpha_sigma(self, t: int) -> tuple[float, float]:
        return self._pairs[t - 1]


def sample_noise(ids: Sequence[str], shape: Sequence[int], seed: int, draw: int | str) -> Tensor:
    """Standard normal noise of each sample from (seed, sample id, draw) alone, on the CPU.

    Batch size, order, rank and the step of the schedule do not enter, so a sample meets the same noise along the
    whole sweep and for every autoencoder of the same latent shape.

    Args:
        ids: B sample ids.
        shape: shape of one sample, such as (C, h, w).
        seed: the experiment's noise seed.
        draw: number of the draw, or a word for noise of another purpose.

    Returns:
        float32 (B, *shape).

    >>> a = sample_noise(["x", "y"], (4,), seed=1, draw=0)
    >>> bool((a[1] == sample_noise(["y"], (4,), seed=1, draw=0)[0]).all())
    True
    """
    return torch.stack([torch.randn(tuple(shape), generator=_generator(seed, name, draw)) for name in ids])


def _generator(seed: int, sample_id: str, draw: int | str) -> torch.Generator:
    digest = hashlib.blake2b(f"{seed}\x1f{draw}\x1f{sample_id}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def add_noise(z: Tensor, noise: Tensor, alpha: float, sigma: float) -> Tensor:
    """alpha·z + sigma·noise in float32 whatever the type of ``z``: (B, C, h, w)."""
    return alpha * z.float() + sigma * noise

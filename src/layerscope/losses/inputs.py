"""What the training task shows to every loss term."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class LossInputs:
    """One batch on its way through the autoencoder.

    image: float32 (B, 3, H, W) in [-1, 1], the originals.
    recon: float32 (B, 3, H, W), D(z), not clamped.
    mean, std: (B, C, h, w), the posterior over raw latents; std is not negative.
    noisy_recon: float32 (B, 3, H, W), D(z̃) of a noisy latent, not clamped; None where no noise was added.
    target: float32 (B, L) in {0, 1}; None where the data has no labels.
    known: bool (B, L); False where the label is missing or uncertain.
    batches: training batches seen so far, for warm-ups; not optimizer steps, which gradient accumulation and a second
        optimizer change.
    id: B sample ids, for messages.
    decode: raw latents (b, C, h', w') to images, for terms that decode latents of their own.
    latent: (B, C, h, w), the z that was decoded to ``recon``.
    """

    image: Tensor
    recon: Tensor
    mean: Tensor
    std: Tensor
    noisy_recon: Tensor | None = None
    target: Tensor | None = None
    known: Tensor | None = None
    batches: int = 0
    id: list[str] = field(default_factory=list)
    decode: Callable[[Tensor], Tensor] | None = None
    latent: Tensor | None = None

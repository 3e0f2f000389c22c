"""Reconstruction losses on pixels.

All of them compare the decoder's output as it is, not clamped to [-1, 1]: a clamp has no gradient outside, where it is
needed to pull values back.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from layerscope.errors import ConfigurationError
from layerscope.losses.choices import check_choice, check_positive
from layerscope.losses.inputs import LossInputs
from layerscope.losses.term import LossTerm

PixelDistance = Literal["l1", "mse", "charbonnier"]
PixelReduction = Literal["mean", "sum_per_image"]
SSIM_WINDOW = 11
CHARBONNIER_EPS = 1e-3


def pixel_distance(
    image: Tensor,
    original: Tensor,
    distance: PixelDistance,
    reduction: PixelReduction = "mean",
    eps: float = CHARBONNIER_EPS,
) -> Tensor:
    """|d|, d² or √(d² + eps²) of the differences d, in float32, as a scalar.

    Args:
        image, original: (B, 3, H, W) each.
        distance: ``charbonnier`` is the smooth l1 of Charbonnier et al. 1994, as Lai et al. 2017 (arXiv 1704.03915)
            train with it.
        reduction: ``mean`` over all elements; ``sum_per_image`` sums over an image and averages over images, 3·H·W
            times as much (the unit of LDM).
        eps: of ``charbonnier``, in pixel units; the loss is at least eps per element.
    """
    difference = image.float() - original.float()
    match distance:
        case "l1":
            elements = difference.abs()
        case "mse":
            elements = difference.square()
        case "charbonnier":
            elements = torch.sqrt(difference.square() + eps**2)
        case _:
            raise ConfigurationError(f"distance is {distance!r}: expected l1, mse or charbonnier.")
    match reduction:
        case "mean":
            return elements.mean()
        case "sum_per_image":
            return elements.flatten(1).sum(dim=1).mean()
        case _:
            raise ConfigurationError(f"reduction is {reduction!r}: expected mean or sum_per_image.")


class _Pixels(LossTerm):
    """A pixel distance of the reconstruction from the original."""

    def __init__(
        self, distance: PixelDistance, reduction: PixelReduction, eps: float, name: str, weight: float
    ) -> None:
        super().__init__(name, weight)
        check_choice(name, "distance", distance, get_args(PixelDistance))
        check_choice(name, "reduction", reduction, get_args(PixelReduction))
        check_positive(name, "eps", eps)
        self.distance: PixelDistance = distance
        self.reduction: PixelReduction = reduction
        self.eps = eps

    def forward(self, inputs: LossInputs) -> Tensor:
        return pixel_distance(inputs.recon, inputs.image, self.distance, self.reduction, self.eps)


class L1(_Pixels):
    """Mean absolute error of the reconstruction.

    Args:
        reduction: ``mean`` over all elements, or ``sum_per_image``, which is averaged over images.
        name, weight: of the term.
    """

    def __init__(self, reduction: PixelReduction = "mean", name: str = "l1", weight: float = 1.0) -> None:
        super().__init__("l1", reduction, CHARBONNIER_EPS, name, weight)


class MSE(_Pixels):
    """Mean squared error of the reconstruction.

    Args:
        reduction: ``mean`` over all elements, or ``sum_per_image``, which is averaged over images.
        name, weight: of the term.
    """

    def __init__(self, reduction: PixelReduction = "mean", name: str = "mse", weight: float = 1.0) -> None:
        super().__init__("mse", reduction, CHARBONNIER_EPS, name, weight)


class Charbonnier(_Pixels):
    """√(d² + eps²): squared error for differences well under eps, absolute error above.

    Args:
        eps: in units of the image, [-1, 1].
        reduction: ``mean`` over all elements, or ``sum_per_image``, which is averaged over images.
        name, weight: of the term.
    """

    def __init__(
        self,
        eps: float = CHARBONNIER_EPS,
        reduction: PixelReduction = "mean",
        name: str = "charbonnier",
        weight: float = 1.0,
    ) -> None:
        super().__init__("charbonnier", reduction, eps, name, weight)


class NoisyReconstruction(_Pixels):
    """A pixel distance of the reconstruction of a noisy latent, D(z̃), from the original.

    Args:
        distance: ``l1``, ``mse`` or ``charbonnier``.
        reduction: ``mean`` over all elements, or ``sum_per_image``, which is averaged over images.
        eps: of ``charbonnier``.
        name, weight: of the term.
    """

    needs_noisy_recon = True

    def __init__(
        self,
        distance: PixelDistance = "l1",
        reduction: PixelReduction = "mean",
        eps: float = CHARBONNIER_EPS,
        name: str = "noisy_reconstruction",
        weight: float = 1.0,
    ) -> None:
        super().__init__(distance, reduction, eps, name, weight)

    def forward(self, inputs: LossInputs) -> Tensor:
        if inputs.noisy_recon is None:
            raise ConfigurationError(f"{self.name} needs noisy_recon, and the inputs have none.")
        return pixel_distance(inputs.noisy_recon, inputs.image, self.distance, self.reduction, self.eps)


class SSIM(LossTerm):
    """1 − SSIM (Wang et al. 2004), in [0, 2], 0 for identical images; the mean over images.

    torchmetrics' function with its Gaussian window of 11 pixels. Both images are shifted from [-1, 1] to [0, 2] first,
    with a data range of 2, so that the value is that of 8-bit images: on [-1, 1] itself mid-grey counts as black and
    the luminance term changes sign with it. Always float32: in bfloat16 the local variances cancel.

    Args:
        name, weight: of the term.
    """

    def __init__(self, name: str = "ssim", weight: float = 1.0) -> None:
        super().__init__(name, weight)

    def forward(self, inputs: LossInputs) -> Tensor:
        from torchmetrics.functional.image import structural_similarity_index_measure

        height, width = inputs.image.shape[-2:]
        if min(height, width) < SSIM_WINDOW:
            raise ConfigurationError(
                f"{self.name} compares windows of {SSIM_WINDOW} pixels and was given images of {width} × {height}. "
                "Train on larger images or crops, or remove the term."
            )
        with torch.autocast(inputs.recon.device.type, enabled=False):
            similarity = structural_similarity_index_measure(
                inputs.recon.float() + 1, inputs.image.float() + 1, data_range=2.0
            )
        if not isinstance(similarity, Tensor):
            raise TypeError("torchmetrics gave the full SSIM image, which was not asked for.")
        return 1 - similarity

"""The adversarial part: a patch discriminator, its losses, and the weight that balances the generator's.

Whoever trains with these freezes the discriminator in the generator's step and detaches the reconstruction in the
discriminator's, and counts its start in batches: ``trainer.global_step`` counts the steps of both optimizers.
"""

from __future__ import annotations

import itertools
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layerscope.errors import ConfigurationError
from layerscope.losses.choices import check_choice

DiscriminatorNorm = Literal["group", "batch", "none"]
_GROUPS = 32


class PatchDiscriminator(nn.Module):
    """PatchGAN (Isola et al. 2017, arXiv 1611.07004): one logit for each patch, 70 × 70 pixels with three layers.

    A 4 × 4 convolution of stride 2; ``n_layers − 1`` more with a norm, doubling the channels up to 8 times; one of
    stride 1; and one to the logits. Leaky ReLU of slope 0.2; weights start from N(0, 0.02²).

    Args:
        in_channels: of the images.
        base_channels: of the first layer.
        n_layers: convolutions of stride 2.
        norm: ``group`` (of up to 32 groups) judges each image by itself; ``batch`` is the original, whose statistics
            differ between ranks and between batches of real and reconstructed images; ``none``.
    """

    def __init__(
        self, in_channels: int = 3, base_channels: int = 64, n_layers: int = 3, norm: DiscriminatorNorm = "group"
    ) -> None:
        super().__init__()
        check_choice("PatchDiscriminator", "norm", norm, get_args(DiscriminatorNorm))
        if min(in_channels, base_channels, n_layers) < 1:
            raise ConfigurationError(
                f"PatchDiscriminator has in_channels {in_channels}, base_channels {base_channels} and n_layers "
                f"{n_layers}: expected at least 1 each."
            )
        widths = [base_channels * min(2**layer, 8) for layer in range(n_layers + 1)]
        layers: list[nn.Module] = [nn.Conv2d(in_channels, widths[0], 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for layer, (before, after) in enumerate(itertools.pairwise(widths), start=1):
            stride = 2 if layer < n_layers else 1
            layers.append(nn.Conv2d(before, after, 4, stride=stride, padding=1, bias=norm == "none"))
            layers += [_norm(norm, after), nn.LeakyReLU(0.2)]
        layers.append(nn.Conv2d(widths[-1], 1, 4, stride=1, padding=1))
        self.layers = nn.Sequential(*layers)
        # n halvings, then two layers that each take one pixel away, must leave one.
        self.smallest_side = 3 * 2**n_layers
        for module in self.layers:
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to logits (B, 1, h, w), positive for real."""
        if min(image.shape[-2:]) < self.smallest_side:
            raise ConfigurationError(
                f"The discriminator judges images of at least {self.smallest_side} pixels and was given "
                f"{image.shape[-1]} × {image.shape[-2]}. Lower its n_layers or train on larger images or crops."
            )
        logits: Tensor = self.layers(image)
        return logits


def _norm(norm: DiscriminatorNorm, channels: int) -> nn.Module:
    match norm:
        case "group":
            groups = next(n for n in range(min(_GROUPS, channels), 0, -1) if channels % n == 0)
            return nn.GroupNorm(groups, channels)
        case "batch":
            return nn.BatchNorm2d(channels)
        case "none":
            return nn.Identity()
        case _:
            raise ConfigurationError(f"norm is {norm!r}: expected {', '.join(get_args(DiscriminatorNorm))}.")


def hinge_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """0.5·(mean max(0, 1 − D(x)) + mean max(0, 1 + D(x̂))), a scalar of at least 0; the half as in Esser et al. 2021."""
    return 0.5 * (F.relu(1 - real_logits.float()).mean() + F.relu(1 + fake_logits.float()).mean())


def hinge_generator_loss(fake_logits: Tensor) -> Tensor:
    """−mean D(x̂), a scalar."""
    return -fake_logits.float().mean()


def adaptive_weight(
    reconstruction_loss: Tensor, generator_loss: Tensor, last_layer_weight: Tensor, maximum: float = 1e4
) -> Tensor:
    """‖∇ reconstruction‖ / (‖∇ generator‖ + 1e-4), clamped to [0, maximum], without gradient (Esser et al. 2021).

    Gradients are with respect to the weight of the decoder's last layer (arXiv 2012.09841, equation 7); the graphs
    are kept. ``torch.autograd.grad`` fires no hooks, so under DDP each rank has the weight of its own batch. Give the
    clean reconstruction term only.

    Args:
        reconstruction_loss, generator_loss: scalars that depend on ``last_layer_weight``.
        last_layer_weight: a parameter with ``requires_grad``.
        maximum: the clamp.

    Raises:
        ConfigurationError: the weight is frozen, or a loss does not depend on it.
    """
    if not last_layer_weight.requires_grad:
        raise ConfigurationError(
            "The adaptive weight of the adversarial loss needs gradients of the decoder's last layer, which is frozen. "
            "Train the decoder, or set a fixed weight."
        )
    norms = []
    for name, loss in (("reconstruction", reconstruction_loss), ("generator", generator_loss)):
        gradient = None
        if loss.requires_grad:
            [gradient] = torch.autograd.grad(loss, last_layer_weight, retain_graph=True, allow_unused=True)
        if gradient is None:
            raise ConfigurationError(
                f"The {name} loss does not depend on the weight that was given as the decoder's last layer."
            )
        norms.append(gradient.float().norm())
    return (norms[0] / (norms[1] + 1e-4)).clamp(0.0, maximum).detach()

"""The discriminator's shape and the losses' closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from layerscope.errors import ConfigurationError
from layerscope.losses import (
    PatchDiscriminator,
    adaptive_weight,
    hinge_discriminator_loss,
    hinge_generator_loss,
)
from layerscope.losses.adversarial import DiscriminatorNorm


def test_a_logit_sees_seventy_pixels() -> None:
    # Norms mix positions: without them the gradient of one logit shows what it sees.
    network = PatchDiscriminator(base_channels=4, norm="none")
    image = torch.randn(1, 3, 128, 128, requires_grad=True)
    logits = network(image)
    assert logits.shape == (1, 1, 14, 14)
    logits[0, 0, 7, 7].backward()
    assert image.grad is not None
    seen = image.grad[0].abs().sum(dim=0) > 0
    assert int(seen.any(dim=0).sum()) == int(seen.any(dim=1).sum()) == 70


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_norms(norm: DiscriminatorNorm) -> None:
    # pix2pix prints "Total number of parameters : 2.769 M" for its discriminator of an image pair.
    pair = PatchDiscriminator(in_channels=6, norm=norm)
    assert f"{sum(parameter.numel() for parameter in pair.parameters()) / 1e6:.3f}" == "2.769"
    network = PatchDiscriminator(norm=norm)
    kind = nn.GroupNorm if norm == "group" else nn.BatchNorm2d
    assert [m.weight.numel() for m in network.modules() if isinstance(m, kind)] == [128, 256, 512]
    images = torch.randn(3, 3, 24, 24)
    alone = torch.cat([network(one[None]) for one in images])
    # Only batch statistics make the answer depend on the other images.
    assert torch.allclose(network(images), alone, atol=1e-5) == (norm == "group")


@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_images_that_are_too_small_are_refused(n_layers: int) -> None:
    network = PatchDiscriminator(base_channels=4, n_layers=n_layers)
    side = network.smallest_side
    assert network(torch.zeros(1, 3, side, side)).shape == (1, 1, 1, 1)
    with pytest.raises(ConfigurationError, match=f"at least {side} pixels"):
        network(torch.zeros(1, 3, side, side - 1))


def test_bad_arguments_are_explained() -> None:
    with pytest.raises(ConfigurationError, match="norm of PatchDiscriminator is 'layer'"):
        PatchDiscriminator(norm="layer")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="n_layers 0"):
        PatchDiscriminator(n_layers=0)


def test_hinge_losses() -> None:
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.25])
    assert float(hinge_discriminator_loss(real, fake)) == pytest.approx(0.5 * ((0.5 + 2) / 3 + 1.25 / 2))
    assert float(hinge_generator_loss(fake)) == pytest.approx(2.75 / 2)
    real.requires_grad_()
    hinge_discriminator_loss(real, fake).backward()
    assert real.grad is not None
    # What is told apart with margin is pushed no further.
    assert real.grad.tolist() == pytest.approx([0, -1 / 6, -1 / 6])


def test_the_adaptive_weight_is_the_ratio_of_gradient_norms() -> None:
    weight = torch.tensor([3.0, 4.0], requires_grad=True)
    rec, gen = 2 * weight.norm(), 0.5 * weight.sum()
    ratio = adaptive_weight(rec, gen, weight)
    assert float(ratio) == pytest.approx(2 / (0.5 * 2**0.5 + 1e-4))
    assert not ratio.requires_grad
    assert weight.grad is None
    (rec + ratio * gen).backward()  # the graphs are still there
    assert float(adaptive_weight(2 * weight.norm(), 0.0 * weight.sum(), weight)) == pytest.approx(1e4)
    assert float(adaptive_weight(2 * weight.norm(), 0.0 * weight.sum(), weight, maximum=7)) == 7


def test_the_adaptive_weight_needs_gradients() -> None:
    weight, other = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    with pytest.raises(ConfigurationError, match="which is frozen"):
        adaptive_weight(weight.sum(), weight.sum(), weight.detach())
    with pytest.raises(ConfigurationError, match="generator loss does not depend"):
        adaptive_weight(weight.sum(), other.sum(), weight)
    with pytest.raises(ConfigurationError, match="reconstruction loss does not depend"):
        adaptive_weight(weight.sum().detach(), weight.sum(), weight)

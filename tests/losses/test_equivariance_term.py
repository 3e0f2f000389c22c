"""Equivariance: zero for a decoder that commutes with the transformation, and the formula for one that does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from loss_stand_ins import loss_inputs, upsample
from torch import Tensor

from layerscope.errors import ConfigurationError
from layerscope.losses import Equivariance
from layerscope.losses.equivariance import shrink_and_turn


def test_shrink_and_turn() -> None:
    x = torch.arange(12.0).view(1, 1, 3, 4)
    torch.testing.assert_close(shrink_and_turn(x, (3, 4), 1), torch.rot90(x, 1, (2, 3)), rtol=0, atol=0)
    assert shrink_and_turn(x, (2, 3), 1).shape == (1, 1, 3, 2)
    flat = torch.full((1, 2, 8, 8), 0.7)
    torch.testing.assert_close(shrink_and_turn(flat, (3, 5), 2), torch.full((1, 2, 3, 5), 0.7))
    # Halving with an antialiased triangle, away from the border: weights 1, 3, 3, 1 over 8 on both axes.
    x = torch.randn(1, 1, 8, 8)
    weights = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    expected = (x[0, 0, 1:5, 3:7] * torch.outer(weights, weights)).sum()
    torch.testing.assert_close(shrink_and_turn(x, (4, 4), 0)[0, 0, 1, 2], expected)


def test_turning_costs_an_equivariant_decoder_nothing() -> None:
    inputs = loss_inputs()
    assert inputs.latent is not None
    latent = inputs.latent.detach()
    exact = replace(inputs, latent=latent, image=upsample(latent))
    for seed in range(6):
        torch.manual_seed(seed)
        assert float(Equivariance(min_scale=1.0)(exact)) == 0
    # Enlarging by copies and shrinking do not commute.
    torch.manual_seed(0)
    assert float(Equivariance(min_scale=0.5)(exact)) > 0.01


def test_a_decoder_that_knows_up_from_down_pays() -> None:
    def with_a_ramp(z: Tensor) -> Tensor:
        image = upsample(z)
        return image + torch.linspace(-1, 1, image.shape[2]).view(1, 1, -1, 1)

    inputs = loss_inputs()
    assert inputs.latent is not None
    latent = inputs.latent.detach()
    inputs = replace(inputs, decode=with_a_ramp, latent=latent, image=with_a_ramp(latent))
    costs = set()
    for seed in range(12):
        torch.manual_seed(seed)
        costs.add(round(float(Equivariance(min_scale=1.0)(inputs)), 5))
    # A quarter turn either way, a half turn, and none; the ramp against its turned self.
    ramp = torch.linspace(-1, 1, 16).view(-1, 1).expand(16, 16)
    expected = {round(float((ramp - torch.rot90(ramp, k)).abs().mean()), 5) for k in range(4)}
    assert sorted(costs) == pytest.approx(sorted(expected), abs=1e-4)


def test_the_latent_is_shrunk_to_whole_positions_and_the_image_follows() -> None:
    shapes = []

    def decode(z: Tensor) -> Tensor:
        shapes.append(tuple(z.shape[-2:]))
        return F.interpolate(z[:, :3], scale_factor=4)

    inputs = replace(loss_inputs(), decode=decode)
    term = Equivariance(min_scale=0.25, turn=False, distance="mse")
    for seed in range(20):
        torch.manual_seed(seed)
        assert torch.isfinite(term(inputs))
    assert {1, 2, 3, 4} == {height for height, _ in shapes}
    assert all(height == width for height, width in shapes)


def test_what_is_missing_is_told() -> None:
    inputs = loss_inputs()
    assert inputs.latent is not None
    with pytest.raises(ConfigurationError, match="needs decode and latent"):
        Equivariance()(replace(inputs, decode=None))
    with pytest.raises(ConfigurationError, match="one multiple of the latent's"):
        Equivariance()(replace(inputs, latent=inputs.latent[:, :, :3]))
    with pytest.raises(ConfigurationError, match="min_scale of equivariance is 0"):
        Equivariance(min_scale=0)

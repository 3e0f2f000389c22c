"""Noise units of latents, also where a channel carries nothing."""

from __future__ import annotations

import torch
from oracles import Identity

from layerscope.metrics.latents import LatentStatistics
from layerscope.tasks.diagnosis.latent_space import LatentSpace


def space_of(latent: torch.Tensor) -> LatentSpace:
    statistics = LatentStatistics(*latent.shape[1:])
    statistics.update(latent)
    return LatentSpace(Identity(), "measured", statistics.compute())


def test_a_constant_channel_changes_nothing_and_gets_no_noise() -> None:
    live = 3 * torch.randn(20, 2, 4, 4) + 1
    alone, beside = space_of(live), space_of(torch.cat([live, torch.full((20, 1, 4, 4), 5.0)], dim=1))
    assert beside.dead_channels == [2]
    assert abs(beside.effective_log_snr(1.5) - alone.effective_log_snr(1.5)) < 1e-6
    z = torch.cat([live, torch.full((20, 1, 4, 4), 5.0)], dim=1)
    noisy = beside.unnormalise(0.8 * beside.normalise(z) + 0.6 * torch.randn_like(z))
    torch.testing.assert_close(noisy[:, 2], z[:, 2])
    torch.testing.assert_close(beside.normalise(z)[:, :2], alone.normalise(live))
    torch.testing.assert_close(beside.unnormalise(beside.normalise(z)), z, rtol=1e-5, atol=1e-5)

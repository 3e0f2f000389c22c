"""What a latent costs: bits, rate and times, against closed forms, torch.distributions and a clock of our own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from oracles import BlockMean
from small_architectures import SMALL_KL

from layerscope.errors import ConfigurationError
from layerscope.metrics import stopwatch
from layerscope.metrics.stopwatch import Stopwatch
from layerscope.models.autoencoders import DiffusersAutoencoder
from layerscope.tasks.diagnosis.latent_cost import LatentCost, rate_obstacle

CPU = torch.device("cpu")
VQ = SMALL_KL | {"_class_name": "VQModel", "latent_channels": 4, "vq_embed_dim": 4, "num_vq_embeddings": 24}


class OwnCodes(BlockMean):
    """A user's autoencoder that says how many codes it has."""

    def __init__(self, codebook_size: int | None) -> None:
        super().__init__(4)
        self.codebook_size = codebook_size


@pytest.mark.parametrize(
    ("autoencoder", "bits"),
    [
        (DiffusersAutoencoder(architecture=SMALL_KL, seed=0), 4 * 8 * 8 * 16),
        (DiffusersAutoencoder(architecture=VQ, seed=0), 8 * 8 * math.log2(24)),
        (OwnCodes(1024), 8 * 8 * 10),
        (OwnCodes(None), 4 * 8 * 8 * 16),
        (BlockMean(4), 4 * 8 * 8 * 16),
    ],
    ids=["kl", "vq", "own", "own_continuous", "unaware"],
)
def test_bits_of_a_latent(autoencoder: Any, bits: float) -> None:
    record = LatentCost(autoencoder, CPU).record((4, 8, 8), np.ones(3))
    assert record["latent_elements"] == 256
    assert record["latent_bits"] == pytest.approx(bits)


def test_a_codebook_without_entries_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"OwnCodes says that its codebook_size is 0"):
        LatentCost(OwnCodes(0), CPU)


@torch.no_grad()
def test_the_rate_is_the_divergence_in_bits() -> None:
    autoencoder = DiffusersAutoencoder(architecture=SMALL_KL, seed=0).eval()
    posterior = autoencoder.encode(torch.rand(3, 3, 16, 16) * 2 - 1)
    cost = LatentCost(autoencoder, CPU)
    normal = torch.distributions.Normal
    prior = normal(torch.zeros_like(posterior.mean), torch.ones_like(posterior.std))
    nats = torch.distributions.kl_divergence(normal(posterior.mean, posterior.std), prior).sum(dim=(1, 2, 3))
    rates = cost.rate(posterior)
    torch.testing.assert_close(rates, nats / math.log(2), rtol=1e-4, atol=1e-4)
    assert cost.record((4, 8, 8), rates.numpy())["rate_bits"] == pytest.approx(float(nats.mean()) / math.log(2), 1e-4)
    assert rate_obstacle(rates.numpy()) == ""


@pytest.mark.parametrize(
    ("rates", "reason"), [([math.inf] * 2, "deterministic"), ([1.0, math.inf], "1 of 2"), ([math.nan, 2], "1 of 2")]
)
def test_a_rate_that_is_not_finite_is_none_with_a_reason(rates: list[float], reason: str) -> None:
    assert LatentCost(BlockMean(4), CPU).record((3, 8, 8), np.array(rates))["rate_bits"] is None
    assert reason in rate_obstacle(np.array(rates))


def test_the_median_batch_without_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Stopwatch(CPU)
    assert math.isnan(watch.seconds_per_image)
    now = [0.0]
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: now[0])
    found = []
    for images, seconds in ((4, 100.0), (4, 8.0), (4, 12.0), (2, 20.0)):
        with watch.timing(images):
            now[0] += seconds
        found.append((watch.seconds_per_image, watch.timed_images))
    assert found == [(25, 4), (2, 4), (2.5, 8), (3, 10)]

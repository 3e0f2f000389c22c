"""Scaling factors and drift against NumPy on latents that are there, and the float16 verdict at its borders."""

from __future__ import annotations

import numpy as np
import pytest

from layerscope.errors import ConfigurationError, NumericalError
from layerscope.functional.half_precision import FP16_MARGIN, FP16_MAX, half_precision_verdict
from layerscope.functional.latent_scaling import LatentMoments, drift, scaling_entries


def moments_of(z: np.ndarray) -> LatentMoments:
    """Of latents (B, C, h, w) of a deterministic encoder."""
    mean, std = z.mean(axis=(0, 2, 3)), z.std(axis=(0, 2, 3))
    return LatentMoments(len(z), tuple(mean.tolist()), tuple(std.tolist()), (0.0,) * z.shape[1])


@pytest.fixture
def latents() -> np.ndarray:
    scale, shift = np.array([8.4, 5.0, 3.1, 0.7]), np.array([-1.6, 1.1, 4.0, -0.2])
    return np.random.default_rng(0).normal(size=(6, 4, 5, 7)) * scale[:, None, None] + shift[:, None, None]


def test_each_familys_formula_gives_unit_latents(latents: np.ndarray) -> None:
    entries = scaling_entries(moments_of(latents))
    factor, shift = entries["scaling_factor"], entries["shift_factor"]
    mean, std = (np.array(entries[name])[:, None, None] for name in ("latents_mean", "latents_std"))
    assert np.std(latents * factor) == pytest.approx(1)  # Stable Diffusion
    flux = (latents - shift) * factor
    assert np.mean(flux) == pytest.approx(0, abs=1e-12)
    assert np.std(flux) == pytest.approx(1)
    sdxl = (latents - mean) * factor / std
    np.testing.assert_allclose(sdxl.mean(axis=(0, 2, 3)), 0, atol=1e-12)
    np.testing.assert_allclose(sdxl.std(axis=(0, 2, 3)), 1)


def test_a_channel_that_never_varies_keeps_its_scale(latents: np.ndarray) -> None:
    latents[:, 2] = 4.0
    entries = scaling_entries(moments_of(latents))
    assert entries["latents_std"][2] == 1.0
    assert entries["scaling_factor"] == pytest.approx(1 / np.std(latents))


@pytest.mark.parametrize("broken", [np.zeros((2, 4, 3, 3)), np.full((2, 4, 3, 3), np.nan)])
def test_no_factor_follows_from_dead_or_broken_latents(broken: np.ndarray) -> None:
    with pytest.raises(NumericalError, match=r"2 images.*no scaling factor follows"):
        scaling_entries(moments_of(broken))


def test_drift_is_the_change_that_was_made(latents: np.ndarray) -> None:
    before = moments_of(latents)
    gain, move = np.array([1.0, 2.0, 0.5, 1.0]), np.array([0.0, 0.0, 0.0, 1.4])
    changed = latents * gain[:, None, None] + move[:, None, None]
    told = drift(before, moments_of(changed))
    np.testing.assert_allclose(told.std_ratio, gain)
    expected = (changed.mean(axis=(0, 2, 3)) - latents.mean(axis=(0, 2, 3))) / latents.std(axis=(0, 2, 3))
    np.testing.assert_allclose(told.mean_shift, expected)
    assert told.scaling_factor_before == pytest.approx(1 / np.std(latents))
    assert told.scaling_factor_after == pytest.approx(1 / np.std(changed))


def test_drift_needs_the_same_channels_and_images(latents: np.ndarray) -> None:
    for other in (latents[:, :3], latents[:4]):
        with pytest.raises(ConfigurationError, match="equal channels on the same images"):
            drift(moments_of(latents), moments_of(other))


@pytest.mark.parametrize(
    ("largest", "word"),
    [
        (FP16_MAX / FP16_MARGIN, "safe"),
        (FP16_MAX / FP16_MARGIN + 1, "marginal"),
        (FP16_MAX, "marginal"),
        (FP16_MAX + 1, "overflows"),
        (float("inf"), "overflows"),
        (float("nan"), "overflows"),
    ],
)
def test_half_precision_verdict_at_its_borders(largest: float, word: str) -> None:
    verdict = half_precision_verdict({"a": 3.0, "b": largest, "c": 7.0})
    assert (verdict.verdict, verdict.block) == (word, "b")
    assert np.isfinite(np.float16(FP16_MAX))
    with np.errstate(over="ignore"):
        assert np.isinf(np.float16(FP16_MAX + 16))

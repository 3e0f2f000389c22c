"""Noise schedules against diffusers' own."""

import itertools

import pytest
import torch
from diffusers import DDPMScheduler

from layerscope.errors import ConfigurationError
from layerscope.functional.noise import (
    BetaSchedule,
    DDPMSchedule,
    FlowMatchSchedule,
    TableSchedule,
    add_noise,
    sample_noise,
)

SDXL = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}


def test_noise_equals_diffusers_ddpm_at_every_step() -> None:
    """Unit latents and unit noise: diffusers keeps its table in float32, so errors grow with larger noise."""
    reference, ours = DDPMScheduler(**SDXL), DDPMSchedule()
    unit = torch.stack([torch.ones(1, 1, 1), torch.zeros(1, 1, 1)])
    for t in range(1000):
        expected = reference.add_noise(unit, 1 - unit, torch.tensor([t, t]))
        actual = add_noise(unit, 1 - unit, *ours.alpha_sigma(t))
        torch.testing.assert_close(actual, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("t", [0, 1])
def test_bfloat16_latents_get_noise_where_diffusers_gives_none(t: int) -> None:
    z = torch.ones(1, 4, 8, 8, dtype=torch.bfloat16)
    noise = torch.randn(1, 4, 8, 8)
    trap = DDPMScheduler(**SDXL).add_noise(torch.zeros_like(z), noise.bfloat16(), torch.tensor([t]))
    assert trap.abs().max() == 0
    noisy = add_noise(torch.zeros_like(z), noise, *DDPMSchedule().alpha_sigma(t))
    torch.testing.assert_close(noisy.std(), noise.std() * DDPMSchedule().alpha_sigma(t)[1])
    assert noisy.std() > 0.02


@pytest.mark.parametrize(("beta_schedule", "t_of_sdxl"), [("scaled_linear", 211), ("linear", 419)])
def test_diffusers_default_betas_are_another_process(beta_schedule: str, t_of_sdxl: int) -> None:
    reference = DDPMScheduler(beta_schedule=beta_schedule)  # its default betas
    defaults = DDPMSchedule(beta_start=1e-4, beta_end=0.02, beta_schedule=beta_schedule)  # type: ignore[arg-type]
    assert defaults.alpha_sigma(300)[0] ** 2 == pytest.approx(float(reference.alphas_cumprod[300]), rel=1e-5)
    assert abs(defaults.log_snr(300) - DDPMSchedule().log_snr(t_of_sdxl)) < 0.01


def test_flow_matching_runs_off_its_grid_and_shifts_towards_noise() -> None:
    assert FlowMatchSchedule().alpha_sigma(333) == pytest.approx((0.667, 0.333))
    assert FlowMatchSchedule(shift=3.0).alpha_sigma(500)[1] == pytest.approx(0.75)


def test_equal_log_snr_steps_are_equal() -> None:
    schedule = FlowMatchSchedule()
    log_snr = [schedule.log_snr(t) for t in schedule.steps("log_snr(6)")]
    gaps = [a - b for a, b in itertools.pairwise(log_snr)]
    assert max(gaps) - min(gaps) < 0.2 * max(gaps)


def test_custom_betas_equal_the_named_schedule_and_pairs_count_from_one() -> None:
    betas = DDPMScheduler(**SDXL).betas.double().tolist()
    assert BetaSchedule(betas).alpha_sigma(500) == pytest.approx(DDPMSchedule().alpha_sigma(500), rel=1e-6)
    pairs = TableSchedule([(0.9, 0.1), (0.5, 0.5)])
    assert pairs.alpha_sigma(2) == (0.5, 0.5)
    assert pairs.steps([2, 0, 1]) == [0, 1, 2]


@pytest.mark.parametrize("wanted", ["log_snr(1)", "snr(10)", [1000], [-1]])
def test_steps_that_do_not_exist_are_refused(wanted: object) -> None:
    with pytest.raises(ConfigurationError, match="timesteps"):
        DDPMSchedule().steps(wanted)  # type: ignore[arg-type]


def test_noise_belongs_to_the_sample() -> None:
    together = sample_noise(["a", "b", "c"], (4, 8, 8), seed=7, draw=1)
    alone = sample_noise(["b"], (4, 8, 8), seed=7, draw=1)
    torch.testing.assert_close(together[1:2], alone, rtol=0, atol=0)
    others = [sample_noise(["b"], (4, 8, 8), seed=seed, draw=draw) for seed, draw in ((7, 0), (8, 1))]
    assert all(not torch.equal(alone, other) for other in others)
    many = sample_noise([str(i) for i in range(200)], (4, 8, 8), seed=0, draw=0)
    assert abs(float(many.mean())) < 0.01
    assert abs(float(many.std()) - 1) < 0.01

"""Noise in units of the latent's own spread, and that spread followed over batches, on one process and on two."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, multiprocessing

from layerscope.errors import ConfigurationError
from layerscope.losses import LatentNoise, RunningLatentStd
from layerscope.losses.latent_noise import NoiseMode

STD = torch.tensor([0.5, 2.0, 10.0])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("mode", ["additive", "interpolate"])
def test_is_its_formula(mode: NoiseMode) -> None:
    z = torch.randn(4, 3, 5, 5)
    draws = generator()
    sigma = 0.8 * torch.rand(4, 1, 1, 1, generator=draws)
    noise = torch.randn(4, 3, 5, 5, generator=draws)
    kept = z if mode == "additive" else (1 - sigma) * z
    actual = LatentNoise(0.8, mode).apply(z, STD, generator())
    torch.testing.assert_close(actual, kept + sigma * STD.view(1, 3, 1, 1) * noise)


def test_sigma_is_uniform_per_image_in_units_of_each_channel() -> None:
    noisy = LatentNoise(tau=0.5).apply(torch.zeros(400, 3, 16, 16), STD, generator())
    # Every channel of an image tells the same sigma once its own unit is divided out.
    told = noisy.std(dim=(2, 3)) / STD
    assert (told - told.mean(dim=1, keepdim=True)).abs().max() < 0.08
    sigma = told.mean(dim=1).sort().values
    # The largest distance from the uniform distribution: a Kolmogorov-Smirnov test at about 1 in 10,000.
    assert (sigma / 0.5 - torch.linspace(0, 1, 400)).abs().max() < 0.11


@pytest.mark.parametrize("detach", [False, True])
def test_gradient_goes_to_the_latent_unless_detached_and_never_to_the_std(detach: bool) -> None:
    z, std = torch.randn(2, 3, 4, 4, requires_grad=True), STD.clone().requires_grad_()
    other = torch.ones((), requires_grad=True)
    (other * LatentNoise(0.5, "additive", detach).apply(z, std)).sum().backward()
    assert std.grad is None
    assert (z.grad is None) == detach
    if z.grad is not None:
        torch.testing.assert_close(z.grad, torch.ones_like(z))


def test_keeps_the_type_of_the_latent() -> None:
    assert LatentNoise().apply(torch.zeros(2, 3, 4, 4, dtype=torch.bfloat16), STD).dtype == torch.bfloat16


def test_noise_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="tau of LatentNoise is 0"):
        LatentNoise(0)
    with pytest.raises(ConfigurationError, match="at most 1"):
        LatentNoise(1.5, "interpolate")
    with pytest.raises(ConfigurationError, match="mode of LatentNoise is 'replace'"):
        LatentNoise(0.5, "replace")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"a std \(C,\); given: \(2, 4, 4, 4\) and \(3,\)"):
        LatentNoise().apply(torch.zeros(2, 4, 4, 4), STD)


def batches(count: int, size: int = 6) -> list[Tensor]:
    """Latents far from zero, where naive float32 sums of squares cancel."""
    random = generator(1)
    shift = torch.tensor([100.0, -3.0, 0.0]).view(1, 3, 1, 1)
    return [STD.view(1, 3, 1, 1) * torch.randn(size, 3, 4, 4, generator=random) + shift for _ in range(count)]


def test_running_std_is_a_plain_average_first() -> None:
    running = RunningLatentStd(3, momentum=0.05)
    assert running.std.tolist() == [1, 1, 1]
    seen = batches(20)
    for z in seen:
        running.update(z.requires_grad_())
    together = torch.cat([z.detach() for z in seen]).double()
    torch.testing.assert_close(running.mean.double(), together.mean(dim=(0, 2, 3)), rtol=1e-5, atol=1e-5)
    expected = together.transpose(0, 1).flatten(1).std(dim=1, correction=0)
    # Sums of squares around zero would be off by 0.4 % in float32.
    torch.testing.assert_close(running.std.double(), expected, rtol=1e-3, atol=0)
    assert not running.std.requires_grad


def test_running_std_forgets_exponentially_after() -> None:
    running = RunningLatentStd(3, momentum=0.5)
    weights: list[float] = []
    seen = batches(6)
    for n, z in enumerate(seen, start=1):
        share = max(0.5, 1 / n)
        weights = [*(weight * (1 - share) for weight in weights), share]
        running.update(z)
    first = sum(w * z.double().mean(dim=(0, 2, 3)) for w, z in zip(weights, seen))
    second = sum(w * z.double().square().mean(dim=(0, 2, 3)) for w, z in zip(weights, seen))
    assert isinstance(first, Tensor)
    torch.testing.assert_close(running.std.double(), (second - first.square()).sqrt(), rtol=1e-4, atol=1e-5)


def test_running_std_is_resumed() -> None:
    a, b = RunningLatentStd(3), RunningLatentStd(3)
    first, second = batches(2)
    a.update(first)
    b.load_state_dict(a.state_dict())
    for one in (a, b):
        one.update(second)
    for key, value in a.state_dict().items():
        torch.testing.assert_close(b.state_dict()[key], value, rtol=0, atol=0)
    with pytest.raises(ConfigurationError, match="follows 3 channels"):
        a.update(torch.zeros(2, 4, 4, 4))


def _rank(rank: int, folder: str) -> None:
    """Half of each batch on each of two processes; the halves are uneven."""
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    running = RunningLatentStd(3, momentum=0.4)
    for z in batches(4):
        running.update(z[:4] if rank == 0 else z[4:])
    torch.save(running.state_dict(), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_follow_the_std_of_one(tmp_path: Path) -> None:
    multiprocessing.spawn(_rank, (str(tmp_path),), nprocs=2)
    one = RunningLatentStd(3, momentum=0.4)
    for z in batches(4):
        one.update(z)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for key, value in one.state_dict().items():
        torch.testing.assert_close(first[key], second[key], rtol=0, atol=0)
        torch.testing.assert_close(first[key], value, rtol=1e-5, atol=1e-5)


def test_a_batch_with_nan_changes_nothing() -> None:
    spread = RunningLatentStd(2)
    spread.update(torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0)))
    before = {name: value.clone() for name, value in spread.state_dict().items()}
    for broken in (torch.nan, torch.inf):
        latents = torch.ones(3, 2, 4, 4)
        latents[1, 0, 2, 2] = broken
        spread.update(latents)
    for name, value in spread.state_dict().items():
        assert torch.equal(value, before[name])

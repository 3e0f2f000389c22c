"""Layer differences against torch on the activations themselves, at the edges, and pooled."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from layerscope.functional.layer_differences import layer_differences
from layerscope.functional.layer_energies import pair_energies

NAMES = ["l2", "rms", "relative_l2", "cosine_dissimilarity", "sqnr_db"]


def differences(a: Tensor, b: Tensor) -> dict[str, Tensor]:
    return layer_differences(pair_energies(a, b).energies, a[0].numel())


def test_equal_torch_on_the_activations() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(6, 3, 8, 8, generator=generator, dtype=torch.float64)
    b = a + torch.logspace(-6, 2, 6, dtype=torch.float64)[:, None, None, None] * torch.randn(
        6, 3, 8, 8, generator=generator, dtype=torch.float64
    )
    found = differences(a, b)
    x, y = a.flatten(1), b.flatten(1)
    assert list(found) == NAMES
    torch.testing.assert_close(found["l2"], (x - y).norm(dim=1))
    torch.testing.assert_close(found["rms"], (x - y).square().mean(dim=1).sqrt())
    torch.testing.assert_close(
        found["relative_l2"], (x - y).norm(dim=1) / (0.5 * (x.square().sum(1) + y.square().sum(1))).sqrt()
    )
    torch.testing.assert_close(
        found["cosine_dissimilarity"], 1 - torch.cosine_similarity(x, y, dim=1), rtol=1e-9, atol=1e-15
    )
    torch.testing.assert_close(found["sqnr_db"], 10 * torch.log10(x.square().sum(1) / (x - y).square().sum(1)))


def test_cosine_dissimilarity_of_nearly_equal_activations_keeps_its_digits() -> None:
    """An angle of 1e-6 is a dissimilarity of 5e-13, which 1 − cosine in float32 reads as 0 or 6e-8."""
    a = torch.tensor([[1.0, 0.0]])
    b = torch.tensor([[1.0, 1e-6]])
    assert float(differences(a, b)["cosine_dissimilarity"]) == pytest.approx(5e-13, rel=1e-3)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([0.0, 0.0], [0.0, 0.0], [0, 0, 0, 0, torch.inf]),
        ([3.0, 4.0], [3.0, 4.0], [0, 0, 0, 0, torch.inf]),
        ([3.0, 4.0], [0.0, 0.0], [5, 5 / 2**0.5, 2**0.5, 1, 0]),
        ([0.0, 0.0], [3.0, 4.0], [5, 5 / 2**0.5, 2**0.5, 1, -torch.inf]),
        ([3.0, 4.0], [-3.0, -4.0], [10, 10 / 2**0.5, 2, 2, -6.020599913]),
        ([3.0, 4.0], [4.0, -3.0], [50**0.5, 5, 2**0.5, 1, -3.010299957]),
    ],
)
def test_zero_equal_opposite_and_orthogonal(a: list[float], b: list[float], expected: list[float]) -> None:
    found = differences(torch.tensor([a]), torch.tensor([b]))
    assert [float(found[name]) for name in NAMES] == pytest.approx(expected, rel=1e-9)


def test_no_nan_from_finite_energies_however_large_or_small() -> None:
    scale = torch.logspace(-323, 308, 200, dtype=torch.float64)
    tiny = scale[:1]
    edges = torch.cat([torch.zeros(1, dtype=torch.float64), tiny, scale])
    grid = torch.cartesian_prod(edges, edges)
    # A difference is between (‖a‖ − ‖b‖)² and (‖a‖ + ‖b‖)².
    low, high = ((grid[:, 0].sqrt() + sign * grid[:, 1].sqrt()).square() for sign in (-1, 1))
    largest = torch.finfo(torch.float64).max
    for difference in (low, high.clamp_max(largest), torch.zeros_like(low)):
        found = layer_differences(torch.cat([grid, difference[:, None]], dim=1), 10)
        for name in NAMES:
            assert not found[name].isnan().any(), name
        assert bool(((found["cosine_dissimilarity"] >= 0) & (found["cosine_dissimilarity"] <= 2)).all())


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e308])
def test_size_free_figures_do_not_depend_on_the_activations_unit(scale: float) -> None:
    energies = torch.tensor([1.0, 1.5, 0.3], dtype=torch.float64)
    found, expected = layer_differences(scale * energies, 4), layer_differences(energies, 4)
    for name in ("relative_l2", "cosine_dissimilarity", "sqnr_db"):
        assert float(found[name]) == pytest.approx(float(expected[name]), rel=1e-9)


def test_the_ratio_of_the_largest_and_the_smallest_energy_is_a_number_of_decibels() -> None:
    figures = layer_differences(torch.tensor([1e300, 1e300, 1e-300], dtype=torch.float64), 4)
    assert float(figures["sqnr_db"]) == pytest.approx(6000)


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_what_is_not_finite_stays_unmeasured(place: int, value: float) -> None:
    energies = torch.ones(2, 3)
    energies[1, place] = value
    for figure in layer_differences(energies, 4).values():
        assert figure.isfinite().tolist() == [True, False]
        assert bool(figure[1].isnan())


def test_nothing_measured_is_not_identical() -> None:
    assert all(bool(x.isnan()) for x in layer_differences(torch.zeros(3), 0).values())


def test_pooled_figures_are_those_of_one_long_activation() -> None:
    generator = torch.Generator().manual_seed(1)
    sizes = torch.tensor([4, 4, 12])
    pairs = [[torch.randn(1, int(n), generator=generator) for n in sizes] for _ in range(2)]
    energies = torch.cat([pair_energies(a, b).energies for a, b in zip(*pairs)])
    pooled = layer_differences(energies.sum(dim=0), sizes.sum())
    whole = differences(*(torch.cat(side, dim=1) for side in pairs))
    for name in NAMES:
        assert float(pooled[name]) == pytest.approx(float(whole[name]), rel=1e-6)
    by_layer = layer_differences(energies[:, None].expand(3, 2, 3), sizes[:, None])
    assert by_layer["rms"].shape == (3, 2)
    torch.testing.assert_close(by_layer["rms"][:, 1], energies[:, 2].div(sizes).sqrt())


def test_pooled_sqnr_sums_energies_and_does_not_average_ratios() -> None:
    """Two pairs, one of which hardly differs: 15.0 dB; the mean of the ratios would read 55.6 dB."""
    a = torch.ones(2, 1, 4, 4)
    b = a - torch.tensor([0.25148, 0.0011735])[:, None, None, None]
    energies = pair_energies(a, b).energies
    mean_of_ratios = 10 * (energies[:, 0] / energies[:, 2]).mean().log10()
    assert float(mean_of_ratios) == pytest.approx(55.6, abs=0.05)
    assert float(layer_differences(energies.sum(dim=0), 32)["sqnr_db"]) == pytest.approx(15.0, abs=0.05)

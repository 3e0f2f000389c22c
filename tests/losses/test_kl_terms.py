"""The KL term against diffusers, and the meanings of its weight."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from loss_stand_ins import loss_inputs
from torch import Tensor

from layerscope.errors import ConfigurationError
from layerscope.losses import KL, L1, LossInputs
from layerscope.losses.kl_units import Recipe, beta, convert_kl_weight

SHAPES = ((3, 256, 256), (4, 32, 32))


def with_moments(moments: Tensor) -> tuple[LossInputs, DiagonalGaussianDistribution]:
    """Inputs whose posterior is that of diffusers, which clamps the log variance."""
    posterior = DiagonalGaussianDistribution(moments)
    inputs = loss_inputs()
    inputs.mean, inputs.std = posterior.mean, posterior.std
    return inputs, posterior


@pytest.mark.parametrize("spread", [1.0, 25.0])
def test_equals_diffusers_in_every_reduction(spread: float) -> None:
    random = torch.Generator().manual_seed(0)
    mean, logvar = torch.randn(2, 2, 4, 4, 4, generator=random)
    moments = torch.cat([mean, spread * logvar], dim=1)
    inputs, posterior = with_moments(moments)
    expected = posterior.kl().mean()
    torch.testing.assert_close(KL("sum_per_image")(inputs), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(KL("mean")(inputs), expected / (4 * 4 * 4), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(KL("ldm")(inputs), expected / (3 * 16 * 16), rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_the_closed_form_also_beyond_the_clamp() -> None:
    mean = torch.randn(2, 4, 4, 4).requires_grad_()
    logvar = torch.randn(2, 4, 4, 4).requires_grad_()
    inputs = loss_inputs()
    inputs.mean, inputs.std = mean, torch.exp(0.5 * logvar)
    KL()(inputs).backward()
    torch.testing.assert_close(mean.grad, mean.detach() / 2)
    torch.testing.assert_close(logvar.grad, 0.5 * (logvar.detach().exp() - 1) / 2, rtol=1e-4, atol=1e-5)
    inputs.mean = torch.zeros(2, 4, 4, 4)
    inputs.std = torch.tensor([0.0, 1e-12, 1.0, 1e7]).view(1, 4, 1, 1).repeat(2, 1, 4, 4).requires_grad_()
    KL()(inputs).backward()
    assert inputs.std.grad is not None
    assert torch.isfinite(inputs.std.grad).all()
    assert not inputs.std.grad.any()


def test_a_deterministic_posterior_is_refused() -> None:
    inputs = loss_inputs()
    inputs.std = torch.zeros_like(inputs.mean)
    with pytest.raises(ConfigurationError, match="deterministic"):
        KL()(inputs)


def test_the_weight_warms_up_linearly() -> None:
    term = KL(warmup_batches=100, weight=1e-6)
    assert [term.current_weight(batches) for batches in (0, 25, 100, 10_000)] == pytest.approx([0, 2.5e-7, 1e-6, 1e-6])
    assert KL(weight=1e-6).current_weight(0) == 1e-6


@pytest.mark.parametrize(
    ("recipe", "weight", "expected"),
    [
        ("ldm", 1e-6, 5.1e-12),
        ("diffusers", 1e-6, 5.1e-12),
        ("va_vae_pp_style", 1e-6, 2.4e-10),
        ("monai", 1e-6, 1e-6),
        ("elbo", 1.0, 5.1e-6),
    ],
)
def test_the_table_of_the_documentation(recipe: Recipe, weight: float, expected: float) -> None:
    assert f"{beta(weight, recipe, *SHAPES):.1e}" == f"{expected:.1e}"


def test_ratios_between_recipes() -> None:
    ldm = beta(1e-6, "ldm", *SHAPES)
    assert beta(1e-6, "va_vae_pp_style", *SHAPES) / ldm == pytest.approx(48)
    assert beta(1e-6, "monai", *SHAPES) / ldm == pytest.approx(196_608)
    assert beta(1.0, "elbo", *SHAPES) / ldm == pytest.approx(1e6)


def as_written(recipe: Recipe, weight: float, rec: Tensor, kl: Tensor) -> Tensor:
    """The public trainers' losses from elements of rec (B, 3, H, W) and kl (B, C, h, w)."""
    batch = len(rec)
    match recipe:
        case "ldm" | "diffusers":
            return rec.sum() / batch + weight * kl.sum() / batch
        case "va_vae_pp_style":
            return rec.mean() + weight * kl.mean()
        case "monai":
            return rec.mean() + weight * kl.sum() / batch
        case "elbo":
            return rec.mean() + weight * kl.sum() / rec.numel()


@pytest.mark.parametrize("source", get_args(Recipe))
@pytest.mark.parametrize("target", get_args(Recipe))
def test_a_converted_weight_minimises_the_same(source: Recipe, target: Recipe) -> None:
    # The directions of the gradients are equal, whatever the length.
    shapes = ((3, 8, 8), (4, 2, 2))
    gradients = []
    for recipe, weight in ((source, 0.3), (target, convert_kl_weight(0.3, source, target, *shapes))):
        rec, kl = torch.ones(2, *shapes[0]).requires_grad_(), torch.ones(2, *shapes[1]).requires_grad_()
        as_written(recipe, weight, rec, kl).backward()
        assert rec.grad is not None
        assert kl.grad is not None
        gradients.append(float(kl.grad[0, 0, 0, 0] / rec.grad[0, 0, 0, 0]))
    assert gradients[0] == pytest.approx(gradients[1], rel=1e-5)


@pytest.mark.parametrize(
    ("recipe", "reduction"),
    [("ldm", "ldm"), ("va_vae_pp_style", "mean"), ("monai", "sum_per_image"), ("elbo", "ldm")],
)
def test_the_reductions_of_the_term_are_the_recipes(recipe: Recipe, reduction: str) -> None:
    inputs = loss_inputs()
    difference = (inputs.recon - inputs.image).abs()
    variance = inputs.std**2
    elements = 0.5 * (inputs.mean**2 + variance - 1 - variance.log())
    expected = as_written(recipe, 0.3, difference, elements)
    if recipe == "ldm":
        expected = expected / (3 * 16 * 16)  # LDM's loss is 3·H·W times the common form
    actual = L1()(inputs) + 0.3 * KL(reduction)(inputs)  # type: ignore[arg-type]
    torch.testing.assert_close(actual, expected)


def test_bad_arguments_are_explained() -> None:
    with pytest.raises(ConfigurationError, match="reduction of kl is 'sum'"):
        KL("sum")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="warmup_batches of kl is -1"):
        KL(warmup_batches=-1)
    with pytest.raises(ConfigurationError, match="recipe of convert_kl_weight is 'sd'"):
        convert_kl_weight(1.0, "sd", "ldm")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"latent_shape is \(4, 32\)"):
        beta(1.0, "ldm", (3, 8, 8), (4, 32))

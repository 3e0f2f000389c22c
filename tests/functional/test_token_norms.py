"""Norms of tokens in any precision, and which count as high."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from layerscope.errors import ConfigurationError
from layerscope.functional.token_norms import high_norm, token_norms


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_norms_are_those_of_each_token(dtype: torch.dtype) -> None:
    tokens = (5 * torch.randn(2, 3, 4, 96, generator=torch.Generator().manual_seed(0))).to(dtype)
    norms = token_norms(tokens)
    assert norms.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert norms.double().numpy() == pytest.approx(np.linalg.norm(tokens.double().numpy(), axis=-1), rel=1e-6)
    assert torch.equal(token_norms(tokens.flatten(1, 2)), norms.flatten(1))


def test_float16_does_not_overflow() -> None:
    tokens = torch.full((1, 2, 64), 60000.0, dtype=torch.float16)
    assert token_norms(tokens).tolist() == [pytest.approx([8 * float(tokens[0, 0, 0])] * 2)]


@pytest.mark.parametrize("shape", [(4, 5, 5), (4, 3, 4), (4, 1, 2), (4, 1, 1)])
def test_high_is_above_a_multiple_of_the_images_own_median(shape: tuple[int, ...]) -> None:
    scale = torch.tensor([1, 10, 0.1, 7])[:, None, None]
    norms = scale * torch.rand(shape, generator=torch.Generator().manual_seed(1)) ** 4
    for ratio in (3.0, 1.2):
        median = np.median(norms.numpy().reshape(4, -1), axis=1)
        assert np.array_equal(high_norm(norms, ratio).numpy(), norms.numpy() > ratio * median[:, None, None])


def test_an_even_number_of_patches_has_its_median_between_the_middle_two() -> None:
    norms = torch.tensor([[[1.0, 3.0], [7.0, 2.0]]])  # median 2.5; the lower one, 2, would mark 7
    assert not high_norm(norms).any()
    assert high_norm(norms, ratio=2.7).tolist() == [[[False, False], [True, False]]]


def test_an_absolute_cutoff_replaces_the_ratio() -> None:
    norms = torch.tensor([[[1.0, 100.0, 150.0, 151.0]]])
    assert high_norm(norms, cutoff=150).tolist() == [[[False, False, False, True]]]


def test_a_median_of_zero_marks_none_unless_there_is_a_cutoff() -> None:
    norms = torch.tensor([[[0.0, 0.0, 0.0, 9.0]]])
    assert not high_norm(norms).any()
    assert high_norm(norms, cutoff=5).tolist() == [[[False, False, False, True]]]
    assert not high_norm(torch.zeros(2, 3, 3)).any()
    assert not high_norm(torch.zeros(2, 3, 3), cutoff=0).any()


@pytest.mark.parametrize("ratio", [0.0, -1.0, float("nan"), float("inf")])
def test_a_ratio_that_marks_all_or_none_is_refused(ratio: float) -> None:
    with pytest.raises(ConfigurationError, match="positive number"):
        high_norm(torch.ones(1, 2, 2), ratio)


@pytest.mark.parametrize("cutoff", [-1.0, float("nan")])
def test_a_cutoff_that_is_no_norm_is_refused(cutoff: float) -> None:
    with pytest.raises(ConfigurationError, match="cut-off"):
        high_norm(torch.ones(1, 2, 2), cutoff=cutoff)

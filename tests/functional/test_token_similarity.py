"""Maps of token similarity against plain loops over tokens, and what degenerate tokens and grids give."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity
from torch.utils._python_dispatch import TorchDispatchMode

from layerscope.errors import ConfigurationError
from layerscope.functional import token_similarity
from layerscope.functional.token_norms import token_norms
from layerscope.functional.token_similarity import (
    check_metric,
    neighbour_maps,
    neighbours,
    similarity_to,
    token_change,
)
from layerscope.types import TokenMetric

GRIDS = [(2, 5, 7, 48), (1, 3, 3, 768), (3, 1, 6, 16), (2, 6, 1, 16), (2, 1, 1, 8)]
METRICS: list[TokenMetric] = ["cosine", "dot_product"]
STEPS = {
    "horizontal_right": ((0, 0), (0, 1)),
    "vertical_down": ((0, 0), (1, 0)),
    "diagonal_down_right": ((0, 0), (1, 1)),
    "diagonal_down_left": ((0, 1), (1, 0)),
}


def tokens_of(*shape: int, seed: int = 0) -> Tensor:
    """Tokens with a large common part and norms that differ, as a transformer's have."""
    generator = torch.Generator().manual_seed(seed)
    size = 0.2 + 3 * torch.rand(*shape[:-1], 1, generator=generator)
    return size * (torch.randn(*shape, generator=generator) + torch.randn(shape[-1], generator=generator))


def alike(a: Tensor, b: Tensor, metric: TokenMetric) -> float:
    a, b = a.double(), b.double()
    return float(cosine_similarity(a, b, dim=0) if metric == "cosine" else a @ b)


def looped(grid: Tensor, metric: TokenMetric) -> dict[str, Tensor]:
    samples, height, width, _ = grid.shape
    maps = {}
    for name, ((row, column), (other_row, other_column)) in STEPS.items():
        size = height - max(row, other_row), width - max(column, other_column)
        maps[name] = torch.zeros(samples, *size, dtype=torch.float64)
        for b in range(samples):
            for r in range(size[0]):
                for c in range(size[1]):
                    pair = grid[b, r + row, c + column], grid[b, r + other_row, c + other_column]
                    maps[name][b, r, c] = alike(*pair, metric)
    return maps


def assert_close(found: Tensor, expected: Tensor, metric: TokenMetric) -> None:
    """Cosines to 1e-6; dot products to 1e-6 of the largest, for terms of either sign cancel in the others."""
    largest = 1.0 if metric == "cosine" else float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6 * largest)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shape", GRIDS)
def test_maps_equal_a_loop_over_tokens(shape: tuple[int, ...], metric: TokenMetric) -> None:
    grid = tokens_of(*shape)
    maps, expected = neighbour_maps(grid, metric, diagonals=True), looped(grid, metric)
    assert list(maps) == list(expected)
    for name, values in maps.items():
        assert values.shape == expected[name].shape
        assert values.dtype == torch.float32
        assert_close(values, expected[name], metric)
    plain = neighbour_maps(grid, metric, norms=token_norms(grid))
    assert list(plain) == ["horizontal_right", "vertical_down"]
    assert all(torch.equal(values, maps[name]) for name, values in plain.items())


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shape", GRIDS)
def test_similarity_to_a_token_equals_a_loop(shape: tuple[int, ...], metric: TokenMetric) -> None:
    grid, reference = tokens_of(*shape), tokens_of(shape[0], shape[-1], seed=1)
    for one in (reference, reference[0]):
        of_image = one.expand(shape[0], -1)
        expected = [
            [[alike(token, of_image[b], metric) for token in row] for row in image] for b, image in enumerate(grid)
        ]
        found = similarity_to(grid, one, metric)
        assert found.dtype == torch.float32
        assert_close(found, torch.tensor(expected, dtype=torch.float64), metric)
        assert torch.equal(similarity_to(grid, one, metric, norms=token_norms(grid)), found)


def test_a_massive_token_harms_no_other() -> None:
    """High-norm tokens are hundreds of times as large as the others."""
    grid = tokens_of(1, 4, 4, 96)
    grid[0, 1, 2] *= 500
    for name, values in neighbour_maps(grid, "cosine").items():
        assert_close(values, looped(grid, "cosine")[name], "cosine")


@pytest.mark.parametrize("metric", METRICS)
def test_float64_stays_float64(metric: TokenMetric) -> None:
    grid = tokens_of(2, 3, 4, 32).double() + 1e-9 * tokens_of(2, 3, 4, 32, seed=2).double()
    for name, values in neighbour_maps(grid, metric, diagonals=True).items():
        assert values.dtype == torch.float64
        torch.testing.assert_close(values, looped(grid, metric)[name], rtol=1e-12, atol=1e-12)
    assert similarity_to(grid, grid[:, 0, 0], metric).dtype == torch.float64
    assert token_change(grid.float(), grid).dtype == torch.float64


def test_angles_of_a_closed_form() -> None:
    """Tokens that turn by 10° from column to column and 25° from row to row, of any length."""
    row, column = torch.arange(4, dtype=torch.float64)[:, None], torch.arange(5, dtype=torch.float64)
    angle = torch.deg2rad(25 * row + 10 * column)
    grid = ((1 + row + column)[..., None] * torch.stack([angle.cos(), angle.sin()], dim=-1))[None]
    for name, degrees in zip(STEPS, (10, 25, 35, 15)):
        values = neighbour_maps(grid, "cosine", diagonals=True)[name]
        torch.testing.assert_close(values, torch.full_like(values, math.cos(math.radians(degrees))))
    to_axis = similarity_to(grid, torch.tensor([2.0, 0.0]), "cosine")
    torch.testing.assert_close(to_axis[0], angle.cos())


@pytest.mark.parametrize(("dtype", "unit"), [(torch.bfloat16, 2.0**-8), (torch.float16, 2.0**-11)])
def test_half_precision_is_float32_of_the_same_tokens_and_near_the_unrounded(dtype: torch.dtype, unit: float) -> None:
    exact = tokens_of(2, 6, 6, 64)
    grid, reference = exact.to(dtype), exact[:, 0, 0].to(dtype)
    bound = 2 * unit + unit**2 + 1e-6
    norms = token_norms(exact)
    for metric in METRICS:
        maps, wide = neighbour_maps(grid, metric, True), neighbour_maps(grid.float(), metric, True)
        unrounded = neighbour_maps(exact, metric, True)
        for name, values in maps.items():
            assert values.dtype == torch.float32
            assert torch.equal(values, wide[name])
            first, second = neighbours(norms, name)
            scale = first * second if metric == "dot_product" else 1.0
            assert ((values - unrounded[name]).abs() <= bound * scale).all()
        to_token = similarity_to(grid, reference, metric)
        assert torch.equal(to_token, similarity_to(grid.float(), reference.float(), metric))
    assert torch.equal(token_change(grid, grid.flip(1)), token_change(grid.float(), grid.float().flip(1)))
    assert token_change(grid, grid).dtype == torch.float32


def test_zero_tokens_are_like_one_another_and_like_nothing_else() -> None:
    grid = tokens_of(2, 3, 3, 8)
    grid[:, 0, 0] = grid[:, 0, 1] = 0
    maps = neighbour_maps(grid, "cosine", diagonals=True)
    assert maps["horizontal_right"][:, 0].tolist() == [[1, 0], [1, 0]]
    assert maps["vertical_down"][:, 0, :2].tolist() == [[0, 0], [0, 0]]
    assert similarity_to(grid, torch.zeros(8), "cosine")[0].tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert token_change(grid, torch.zeros_like(grid))[0].tolist() == [[0, 0, 1], [1, 1, 1], [1, 1, 1]]
    nothing = torch.zeros(2, 3, 3, 8)
    for metric, expected in (("cosine", 1.0), ("dot_product", 0.0)):
        for values in neighbour_maps(nothing, check_metric(metric), diagonals=True).values():
            assert (values == expected).all()


def test_a_constant_grid_is_alike_everywhere() -> None:
    grid = tokens_of(1, 1, 1, 768).expand(2, 14, 14, 768)
    for values in neighbour_maps(grid, "cosine", diagonals=True).values():
        assert values.unique().numel() == 1
        assert values[0, 0, 0] == pytest.approx(1, abs=1e-6)
        assert (values <= 1).all()
    assert similarity_to(grid, -grid[0, 0, 0], "cosine").unique().item() == pytest.approx(-1, abs=1e-6)


def exact_change(a: Tensor, b: Tensor) -> float:
    with localcontext() as context:
        context.prec = 60
        x, y = ([Decimal(value) for value in one.tolist()] for one in (a, b))
        dot, square_x, square_y = (sum(p * q for p, q in zip(*pair)) for pair in ((x, y), (x, x), (y, y)))
        return float(1 - dot / (square_x * square_y).sqrt())


@pytest.mark.parametrize("step", [1.0, 1e-2, 1e-4, 1e-6])
def test_change_loses_no_digits_for_tokens_that_hardly_change(step: float) -> None:
    first = tokens_of(1, 2, 3, 24)
    second = first + step * tokens_of(1, 2, 3, 24, seed=3)
    expected = torch.tensor([[exact_change(a, b) for a, b in zip(*rows)] for rows in zip(first[0], second[0])])
    torch.testing.assert_close(token_change(first, second)[0], expected, rtol=1e-6 if step > 1e-5 else 1e-3, atol=0)


def test_change_of_equal_opposite_and_stronger_tokens() -> None:
    tokens = tokens_of(2, 3, 4, 768)
    assert not token_change(tokens, tokens.clone()).any()
    assert token_change(tokens, 2 * tokens).max() <= 1e-15
    assert torch.equal(token_change(tokens, -tokens), torch.full((2, 3, 4), 2.0))


class LargestAllocation(TorchDispatchMode):
    """The most elements of any tensor that an operation made with storage of its own."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        made = func(*args, **(kwargs or {}))
        given = {one.untyped_storage().data_ptr() for one in args if isinstance(one, Tensor)}
        if isinstance(made, Tensor) and made.untyped_storage().data_ptr() not in given:
            self.largest = max(self.largest, made.numel())
        return made


def test_a_slice_of_the_sequence_is_not_copied() -> None:
    """Temporaries are of one image at most, whatever the batch."""
    sequence = tokens_of(6, 5 + 8 * 9, 64)
    grid = sequence[:, 5:].unflatten(1, (8, 9))
    assert grid.data_ptr() == sequence[:, 5:].data_ptr()
    with LargestAllocation() as seen:
        maps = neighbour_maps(grid, "cosine", diagonals=True)
        to_cls = similarity_to(grid, sequence[:, 0], "cosine")
    assert 0 < seen.largest <= grid[0].numel()
    whole = grid.contiguous()
    assert all(torch.equal(values, maps[name]) for name, values in neighbour_maps(whole, "cosine", True).items())
    assert torch.equal(similarity_to(whole, sequence[:, 0], "cosine"), to_cls)


def test_an_image_has_the_same_bits_in_any_batch() -> None:
    grid, reference = tokens_of(4, 14, 14, 96), tokens_of(4, 96, seed=1)
    maps, to_token, change = (
        neighbour_maps(grid, "cosine", True),
        similarity_to(grid, reference, "cosine"),
        token_change(grid, grid.flip(1)),
    )
    for row in range(4):
        one = slice(row, row + 1)
        alone = neighbour_maps(grid[one].clone(), "cosine", True)
        assert all(torch.equal(values[0], maps[name][row]) for name, values in alone.items())
        assert torch.equal(similarity_to(grid[one].clone(), reference[one], "cosine")[0], to_token[row])
        assert torch.equal(token_change(grid[one].clone(), grid[one].flip(1))[0], change[row])
    assert neighbour_maps(grid[:0], "cosine")["vertical_down"].shape == (0, 13, 14)
    assert similarity_to(grid[:0], reference[:0], "cosine").shape == (0, 14, 14)


@pytest.mark.parametrize("most", [1, 300, 10**6])
def test_images_together_as_on_an_accelerator_and_in_blocks_of_rows(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    grid, reference = tokens_of(3, 5, 4, 16), tokens_of(3, 16, seed=1)
    maps, to_token = neighbour_maps(grid, "cosine", True), similarity_to(grid, reference, "cosine")
    monkeypatch.setattr(token_similarity, "samples_at_once", lambda device, samples: samples)
    monkeypatch.setattr(token_similarity, "block_size", lambda device: most)
    for name, values in neighbour_maps(grid, "cosine", True).items():
        torch.testing.assert_close(values, maps[name], rtol=0, atol=1e-6)
    torch.testing.assert_close(similarity_to(grid, reference, "cosine"), to_token, rtol=0, atol=1e-6)


def test_tokens_that_need_gradients_leave_none() -> None:
    grid = tokens_of(1, 2, 2, 4).requires_grad_()
    assert not neighbour_maps(grid, "cosine")["vertical_down"].requires_grad
    assert not similarity_to(grid, grid[:, 0, 0], "cosine").requires_grad


@pytest.mark.parametrize(("wrong", "meant"), [("dot", "dot_product"), ("cos", "cosine"), ("Cosine", "cosine")])
def test_an_unknown_metric_names_the_close_one(wrong: str, meant: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{wrong}'; did you mean {meant}\?.* one of cosine, dot_product"):
        check_metric(wrong)
    with pytest.raises(ConfigurationError, match=meant):
        neighbour_maps(torch.zeros(1, 2, 2, 3), wrong)  # type: ignore[arg-type]
    assert check_metric(meant) == meant


def test_what_cannot_be_compared_says_why() -> None:
    with pytest.raises(ConfigurationError, match=r"one of cosine, dot_product"):
        check_metric("zzz")
    with pytest.raises(ConfigurationError, match=r"reference \(3, 5\).*4 numbers, for each of 2 images"):
        similarity_to(torch.zeros(2, 3, 3, 4), torch.zeros(3, 5), "cosine")
    with pytest.raises(ConfigurationError, match="one patch grid"):
        token_change(torch.zeros(1, 2, 2, 4), torch.zeros(1, 2, 3, 4))

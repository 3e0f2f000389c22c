"""How alike patch tokens are: to their neighbours, to one token, and to the token at their place in another view.

bfloat16 and float16 tokens are taken to float32 before anything is computed, so their similarities are exactly those of
the float32 tokens of the same values; float64 stays float64. Against tokens before they were rounded to half precision
a cosine is off by less than 2u + u² with u = 2⁻⁸ for bfloat16 (0.0079) and 2⁻¹¹ for float16 (0.00098; for entries above
6·10⁻⁵, below which float16 has fewer digits), and a dot product by that share of the product of the two norms.
Squares are summed in float32, so a cosine needs norms between about 10⁻¹⁸ and 10¹⁸, zero aside.
"""

from __future__ import annotations

import difflib
from typing import get_args

import torch
from torch import Tensor

from layerscope.errors import ConfigurationError
from layerscope.functional.memory_blocks import block_size, samples_at_once, sum_dtype
from layerscope.functional.similarity import cosine_of
from layerscope.functional.token_norms import token_norms, wide_dtype
from layerscope.types import NEIGHBOUR_DIAGONALS, NEIGHBOUR_PAIRS, TokenMetric


def check_metric(name: str) -> TokenMetric:
    """The name of a similarity, as it is.

    Raises:
        ConfigurationError: there is no such similarity.
    """
    for known in get_args(TokenMetric):
        if name == known:
            return known
    names = get_args(TokenMetric)
    near = difflib.get_close_matches(str(name).lower(), names, n=1, cutoff=0.3)
    raise ConfigurationError(
        f"There is no token similarity {name!r}{f'; did you mean {near[0]}?' if near else '.'} similarity_metric is "
        f"one of {', '.join(names)}."
    )


def neighbours(grid: Tensor, direction: str) -> tuple[Tensor, Tensor]:
    """The two sides of all pairs of neighbours in one direction: (B, R, C, ...) to two views (B, r, c, ...).

    direction: a name of ``types.NEIGHBOUR_PAIRS`` or ``NEIGHBOUR_DIAGONALS``. The first side is the left one, or the
    upper one of vertical and diagonal pairs; the pair at [r, c] of ``diagonal_down_left`` is (r, c + 1) and (r + 1, c).
    """
    match direction:
        case "horizontal_right":
            return grid[:, :, :-1], grid[:, :, 1:]
        case "vertical_down":
            return grid[:, :-1], grid[:, 1:]
        case "diagonal_down_right":
            return grid[:, :-1, :-1], grid[:, 1:, 1:]
        case "diagonal_down_left":
            return grid[:, :-1, 1:], grid[:, 1:, :-1]
        case _:
            raise ConfigurationError(
                f"There is no direction {direction!r}; known are {', '.join(NEIGHBOUR_PAIRS + NEIGHBOUR_DIAGONALS)}."
            )


@torch.no_grad()
def neighbour_maps(
    grid: Tensor, metric: TokenMetric, diagonals: bool = False, norms: Tensor | None = None
) -> dict[str, Tensor]:
    """Similarity of each patch token with its neighbours, of (B, R, C, D) tokens.

    The cosine is ⟨a, b⟩/(‖a‖‖b‖), in [-1, 1], 1 for two zero tokens and 0 for one; the dot product is ⟨a, b⟩. Higher
    is more alike. On a CPU an image is compared at a time, in the cache, and has the same figures in any batch.

    Args:
        grid: of any floating-point type; a view such as ``tokens[:, prefix:].unflatten(1, (rows, columns))`` is not
            copied.
        metric: ``cosine`` or ``dot_product``.
        diagonals: whether to compare diagonal neighbours too.
        norms: ``token_norms(grid)`` if they are known already; dot products need none.

    Returns:
        ``horizontal_right`` (B, R, C−1), ``vertical_down`` (B, R−1, C) and with diagonals ``diagonal_down_right`` and
        ``diagonal_down_left`` (B, R−1, C−1), float32 (float64 for float64 tokens): what ``neighbours`` pairs.

    Raises:
        ConfigurationError: there is no such metric.

    >>> grid = torch.tensor([[[[1.0, 0.0], [1.0, 1.0]], [[0.0, 2.0], [0.0, 0.0]]]])
    >>> maps = neighbour_maps(grid, "cosine")
    >>> maps["horizontal_right"].squeeze(), maps["vertical_down"].squeeze()
    (tensor([0.7071, 0.0000]), tensor([0., 0.]))
    """
    check_metric(metric)
    directions = NEIGHBOUR_PAIRS + NEIGHBOUR_DIAGONALS if diagonals else NEIGHBOUR_PAIRS
    maps = {
        name: torch.empty(neighbours(grid, name)[0].shape[:3], dtype=wide_dtype(grid.dtype), device=grid.device)
        for name in directions
    }
    for rows in _samples(grid):
        tokens = grid[rows].to(wide_dtype(grid.dtype))
        for name, values in maps.items():
            _dot(*neighbours(tokens, name), out=values[rows])
    if metric == "cosine":
        norms = token_norms(grid) if norms is None else norms
        maps = {name: cosine_of(values, *neighbours(norms, name)) for name, values in maps.items()}
    return maps


@torch.no_grad()
def similarity_to(grid: Tensor, reference: Tensor, metric: TokenMetric, norms: Tensor | None = None) -> Tensor:
    """Similarity of each patch token with one token (CLS, a seed, a region's mean, a text): (B, R, C).

    Conventions, dtype and ``norms`` as in ``neighbour_maps``.

    Args:
        grid: (B, R, C, D).
        reference: (B, D), one for each image, or (D,), one for all.
        metric: ``cosine`` or ``dot_product``.
        norms: ``token_norms(grid)`` if they are known already.

    Raises:
        ConfigurationError: there is no such metric, or the reference is of another shape.
    """
    check_metric(metric)
    if reference.shape not in ((grid.shape[-1],), (len(grid), grid.shape[-1])):
        raise ConfigurationError(
            f"Tokens {tuple(grid.shape)} cannot be compared with a reference {tuple(reference.shape)}: it is to have "
            f"{grid.shape[-1]} numbers, for each of {len(grid)} images or for all. Take both from one model and layer."
        )
    dtype = wide_dtype(grid.dtype)
    reference = reference.to(dtype).expand(len(grid), -1)
    similarity = torch.empty(grid.shape[:3], dtype=dtype, device=grid.device)
    for rows in _samples(grid):
        _dot(grid[rows].to(dtype), reference[rows, None, None], out=similarity[rows])
    if metric == "cosine":
        norms = token_norms(grid) if norms is None else norms
        similarity = cosine_of(similarity, norms, token_norms(reference)[:, None, None].expand_as(norms))
    return similarity


@torch.no_grad()
def token_change(first: Tensor, second: Tensor) -> Tensor:
    """1 − cosine of the tokens of two views at the same place: twice (B, R, C, D) to (B, R, C), in [0, 2].

    0 for equal tokens, be they zero, exactly; 1 where one is zero. Computed as (‖a − b‖² − (‖a‖ − ‖b‖)²)/(2‖a‖‖b‖),
    the same by the law of cosines, in float64 (float32 on MPS): 1 − cosine itself reads 0 or noise below 10⁻⁷, while
    this is good to a few 10⁻¹⁶ absolutely. Of float32, or float64 where either view is.

    Raises:
        ConfigurationError: the views differ in shape.
    """
    if first.shape != second.shape:
        raise ConfigurationError(
            f"Tokens of two views differ in shape, {tuple(first.shape)} and {tuple(second.shape)}, so they have no "
            "change place by place. Show both views to models of one patch grid and width."
        )
    dtype = wide_dtype(torch.promote_types(first.dtype, second.dtype))
    change = torch.empty(first.shape[:3], dtype=dtype, device=first.device)
    for rows in _samples(first):
        a, b = (x[rows].to(sum_dtype(x.device)) for x in (first, second))
        norm_a, norm_b = (torch.linalg.vector_norm(x, dim=-1) for x in (a, b))
        apart = torch.linalg.vector_norm(a - b, dim=-1)
        product = (norm_a * norm_b).clamp_min_(torch.finfo(norm_a.dtype).tiny)
        value = (0.5 * (apart.square() - (norm_a - norm_b).square()) / product).clamp_(0, 2)
        change[rows] = value.masked_fill_((norm_a == 0) ^ (norm_b == 0), 1.0)
    return change


def _samples(grid: Tensor) -> list[slice]:
    """Which images to work on together."""
    step = samples_at_once(grid.device, len(grid))
    return [slice(first, first + step) for first in range(0, len(grid), step)]


def _dot(first: Tensor, second: Tensor, out: Tensor) -> None:
    """Dot products of tokens (B, r, c, D) with others of that shape, or with one (B, 1, 1, D), into ``out`` (B, r, c).

    Elementwise rather than as a matrix product: most of that would be thrown away, and a user who allows TF32 or
    bfloat16 products for his model would have them here.
    """
    samples, height, width, channels = first.shape
    step = max(1, block_size(first.device) // max(1, samples * width * channels))
    scratch = first.new_empty(samples, min(step, height), width, channels)
    for start in range(0, height, step):
        rows = slice(start, min(start + step, height))
        part = scratch[:, : rows.stop - start]
        torch.mul(first[:, rows], second[:, rows] if second.shape[1] == height else second, out=part)
        torch.sum(part, dim=-1, out=out[:, rows])

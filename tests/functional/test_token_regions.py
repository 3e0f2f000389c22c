"""Patches on a box or a mask, counted by loops over patches and pixels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from layerscope.errors import ConfigurationError
from layerscope.functional.token_regions import box_seen, patch_mask, patches_in_box, region_mean


def box(*edges: float) -> Tensor:
    return torch.tensor(edges, dtype=torch.float64)


def test_patches_are_those_whose_centre_lies_in_the_box() -> None:
    """A crop of 400 × 300 pixels from a picture, and a whole one of 40 × 30, in one batch."""
    shown = torch.stack([box(100, 50, 500, 350), box(0, 0, 40, 30), box(0, 0, 500, 400)])
    rows, columns = 6, 8
    for wanted in (box(10, 12, 260, 260), box(20, 10, 400, 351), box(0, 0, 700, 700), box(33.3, 21.7, 140.2, 91)):
        found = patches_in_box(shown, wanted, rows, columns)
        expected = torch.zeros_like(found)
        left, top, right, bottom = wanted.tolist()
        for b, (x0, y0, x1, y1) in enumerate(shown.tolist()):
            for r in range(rows):
                for c in range(columns):
                    x, y = x0 + (c + 0.5) * (x1 - x0) / columns, y0 + (r + 0.5) * (y1 - y0) / rows
                    expected[b, r, c] = left <= x < right and top <= y < bottom
            if not expected[b].any():
                assert found[b].sum() == 1
                expected[b] = found[b]
        assert torch.equal(found, expected)


def test_boxes_that_tile_the_picture_share_no_patch() -> None:
    """Their common edge goes through centres: each belongs to one box."""
    shown = box(0, 0, 80, 80)[None]
    parts = [patches_in_box(shown, box(*edges), 4, 4) for edges in ((0, 0, 30, 80), (30, 0, 50, 80), (50, 0, 80, 80))]
    assert [int(part.sum()) for part in parts] == [4, 4, 8]
    assert torch.stack(parts).sum(dim=0).eq(1).all()


@pytest.mark.parametrize(
    ("wanted", "rows", "columns"),
    [
        ((1, 1, 3, 3), [0], [0]),
        ((51, 21, 53, 24), [1], [2]),  # beside the centre (50, 30)
        ((99, 78, 120, 90), [3], [4]),  # its centre is beyond the picture; what is shown of it is not
        ((-50, 25, 1, 27), [1], [0]),
        ((1, -200, 3, 4), [0], [0]),  # most of it is above the picture: the middle of what is shown
        ((0, 0, 5, 80), [0, 1, 2, 3], [0]),  # a strip thinner than a patch
        ((0, 12, 100, 14), [0], [0, 1, 2, 3, 4]),
    ],
)
def test_a_box_between_centres_is_the_row_or_column_that_holds_its_middle(
    wanted: tuple[int, ...], rows: list[int], columns: list[int]
) -> None:
    found = patches_in_box(box(0, 0, 100, 80)[None], box(*wanted), 4, 5)
    assert found[0].nonzero().tolist() == [[row, column] for row in rows for column in columns]


def test_a_box_outside_what_is_shown_names_both_and_the_row() -> None:
    shown = torch.stack([box(0, 0, 100, 100), box(200, 0, 300, 100), box(0, 0, 10, 10)])
    assert box_seen(shown, box(20, 20, 60, 60)).tolist() == [True, False, False]
    with pytest.raises(ConfigurationError, match=r"\(20, 20, 60, 60\).*row 1 .*\(200, 0, 300, 100\)"):
        patches_in_box(shown, box(20, 20, 60, 60), 4, 4)
    # Touching along an edge shows nothing of it.
    assert box_seen(shown, box(100, 0, 200, 100)).tolist() == [False, False, False]


@pytest.mark.parametrize("wanted", [(5, 5, 5, 9), (5, 9, 8, 9), (8, 1, 2, 9), (float("nan"), 0, 1, 1)])
def test_a_box_without_area_is_refused(wanted: tuple[float, ...]) -> None:
    with pytest.raises(ConfigurationError, match="no area"):
        patches_in_box(box(0, 0, 10, 10)[None], box(*wanted), 2, 2)


def coverage(mask: Tensor, rows: int, columns: int) -> Tensor:
    """Each pixel cut into rows × columns equal parts, so that every patch holds whole parts."""
    fine = mask.repeat_interleave(rows, dim=0).repeat_interleave(columns, dim=1).double()
    height, width = mask.shape
    return fine.unflatten(1, (columns, width)).unflatten(0, (rows, height)).mean(dim=(1, 3))


@pytest.mark.parametrize(
    ("size", "patches"), [((28, 42), (4, 6)), ((30, 20), (7, 3)), ((5, 5), (7, 9)), ((8, 8), (1, 1))]
)
def test_patch_mask_is_the_patches_covered_by_half(size: tuple[int, int], patches: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(5, *size, generator=generator) < torch.tensor([0.02, 0.1, 0.45, 0.55, 0.9])[:, None, None]
    mask[0, :, :] = False
    mask[0, 2, 3] = True
    for found, one in zip(patch_mask(mask, *patches), mask):
        covered = coverage(one, *patches)
        half = covered >= 0.5 - 1e-12
        assert torch.equal(found, half if half.any() else (covered >= covered.max() - 1e-12) & (covered > 0))


def test_exactly_half_counts_and_less_does_not_beside_it() -> None:
    mask = torch.zeros(1, 4, 12, dtype=torch.bool)
    mask[0, :, :4] = True
    mask[0, :2, 4:8] = True
    mask[0, 1, 8:] = True
    assert patch_mask(mask, 1, 3).tolist() == [[[True, True, False]]]


def test_a_lesion_smaller_than_a_patch_stays_visible_and_none_stays_none() -> None:
    mask = torch.zeros(3, 32, 32, dtype=torch.bool)
    mask[0, 9, 17] = True
    mask[1, 7:9, 3] = True  # one pixel in each of two patches
    found = patch_mask(mask, 4, 4)
    assert found[0].nonzero().tolist() == [[1, 2]]
    assert found[1].nonzero().tolist() == [[0, 0], [1, 0]]
    assert not found[2].any()
    assert patch_mask(torch.ones(1, 32, 32, dtype=torch.bool), 3, 5).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_region_mean_is_the_mean_of_its_tokens(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    grid = torch.randn(3, 4, 5, 16, generator=generator).to(dtype)
    inside = torch.rand(3, 4, 5, generator=generator) < 0.4
    inside[2] = False
    grid[0][~inside[0]] = torch.inf  # what is outside has no part in it
    found = region_mean(grid, inside)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    for b in range(2):
        torch.testing.assert_close(found[b].double(), grid[b][inside[b]].double().mean(dim=0), rtol=1e-5, atol=1e-6)
    assert found[2].isnan().all()

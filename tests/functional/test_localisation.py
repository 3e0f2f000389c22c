"""Localisation against scikit-learn on maps with and without ties, and its control."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

from layerscope.errors import ConfigurationError
from layerscope.functional.localisation import (
    localisation,
    localisation_with_control,
    mask_pixels,
    shifted_masks,
)


def square(height: int, width: int, top: int, left: int, side: int) -> Tensor:
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[top : top + side, left : left + side] = True
    return mask


def of_definition(distance: Tensor, mask: Tensor) -> list[float]:
    """One map and mask of the same size."""
    d, s = distance.double().flatten().numpy(), mask.flatten().numpy()
    energy = d[s].sum() / d.sum()
    largest = np.flatnonzero(d == d.max())
    return [energy, energy / s.mean(), s[largest].mean(), roc_auc_score(s, d), average_precision_score(s, d)]


@pytest.mark.parametrize("levels", [None, 50, 3, 1])
@pytest.mark.parametrize("share", [0.002, 0.03, 0.6])
def test_equals_scikit_learn_whatever_the_ties(levels: int | None, share: float) -> None:
    generator = torch.Generator().manual_seed(int(1000 * share))
    mask = torch.rand(3, 40, 50, generator=generator) < share
    distance = torch.rand(3, 40, 50, generator=generator) + 0.2 * mask
    distance[:, 0, 0] = 1.0  # no map is 0 everywhere, whatever the levels
    if levels is not None:  # the first level is 0: a map that is nearly all 0, as of a difference in one corner
        distance = (distance * levels).floor()
    found = localisation(distance, mask)
    assert found.dtype == torch.float64
    expected = [of_definition(d, s) for d, s in zip(distance, mask)]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)


def test_a_map_on_the_lesion_a_map_beside_it_and_a_flat_one() -> None:
    mask = square(20, 20, 4, 4, 6)
    distance = torch.stack([mask.float(), (~mask).float(), torch.ones(20, 20)])
    found = localisation(distance, mask.expand(3, 20, 20))
    share = 36 / 400
    chance_precision = share
    assert found[0].tolist() == pytest.approx([1, 1 / share, 1, 1, 1])
    assert found[1].tolist() == pytest.approx([0, 0, 0, 0, chance_precision])
    assert found[2].tolist() == pytest.approx([share, 1, share, 0.5, chance_precision])


def test_distance_is_brought_to_the_masks_resolution_by_areas() -> None:
    """Pixels are areas: with corners aligned the left half of a map of two columns would not be symmetrical."""
    mask = torch.zeros(1, 8, 16, dtype=torch.bool)
    mask[..., :4] = True
    distance = torch.tensor([[[1.0, 3.0]]])
    # align_corners=False: constant up to the middle of the first pixel (4 of 16 columns), then linear.
    columns = torch.tensor([1, 1, 1, 1, *(1 + 2 * (k + 0.5) / 8 for k in range(8)), 3, 3, 3, 3])
    expected = of_definition(columns.expand(8, 16), mask[0])
    assert localisation(distance, mask)[0].tolist() == pytest.approx(expected, rel=1e-6)


def test_an_empty_mask_is_no_hit_and_what_cannot_miss_is_none_either() -> None:
    """An empty mask has been counted as a hit elsewhere; it must not enter a mean."""
    empty, everywhere = torch.zeros(8, 8, dtype=torch.bool), torch.ones(8, 8, dtype=torch.bool)
    lesion = square(8, 8, 1, 1, 2)
    distance = torch.rand(6, 8, 8, generator=torch.Generator().manual_seed(0))
    distance[3] = 0
    distance[4, 0, 0] = torch.nan
    distance[5, 0, 0] = torch.inf
    mask = torch.stack([lesion, empty, everywhere, lesion, lesion, lesion])
    for found in localisation_with_control(distance, mask):
        assert found[0].isfinite().all()
        assert found[1:].isnan().all()
    assert localisation(distance, mask)[1:].isnan().all()
    nothing = localisation_with_control(distance[:0], mask[:0])
    assert [x.shape for x in nothing] == [(0, 5), (0, 5)]


def test_shifted_masks_keep_their_area_and_lie_elsewhere() -> None:
    masks = torch.stack([square(40, 60, 5, 50, 12), square(40, 60, 12, 20, 16)])
    copies, valid = shifted_masks(masks)
    assert copies.shape[1:] == masks.shape
    assert valid.shape == copies.shape[:2]
    assert valid.sum(dim=0).tolist() == [3, 3]
    assert torch.equal(copies[0, 0], square(40, 60, 25, 50, 12))
    for copy, counts in zip(copies, valid):
        assert torch.equal(copy.sum(dim=(1, 2)), masks.sum(dim=(1, 2)))
        assert not (copy & masks)[counts].any()


def test_quarter_shifts_stand_in_where_half_shifts_overlap() -> None:
    """Four lesions, half an image apart: every half shift falls on another lesion."""
    mask = sum(square(40, 40, top, left, 4) for top in (2, 22) for left in (2, 22)).bool()[None]
    copies, valid = shifted_masks(mask)
    assert not valid[:3].any()
    assert valid[3:].all()
    assert not (copies[3:] & mask).any()


def test_no_shift_counts_for_a_mask_that_overlaps_all_or_is_empty() -> None:
    frame = ~square(20, 20, 1, 1, 18)
    wide = square(20, 20, 0, 0, 16)
    _, valid = shifted_masks(torch.stack([frame, wide, torch.zeros(20, 20, dtype=torch.bool)]))
    assert not valid.any()
    found, control = localisation_with_control(torch.rand(1, 20, 20), wide[None])
    assert found.isfinite().all()
    assert control.isnan().all()


def test_a_shift_may_share_a_tenth_of_the_masks_area_and_no_more() -> None:
    def stripe(width: int) -> Tensor:
        return torch.arange(40) < width

    # Rolled by half the width, a stripe of 20 + k columns has 2k in common with itself.
    masks = torch.stack([stripe(width).expand(4, 40) for width in (20, 21, 22)])
    _, valid = shifted_masks(masks)
    assert valid[1].tolist() == [True, True, False]  # 0, 2 of 21 (9.5 %), 4 of 22 (18 %)


def test_control_is_the_mean_over_shifted_masks_that_count() -> None:
    generator = torch.Generator().manual_seed(4)
    masks = torch.stack([square(32, 48, 3, 3, 7), square(32, 48, 9, 20, 16), square(32, 48, 8, 8, 3)])
    distance = torch.rand(3, 8, 12, generator=generator)
    found, control = localisation_with_control(distance, masks)
    torch.testing.assert_close(found, localisation(distance, masks))
    copies, valid = shifted_masks(masks)
    for row in range(3):
        alone = [localisation(distance[row : row + 1], copy[row : row + 1])[0] for copy in copies[valid[:, row]]]
        torch.testing.assert_close(control[row], torch.stack(alone).mean(dim=0))
    again = localisation_with_control(distance, mask_pixels(masks))
    assert torch.equal(again[0], found)
    assert torch.equal(again[1], control)


def test_a_planted_difference_is_found_and_its_control_is_not() -> None:
    generator = torch.Generator().manual_seed(5)
    masks = torch.stack([square(64, 64, top, left, 14) for top, left in ((4, 6), (30, 20), (45, 45), (0, 50))])
    small = torch.nn.functional.avg_pool2d(masks[:, None].float(), 4)[:, 0]
    distance = small + 0.1 * torch.rand(4, 16, 16, generator=generator)
    found, control = localisation_with_control(distance, masks)
    auroc = 3
    assert bool((found[:, auroc] > 0.95).all())
    assert bool((control[:, auroc] < 0.6).all())
    assert found[:, 2].tolist() == [1, 1, 1, 1]
    assert control[:, 2].tolist() == [0, 0, 0, 0]


def test_distance_and_masks_of_different_images_are_an_error() -> None:
    with pytest.raises(ConfigurationError, match="2 images was to be compared with masks of 3"):
        localisation(torch.rand(2, 4, 4), torch.ones(3, 8, 8, dtype=torch.bool))

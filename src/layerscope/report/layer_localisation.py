"""Is a layer's difference where the lesion is: figures for the mask beside those for shifted masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from layerscope.artifacts.layer_scores import DIFFERENCES, LOCALISATION, FloatArray, LayerScores
from layerscope.report.sample_means import SampleMeans, sample_means, surer

_AUROC = LOCALISATION.index("auroc")


@dataclass(frozen=True)
class LocalisationTable:
    """Means over the pairs that have a figure and its control, each (L, 5) in the order of ``LOCALISATION``.

    mask, shifted: of the figures for the mask and for its control, over the same pairs. difference: mask − control,
    paired; an interval above 0 is the evidence that the difference is at the lesion, and not merely where it would be
    anyway. As a claim hangs on it, its interval holds with few pairs too (``sample_means.joint_interval``).
    nothing: (L,), pairs with a usable mask that have no difference to localise in that layer.
    no_positions: (L,), layers whose activations have no known place in the image (``without_positions``).
    no_control: pairs left out because every shifted mask overlaps the lesion.
    no_mask, empty_mask, whole_mask: pairs left out everywhere: without a mask, an empty one, one that is the image.
    """

    mask: SampleMeans
    shifted: SampleMeans
    difference: SampleMeans
    nothing: NDArray[np.int64]
    no_positions: NDArray[np.bool_]
    no_control: int
    no_mask: int
    empty_mask: int
    whole_mask: int

    @property
    def measured(self) -> bool:
        """Whether any pair could be compared with its control in any layer."""
        return bool(self.mask.n.any())

    def at_lesion(self, layer: int) -> bool:
        """Whether AUROC surely exceeds its control in that layer."""
        return bool(self.difference.lo[layer, _AUROC] > 0)


def summarise_localisation(
    scores: LayerScores,
    measured: NDArray[np.bool_],
    weights: NDArray[np.float32],
    group: NDArray[np.int64] | None,
    level: float,
) -> LocalisationTable:
    """measured: (N,), the pairs that count; weights (B, n) and group (n,) are of those alone."""
    own, control, share = scores.localisation[measured], scores.control[measured], scores.mask_fraction[measured]
    usable = (share > 0) & (share < 1)

    no_positions = without_positions(scores)
    paired = usable[:, None, None] & np.isfinite(own) & np.isfinite(control)
    localised = np.isfinite(own[:, :, _AUROC]).any(axis=1)
    controlled = np.isfinite(control[:, :, _AUROC]).any(axis=1)

    def means(values: FloatArray) -> SampleMeans:
        return sample_means(np.where(paired, values, np.nan), weights, group, level)

    return LocalisationTable(
        mask=means(own),
        shifted=means(control),
        difference=surer(means(own - control), level),
        nothing=(usable[:, None] & np.isnan(own[:, :, _AUROC]) & ~no_positions).sum(axis=0).astype(np.int64),
        no_positions=no_positions,
        no_control=int((usable & localised & ~controlled).sum()),
        no_mask=int(np.isnan(share).sum()),
        empty_mask=int((share == 0).sum()),
        whole_mask=int((share >= 1).sum()),
    )


def without_positions(scores: LayerScores) -> NDArray[np.bool_]:
    """(L,), True for a layer in which pairs with a usable mask differ and no difference has a place in the image.

    Such are vectors, the inside of attention, and the layers of a model that works in tiles.
    """
    usable = (scores.mask_fraction > 0) & (scores.mask_fraction < 1)
    differ = (scores.values[usable, :, DIFFERENCES.index("l2")] > 0).any(axis=0)
    return np.asarray(differ & np.isnan(scores.localisation[usable, :, _AUROC]).all(axis=0))


def exclusion(share: float, figures: FloatArray, positions: bool = True) -> str:
    """Why a pair has no figures in a layer; empty where it has.

    share: of the mask. figures: (5,). positions: whether the layer's activations have a place in the image.
    """
    if np.isnan(share):
        return "no mask"
    if share == 0:
        return "empty mask"
    if share >= 1:
        return "mask covers the whole image"
    if not positions:
        return "no image positions"
    return "nothing to localise" if np.isnan(figures[_AUROC]) else ""

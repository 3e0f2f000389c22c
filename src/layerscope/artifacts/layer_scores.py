"""What a pair diagnosis measured: one row a pair, one column a layer. Everything it reports follows from this."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Shape = tuple[int | None, ...]

POINTS = ("input", "latent", "reconstruction")
"""Names of activations that belong to no module; ``types.PairOutput.points``."""

DIFFERENCES = ("l2", "rms", "relative_l2", "cosine_dissimilarity", "sqnr_db")
"""Metrics of the difference between two activations, in the order of the last axis of ``LayerScores.values``."""

SIZE_FREE = ("relative_l2", "cosine_dissimilarity", "sqnr_db")
"""Those that compare layers of different size."""

LOCALISATION = ("energy_in_mask", "lift", "pointing", "auroc", "average_precision")
"""Where the difference is, in the order of the last axis of ``LayerScores.localisation``."""


@dataclass(frozen=True)
class LayerScores:
    """N pairs, L layers in the order of the computation, points among them.

    id: N names, and group: patient of each, None where the data has none.
    layer: L names (``decoder.conv_in``; the second call of one is ``decoder.act:2``).
    shape: of each layer's activation for one image, (C, h, w), None where images of different sizes differ.
    module: class of each; "" for a point.
    values: (N, L, 5), see ``DIFFERENCES``; sqnr_db is infinite where a pair is identical; NaN rows were skipped.
    pooled: (L, 5), the same formulas on energies summed over pairs; rms and l2 too.
    cka_hsic: (G, L, 3), HSIC₁(K, L), HSIC₁(K, K), HSIC₁(L, L) within each measured group of ``types.CKA_GROUP`` pairs,
        in the order of the split: K of the images with the finding, L of those without. Linear CKA follows
        (``report.layer_cka``). G is 0 where none was measured.
    cka_possible: groups that N pairs have; 0 where the batch size forbids them. Skipped pairs broke what G lacks of it.
    floor: (K, L, 5), the same of pairs without a finding; K is 0 without a floor. floor_id: K names. floor_kind: what
        they are: "negatives", "same_image" or "none".
    localisation, control: (N, L, 5), see ``LOCALISATION``, for the mask and for shifted masks; NaN where undefined.
    mask_fraction: (N,), share of the image; NaN where a pair has no mask.
    skipped: (id, reason) of pairs that were not measured; their rows in ``values`` are NaN.
    extra: name of a user's own metric (``protocols.LayerMetric``) to its values (N, L).
    """

    id: list[str]
    group: list[str] | None
    layer: list[str]
    shape: list[Shape]
    module: list[str]
    values: FloatArray
    pooled: FloatArray
    cka_hsic: FloatArray
    cka_possible: int
    floor: FloatArray
    floor_id: list[str]
    floor_kind: str
    localisation: FloatArray
    control: FloatArray
    mask_fraction: FloatArray
    skipped: list[tuple[str, str]] = field(default_factory=list)
    extra: dict[str, FloatArray] = field(default_factory=dict)

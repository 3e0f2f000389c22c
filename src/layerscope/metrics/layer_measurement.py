"""What is kept of one layer's activations of a batch of pairs; everything else is forgotten inside the hook."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from layerscope.functional.layer_energies import pair_energies
from layerscope.functional.positions import grid_distance
from layerscope.metrics.linear_cka import LinearCKA
from layerscope.protocols import LayerMetric
from layerscope.types import CKA_GROUP, PositionGrid


@dataclass(frozen=True)
class LayerMeasurement:
    """One layer on B pairs.

    shape: of the activation for one image. elements: how many numbers that is.
    energies: float64 (B, 3), Σa², Σb², Σ(a−b)² of each pair.
    distance: float32 (B, rows, columns), ‖a−b‖₂ over channels at each image position; None where there are none.
    hsic: (groups, 3), HSIC(K, L), HSIC(K, K), HSIC(L, L) of each whole group of pairs; None without such groups.
    extra: (B,) of each further metric, by its name.
    """

    shape: tuple[int, ...]
    energies: Tensor
    distance: Tensor | None
    hsic: Tensor | None
    extra: dict[str, Tensor] = field(default_factory=dict)

    @property
    def elements(self) -> int:
        product = 1
        for length in self.shape:
            product *= length
        return product


def measure_layer(
    activation: Tensor,
    pairs: int,
    grid: PositionGrid | None,
    groups: Sequence[int],
    metrics: Sequence[LayerMetric] = (),
) -> LayerMeasurement:
    """Reduces one activation.

    Args:
        activation: (2B, ...), the B positives before their negatives. (2B·k, ...), where a model puts windows or tiles
            of an image beside each other in the batch dimension, is taken as k parts of each image.
        pairs: B. grid: where the image positions are.
        groups: rows at which whole groups of ``types.CKA_GROUP`` pairs begin.
        metrics: further figures of both activations.
    """
    if activation.shape[0] != 2 * pairs:
        activation, grid = activation.reshape(2 * pairs, -1), None
    a, b = activation[:pairs], activation[pairs:]
    seen = pair_energies(a, b, grid.channel_dim if grid is not None else None)
    distance = grid_distance(seen.distance, grid) if seen.distance is not None else None
    hsic = LinearCKA.group_hsic(a, b, groups, CKA_GROUP) if groups else None
    extra = {metric.name: metric.compare(a, b) for metric in metrics}
    return LayerMeasurement(tuple(activation.shape[1:]), seen.energies, distance, hsic, extra)

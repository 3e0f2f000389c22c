"""The figures of all images of a token diagnosis, on any number of processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from lightning.pytorch import Trainer
from numpy.typing import NDArray

from layerscope.artifacts.token_scores import MASK_FIGURES, TokenScores, ViewScores
from layerscope.callbacks.gather import gather_objects
from layerscope.errors import DataError
from layerscope.functional.memory_blocks import sum_dtype
from layerscope.metrics.table import IndexedTable
from layerscope.types import NormStage, SkippedSample, TokenMetric, TokenOutput, TokenView


@dataclass(frozen=True)
class _Shape:
    """What a view's table is made of."""

    model: str
    prefix: tuple[str, ...]
    cls_source: str
    layers: tuple[str, ...]
    figures: tuple[str, ...]


class TokenTable:
    """One table a view, (N, L, K), filled by row; nothing else is kept.

    Args:
        ids: N ids, in the order of the rows. device: of the figures.
    """

    def __init__(self, ids: Sequence[str], device: torch.device) -> None:
        self.ids = list(ids)
        self.device = device
        self._shapes: dict[str, _Shape] = {}
        self._tables: dict[str, IndexedTable] = {}
        self._skipped: list[SkippedSample] = []
        self._taken: tuple[TokenMetric, NormStage] = ("cosine", "before")

    def update(self, output: TokenOutput) -> None:
        """Adds a batch."""
        self._taken = (output.metric, output.norm)
        for view in output.views:
            if view.name not in self._tables:
                self._make(view.name, _shape(view))
            values = torch.stack(
                [torch.stack(list(layer.figures.values()), dim=1) for layer in view.layers.values()], dim=1
            )
            self._tables[view.name].update(output.index, {"values": values, "has_mask": output.has_mask})
        self._skipped += output.skipped

    def scores(self, trainer: Trainer, groups: Sequence[str] | None) -> TokenScores:
        """Brings all processes' shares together; a collective operation.

        groups: patient of each row. Where no image has a mask its figures are left out.

        Raises:
            DataError: no image was measured.
        """
        known = gather_objects(trainer, (self._shapes, self._taken, self._skipped))
        # A process without images knows neither views nor how they were taken.
        shapes, (metric, norm) = next(((shapes, taken) for shapes, taken, _ in known if shapes), ({}, self._taken))
        skipped = sorted({(one.id, one.reason) for *_, mine in known for one in mine})
        if not shapes:
            name, reason = skipped[0]
            raise DataError(f"None of the {len(self.ids)} images was measured. The first reason: {name}: {reason}")
        views = []
        with_mask = np.zeros(len(self.ids), dtype=np.bool_)
        for name, shape in shapes.items():
            view, masks = self._collected(name, shape)
            views.append(view)
            with_mask |= masks
        return TokenScores(
            self.ids,
            None if groups is None else list(groups),
            views if with_mask.any() else [_without_masks(view) for view in views],
            skipped,
            with_mask if with_mask.any() else None,
            metric,
            norm,
        )

    def _make(self, name: str, shape: _Shape) -> None:
        self._shapes[name] = shape
        columns: dict[str, tuple[int, ...]] = {"values": (len(shape.layers), len(shape.figures)), "has_mask": ()}
        self._tables[name] = IndexedTable(len(self.ids), columns, sum_dtype(self.device)).to(self.device)

    def _collected(self, name: str, shape: _Shape) -> tuple[ViewScores, NDArray[np.bool_]]:
        if name not in self._tables:
            self._make(name, shape)
        table, size = self._tables[name], (len(shape.layers), len(shape.figures))
        if self._skipped:
            rows = torch.tensor([one.row for one in self._skipped])
            nothing = {"values": torch.full((len(rows), *size), torch.nan), "has_mask": torch.zeros(len(rows))}
            table.update(rows, nothing)
        # torchmetrics takes the axes away from a column of one number.
        columns = table.compute()
        values = columns["values"].double().cpu().numpy().reshape(len(self.ids), *size)
        masks = columns["has_mask"].cpu().numpy().reshape(len(self.ids)) > 0
        scores = ViewScores(
            name, shape.model, list(shape.layers), list(shape.figures), values, shape.prefix, shape.cls_source
        )
        return scores, masks


def _without_masks(view: ViewScores) -> ViewScores:
    kept = [place for place, figure in enumerate(view.figure) if figure not in MASK_FIGURES]
    return replace(view, figure=[view.figure[place] for place in kept], values=view.values[..., kept])


def _shape(view: TokenView) -> _Shape:
    figures = next(iter(view.layers.values())).figures
    return _Shape(view.model, view.layout.prefix, view.cls_source, tuple(view.layers), tuple(figures))

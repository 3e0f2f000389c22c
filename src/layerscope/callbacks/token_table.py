"""The figures of all images of a token diagnosis, on any number of processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from lightning.pytorch import Trainer

from layerscope.artifacts.token_scores import TokenScores, ViewScores
from layerscope.callbacks.gather import gather_objects
from layerscope.errors import DataError
from layerscope.functional.mask_border import BORDER_FIGURES
from layerscope.functional.memory_blocks import sum_dtype
from layerscope.metrics.table import IndexedTable
from layerscope.types import SkippedSample, TokenOutput, TokenView

OF_MASKS = frozenset({*BORDER_FIGURES, "token_change_auroc", "shifted_token_change_auroc"})
"""Figures that need a lesion mask."""


@dataclass(frozen=True)
class _Shape:
    """What a view's table is made of."""

    model: str
    prefix: tuple[str, ...]
    layers: tuple[str, ...]
    figures: tuple[str, ...]


class TokenTable:
    """One table a view, (N, L, K), filled by row; nothing else is kept.

    Args:
        ids: N ids, in the order of the rows. device: of the figures.

    Attributes:
        prefix: view to its tokens before the patches; of all processes once ``scores`` was called.
    """

    def __init__(self, ids: Sequence[str], device: torch.device) -> None:
        self.ids = list(ids)
        self.device = device
        self._shapes: dict[str, _Shape] = {}
        self._tables: dict[str, IndexedTable] = {}
        self._skipped: list[SkippedSample] = []
        self.prefix: dict[str, tuple[str, ...]] = {}

    def update(self, output: TokenOutput) -> None:
        """Adds a batch."""
        for view in output.views:
            if view.name not in self._tables:
                self._make(view.name, _shape(view))
            values = torch.stack(
                [torch.stack(list(layer.figures.values()), dim=1) for layer in view.layers.values()], dim=1
            )
            self._tables[view.name].update(output.index, {"values": values})
        self._skipped += output.skipped

    def scores(self, trainer: Trainer, groups: Sequence[str] | None, with_masks: bool) -> TokenScores:
        """Brings all processes' shares together; a collective operation.

        groups: patient of each row. with_masks: whether any image has a mask; else its figures are left out.

        Raises:
            DataError: no image was measured.
        """
        known = gather_objects(trainer, (self._shapes, self._skipped))
        shapes: dict[str, _Shape] = next((shapes for shapes, _ in known if shapes), {})
        self.prefix = {name: shape.prefix for name, shape in shapes.items()}
        skipped = sorted({(one.id, one.reason) for _, mine in known for one in mine})
        if not shapes:
            name, reason = skipped[0]
            raise DataError(f"None of the {len(self.ids)} images was measured. The first reason: {name}: {reason}")
        views = [self._collected(name, shape, with_masks) for name, shape in shapes.items()]
        return TokenScores(self.ids, None if groups is None else list(groups), views, skipped)

    def _make(self, name: str, shape: _Shape) -> None:
        self._shapes[name] = shape
        columns: dict[str, tuple[int, ...]] = {"values": (len(shape.layers), len(shape.figures))}
        self._tables[name] = IndexedTable(len(self.ids), columns, sum_dtype(self.device)).to(self.device)

    def _collected(self, name: str, shape: _Shape, with_masks: bool) -> ViewScores:
        if name not in self._tables:
            self._make(name, shape)
        table, size = self._tables[name], (len(shape.layers), len(shape.figures))
        if self._skipped:
            rows = torch.tensor([one.row for one in self._skipped])
            table.update(rows, {"values": torch.full((len(rows), *size), torch.nan)})
        # torchmetrics takes the axes away from a column of one number.
        values = table.compute()["values"].double().cpu().numpy().reshape(len(self.ids), *size)
        kept = [place for place, figure in enumerate(shape.figures) if with_masks or figure not in OF_MASKS]
        figures = [shape.figures[place] for place in kept]
        return ViewScores(name, shape.model, list(shape.layers), figures, values[..., kept])


def _shape(view: TokenView) -> _Shape:
    return _Shape(view.model, view.layout.prefix, tuple(view.layers), tuple(next(iter(view.layers.values())).figures))

"""What a teacher sees of the originals, compared with what it sees of other versions of them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from layerscope.functional.similarity import channel_norm, pooled, position_cosines, vector_cosines
from layerscope.types import TeacherFeatures


def similarity_names(seen: TeacherFeatures) -> list[str]:
    """The cosines that a teacher allows: of the embedding, and of each stage pooled and by position."""
    names = ["embedding"] if seen.embedding is not None else []
    return names + [f"{stage}.{kind}" for stage in seen.stages for kind in ("pooled", "position")]


def some_of(seen: TeacherFeatures, rows: slice) -> TeacherFeatures:
    """The features of some images of a batch."""
    embedding = None if seen.embedding is None else seen.embedding[rows]
    return TeacherFeatures(seen.logits[rows], embedding, {name: stage[rows] for name, stage in seen.stages.items()})


class OriginalFeatures:
    """What the teacher sees of the originals of a batch, with what every comparison needs of it."""

    def __init__(self, seen: TeacherFeatures) -> None:
        self.seen = seen
        self.pooled = [pooled(stage) for stage in seen.stages.values()]
        self.norms = [channel_norm(stage) for stage in seen.stages.values()]

    def compare(self, seen: TeacherFeatures, rows: slice) -> Tensor:
        """Cosines of the originals in ``rows`` with ``seen``: (rows, K) in the order of ``similarity_names``."""
        original = some_of(self.seen, rows)
        columns = []
        if original.embedding is not None and seen.embedding is not None:
            columns.append(vector_cosines([original.embedding], [seen.embedding]))
        if original.stages:
            stages = [seen.stages[name] for name in original.stages]
            by_pool = vector_cosines([one[rows] for one in self.pooled], [pooled(stage) for stage in stages])
            norms = [norm[rows] for norm in self.norms]
            by_position = position_cosines(list(original.stages.values()), stages, norms)
            columns.append(torch.stack((by_pool, by_position), dim=2).flatten(1))
        return torch.cat(columns, dim=1)


def cosines_of_neighbours(previous: TeacherFeatures | None, seen: TeacherFeatures) -> Iterator[Tensor]:
    """Cosines of consecutive different originals, also across the border of two batches."""
    if previous is not None:
        yield OriginalFeatures(previous).compare(some_of(seen, slice(0, 1)), slice(0, 1))
    if len(seen.logits) > 1:
        yield OriginalFeatures(seen).compare(some_of(seen, slice(1, None)), slice(0, -1))

"""Which images a noise floor compares: pairs between which there is no finding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from layerscope.data.images import image_size_in_file
from layerscope.data.pairs.records import PairRecord
from layerscope.errors import DataError

NoiseFloor = Literal["negatives", "same_image", "none"]


@dataclass(frozen=True)
class FloorRow:
    """Two negatives that are compared, or one with itself."""

    first: PairRecord
    second: PairRecord

    @property
    def id(self) -> str:
        return self.first.id if self.first is self.second else f"{self.first.id} | {self.second.id}"


@dataclass(frozen=True)
class Floor:
    """The rows of a noise floor and what kind they are; ``note`` says why it is not the kind that was asked for."""

    kind: NoiseFloor
    rows: tuple[FloorRow, ...]
    note: str | None = None


def choose_floor(records: Sequence[PairRecord], asked: NoiseFloor, most: int, of_one_size: bool) -> Floor:
    """At most ``most`` rows, from the first of ``records`` on.

    negatives: couples of two pairs' negatives, each in one couple only; with ``of_one_size`` both have one size in
    their files. Where patients are known, one image of each takes part: couples that share a patient would count as
    more independent ones than there are, and the floor's interval would be too narrow. Fewer than two couples have no
    spread that could be told, and it becomes same_image: each negative with itself.
    """
    if asked == "none":
        return Floor("none", ())
    if asked == "negatives":
        couples = _couples(_one_of_each_patient(records), most, of_one_size)
        if len(couples) >= 2:
            return Floor("negatives", couples)
        apart = "of different patients " if any(record.group for record in records) else ""
        alike = "of equal size " if of_one_size else ""
        return Floor(
            "same_image",
            _themselves(records, most),
            f"noise_floor negatives needs at least 2 couples of negatives {apart}{alike}and found {len(couples)} among "
            f"{len(records)} pairs (floor_pairs: {most}), so each negative is compared with itself",
        )
    return Floor("same_image", _themselves(records, most))


def _themselves(records: Sequence[PairRecord], most: int) -> tuple[FloorRow, ...]:
    return tuple(FloorRow(record, record) for record in records[:most])


def _one_of_each_patient(records: Sequence[PairRecord]) -> list[PairRecord]:
    """The first record of each patient; every record that names none."""
    seen: set[str] = set()
    chosen = []
    for record in records:
        if not record.group or record.group not in seen:
            chosen.append(record)
            seen.add(record.group)
    return chosen


def _couples(records: Sequence[PairRecord], most: int, of_one_size: bool) -> tuple[FloorRow, ...]:
    """Each record goes with the one before it that waits and has its size."""
    waiting: dict[tuple[int, int] | None, PairRecord] = {}
    couples: list[FloorRow] = []
    for record in records:
        if len(couples) == most:
            break
        size: tuple[int, int] | None = None
        if of_one_size:
            try:
                size = image_size_in_file(record.negative or record.positive)
            except DataError:
                # Its pair tells, or skips it.
                continue
        if size in waiting:
            couples.append(FloorRow(waiting.pop(size), record))
        else:
            waiting[size] = record
    return tuple(couples)

"""scores.npz: everything the statistics need, so that they can be redone without the models.

N samples, L labels, C condition rows (every noise draw is a row of its own), K kinds of similarity.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from layerscope.artifacts.versions import SCHEMA_VERSION
from layerscope.errors import ArtifactError

CONDITION_KINDS = ("real", "recon", "noise", "control")


@dataclass(frozen=True, eq=False)
class BottleneckScores:
    """What a diagnosis saw of every sample under every condition.

    id: (N,) text. group: (N,) text, or (0,) where the data has no groups.
    target: (N, L) uint8 in {0, 1}. known: (N, L) bool.
    label, label_display: (L,) text. evaluated: (L,) bool.
    condition: (C,) text, draws of one step share it. kind: (C,) one of real, recon, noise, control.
    t, draw: (C,) int, -1 where none. log_snr, log_snr_eff: (C,) float64 in nats, NaN where none.
    logits: (C, N, L) float32; row 0 is the real image, exactly one row is the reconstruction without noise.
    threshold_global: logit. threshold_label: (L,) logits, NaN where undefined. threshold_source: where they come from.
    similarity_name: (K,) ``embedding``, ``<stage>.pooled`` or ``<stage>.position``.
    similarity: (C, N, K) float32 cosine of the original and the condition.
    similarity_null: (M, K) float32 the same between different originals.
    """

    id: np.ndarray
    group: np.ndarray
    target: np.ndarray
    known: np.ndarray
    label: np.ndarray
    label_display: np.ndarray
    evaluated: np.ndarray
    condition: np.ndarray
    kind: np.ndarray
    t: np.ndarray
    draw: np.ndarray
    log_snr: np.ndarray
    log_snr_eff: np.ndarray
    logits: np.ndarray
    threshold_global: float
    threshold_label: np.ndarray
    threshold_source: str
    similarity_name: np.ndarray
    similarity: np.ndarray
    similarity_null: np.ndarray

    def __post_init__(self) -> None:
        c, n, n_labels = _shape(self.logits, 3, "logits (conditions, samples, labels)")
        k = len(self.similarity_name)
        _expect(
            self,
            {
                "id": (n,),
                "target": (n, n_labels),
                "known": (n, n_labels),
                "label": (n_labels,),
                "label_display": (n_labels,),
                "evaluated": (n_labels,),
                "condition": (c,),
                "kind": (c,),
                "t": (c,),
                "draw": (c,),
                "log_snr": (c,),
                "log_snr_eff": (c,),
                "threshold_label": (n_labels,),
                "similarity": (c, n, k),
                "similarity_null": (self.similarity_null.shape[0], k),
            },
        )
        if len(self.group) not in (0, n):
            raise ArtifactError(
                f"The scores name {len(self.group)} groups for {n} samples; give one per sample or none."
            )
        kinds = list(self.kind)
        if unknown := set(kinds) - set(CONDITION_KINDS):
            raise ArtifactError(
                f"The scores have conditions of unknown kinds {sorted(unknown)}; known: {CONDITION_KINDS}."
            )
        if not kinds or kinds[0] != "real" or kinds.count("real") != 1 or kinds.count("recon") != 1:
            raise ArtifactError(
                "The scores must begin with the real images and hold exactly one reconstruction without noise; "
                f"their conditions are {', '.join(map(str, self.condition))}."
            )

    @property
    def groups(self) -> np.ndarray | None:
        """(N,) group of each sample, or None where the data has none."""
        return self.group if len(self.group) else None

    @property
    def recon_row(self) -> int:
        """Row of the reconstruction without noise."""
        return int(np.flatnonzero(self.kind == "recon")[0])

    def arrays(self) -> dict[str, np.ndarray]:
        """The content of scores.npz, for ``Stage.write_npz``."""
        text = {"id", "group", "label", "label_display", "condition", "kind", "threshold_source", "similarity_name"}
        types: dict[str, Any] = {
            "target": np.uint8,
            "known": np.bool_,
            "evaluated": np.bool_,
            "t": np.int64,
            "draw": np.int64,
            "logits": np.float32,
            "similarity": np.float32,
            "similarity_null": np.float32,
        }
        return _arrays(self, text, types)

    def save(self, path: str | Path) -> None:
        """Writes scores.npz by itself; inside a run directory use ``Stage.write_npz`` with ``arrays``."""
        _save(Path(path), self.arrays())

    @classmethod
    def load(cls, path: str | Path) -> BottleneckScores:
        """Reads scores.npz; nothing in it is executed. Raises ArtifactError if it is missing or no such file."""
        return cls(**_load(Path(path), cls))


@dataclass(frozen=True, eq=False)
class ClassifierScores:
    """What a classifier evaluation (E0) saw of every sample.

    id, group, target, known, label, label_display, evaluated, thresholds: as in ``BottleneckScores``.
    logits: (N, L) float32.
    """

    id: np.ndarray
    group: np.ndarray
    target: np.ndarray
    known: np.ndarray
    label: np.ndarray
    label_display: np.ndarray
    evaluated: np.ndarray
    logits: np.ndarray
    threshold_global: float
    threshold_label: np.ndarray
    threshold_source: str

    def __post_init__(self) -> None:
        n, n_labels = _shape(self.logits, 2, "logits (samples, labels)")
        _expect(
            self,
            {
                "id": (n,),
                "target": (n, n_labels),
                "known": (n, n_labels),
                "label": (n_labels,),
                "label_display": (n_labels,),
                "evaluated": (n_labels,),
                "threshold_label": (n_labels,),
            },
        )
        if len(self.group) not in (0, n):
            raise ArtifactError(
                f"The scores name {len(self.group)} groups for {n} samples; give one per sample or none."
            )

    @property
    def groups(self) -> np.ndarray | None:
        """(N,) group of each sample, or None where the data has none."""
        return self.group if len(self.group) else None

    def arrays(self) -> dict[str, np.ndarray]:
        """The content of scores.npz, for ``Stage.write_npz``."""
        text = {"id", "group", "label", "label_display", "threshold_source"}
        types: dict[str, Any] = {
            "target": np.uint8,
            "known": np.bool_,
            "evaluated": np.bool_,
            "logits": np.float32,
        }
        return _arrays(self, text, types)

    def save(self, path: str | Path) -> None:
        """Writes scores.npz by itself; inside a run directory use ``Stage.write_npz`` with ``arrays``."""
        _save(Path(path), self.arrays())

    @classmethod
    def load(cls, path: str | Path) -> ClassifierScores:
        """Reads scores.npz; nothing in it is executed. Raises ArtifactError if it is missing or no such file."""
        return cls(**_load(Path(path), cls))


def _shape(array: np.ndarray, ndim: int, what: str) -> tuple[int, ...]:
    if array.ndim != ndim:
        raise ArtifactError(f"The scores need {what}, but the array has {array.ndim} dimensions: {array.shape}.")
    return array.shape


def _expect(scores: object, shapes: Mapping[str, tuple[int, ...]]) -> None:
    for name, shape in shapes.items():
        found = np.shape(getattr(scores, name))
        if found != shape:
            raise ArtifactError(
                f"The scores are inconsistent: {name} has shape {found} where the logits ask for {shape}."
            )


def _arrays(scores: BottleneckScores | ClassifierScores, text: set[str], types: Mapping[str, Any]) -> dict[str, Any]:
    arrays: dict[str, Any] = {"schema_version": np.asarray(SCHEMA_VERSION)}
    for field in fields(scores):
        value = np.asarray(getattr(scores, field.name))
        # Text from lists or object arrays becomes fixed-width text: object arrays would be pickles.
        arrays[field.name] = value.astype(np.str_) if field.name in text else value.astype(types.get(field.name, float))
    return arrays


def _save(path: Path, arrays: dict[str, Any]) -> None:
    try:
        with path.open("wb") as file:
            np.savez_compressed(file, **arrays)
    except OSError as error:
        raise ArtifactError(f"The scores could not be written to {path}: {error.strerror or error}.") from error


def _load(path: Path, cls: type) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            version = int(file["schema_version"])
            if version > SCHEMA_VERSION:
                raise ArtifactError(
                    f"The scores in {path} have schema version {version}; this layerscope reads up to "
                    f"{SCHEMA_VERSION}. Update layerscope."
                )
            values: dict[str, Any] = {field.name: file[field.name] for field in fields(cls)}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ArtifactError(
            f"The scores could not be read from {path}: {error}. It is expected to be the scores.npz of a finished "
            "layerscope run; check the path or run the diagnosis again."
        ) from error
    values["threshold_global"] = float(values["threshold_global"])
    values["threshold_source"] = str(values["threshold_source"])
    return values

"""scores.npz: everything the statistics need, so that they can be redone without the models.

N samples, L labels, C condition rows (every noise draw is a row of its own), K kinds of similarity.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from layerscope.artifacts.versions import SCHEMA_VERSION
from layerscope.errors import ArtifactError

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing itself from Python 3.11

CONDITION_KINDS = ("real", "recon", "noise", "control")


@dataclass(frozen=True, eq=False)
class LabelScores:
    """What a task saw of every sample of a split; the common part of both kinds of scores.npz.

    id: (N,) text. group: (N,) text, or (0,) where the data has no groups.
    target: (N, L) uint8 in {0, 1}. known: (N, L) bool.
    label, label_display: (L,) text. evaluated: (L,) bool.
    logits: (..., N, L) float32.
    threshold_global: logit. threshold_label: (L,) logits, NaN where undefined. threshold_source: where they come from.
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

    # Dimensions of the logits; the type of each array in the file, text apart.
    AXES: ClassVar[tuple[str, ...]] = ("samples", "labels")
    TEXT: ClassVar[frozenset[str]] = frozenset({"id", "group", "label", "label_display", "threshold_source"})
    TYPES: ClassVar[Mapping[str, Any]] = {
        "target": np.uint8,
        "known": np.bool_,
        "evaluated": np.bool_,
        "logits": np.float32,
    }

    def __post_init__(self) -> None:
        if self.logits.ndim != len(self.AXES):
            raise ArtifactError(
                f"The scores need logits ({', '.join(self.AXES)}), but the array has {self.logits.ndim} dimensions: "
                f"{self.logits.shape}."
            )
        for name, shape in self._shapes().items():
            found = np.shape(getattr(self, name))
            if found != shape:
                raise ArtifactError(
                    f"The scores are inconsistent: {name} has shape {found} where the logits ask for {shape}."
                )
        if len(self.group) not in (0, len(self.id)):
            raise ArtifactError(
                f"The scores name {len(self.group)} groups for {len(self.id)} samples; give one per sample or none."
            )

    @classmethod
    def _absent(cls, name: str, samples: int) -> np.ndarray | None:
        """What stands for an array that older files lack; None where every file must have it."""
        return None

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes that the logits ask for."""
        n, n_labels = self.logits.shape[-2:]
        return {
            "id": (n,),
            "target": (n, n_labels),
            "known": (n, n_labels),
            "label": (n_labels,),
            "label_display": (n_labels,),
            "evaluated": (n_labels,),
            "threshold_label": (n_labels,),
        }

    @property
    def groups(self) -> np.ndarray | None:
        """(N,) group of each sample, or None where the data has none."""
        return self.group if len(self.group) else None

    def arrays(self) -> dict[str, np.ndarray]:
        """The content of scores.npz, for ``Stage.write_npz``."""
        arrays: dict[str, Any] = {"schema_version": np.asarray(SCHEMA_VERSION)}
        for field in fields(self):
            value = np.asarray(getattr(self, field.name))
            # Text from lists or object arrays becomes fixed-width text: object arrays would be pickles.
            kind = np.str_ if field.name in self.TEXT else self.TYPES.get(field.name, float)
            arrays[field.name] = value.astype(kind)
        return arrays

    def save(self, path: str | Path) -> None:
        """Writes scores.npz by itself; inside a run directory use ``Stage.write_npz`` with ``arrays``."""
        try:
            with Path(path).open("wb") as file:
                np.savez_compressed(file, **self.arrays())  # type: ignore[arg-type]
        except OSError as error:
            raise ArtifactError(f"The scores could not be written to {path}: {error.strerror or error}.") from error

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads scores.npz; nothing in it is executed. Raises ArtifactError if it is missing or no such file."""
        try:
            with np.load(path, allow_pickle=False) as file:
                version = int(file["schema_version"])
                if version > SCHEMA_VERSION:
                    raise ArtifactError(
                        f"The scores in {path} have schema version {version}; this layerscope reads up to "
                        f"{SCHEMA_VERSION}. Update layerscope."
                    )
                values: dict[str, Any] = {}
                for field in fields(cls):
                    absent = None if field.name in file.files else cls._absent(field.name, len(file["id"]))
                    values[field.name] = file[field.name] if absent is None else absent
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ArtifactError(
                f"The scores could not be read from {path}: {error}. It is expected to be the scores.npz of a finished "
                "layerscope run; check the path or run the diagnosis again."
            ) from error
        values["threshold_global"] = float(values["threshold_global"])
        values["threshold_source"] = str(values["threshold_source"])
        return cls(**values)


@dataclass(frozen=True, eq=False)
class ClassifierScores(LabelScores):
    """What a classifier evaluation (E0) saw of every sample; logits (N, L)."""


@dataclass(frozen=True, eq=False)
class BottleneckScores(LabelScores):
    """What a diagnosis saw of every sample under every condition.

    condition: (C,) text, draws of one step share it. kind: (C,) one of real, recon, noise, control.
    t, draw: (C,) int, -1 where none. log_snr, log_snr_eff: (C,) float64 in nats, NaN where none.
    logits: (C, N, L) float32; row 0 is the real image, exactly one row is the reconstruction without noise.
    similarity_name: (K,) ``embedding``, ``<stage>.pooled`` or ``<stage>.position``.
    similarity: (C, N, K) float32 cosine of the original and the condition.
    similarity_null: (M, K) float32 the same between different originals.
    quality_name: (Q,) names of figures of a reconstruction against its original: ``psnr_db``, ``ssim``, ``lpips``.
    quality: (N, Q) float32, of the reconstruction without noise. Files written before there were such figures have
        none, Q = 0.
    """

    condition: np.ndarray
    kind: np.ndarray
    t: np.ndarray
    draw: np.ndarray
    log_snr: np.ndarray
    log_snr_eff: np.ndarray
    similarity_name: np.ndarray
    similarity: np.ndarray
    similarity_null: np.ndarray
    quality_name: np.ndarray
    quality: np.ndarray

    AXES: ClassVar[tuple[str, ...]] = ("conditions", "samples", "labels")
    TEXT: ClassVar[frozenset[str]] = LabelScores.TEXT | {"condition", "kind", "similarity_name", "quality_name"}
    TYPES: ClassVar[Mapping[str, Any]] = {
        **LabelScores.TYPES,
        "t": np.int64,
        "draw": np.int64,
        "similarity": np.float32,
        "similarity_null": np.float32,
        "quality": np.float32,
    }

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        c, n, _ = self.logits.shape
        k = len(self.similarity_name)
        return {
            **super()._shapes(),
            **dict.fromkeys(("condition", "kind", "t", "draw", "log_snr", "log_snr_eff"), (c,)),
            "similarity": (c, n, k),
            "similarity_null": (self.similarity_null.shape[0], k),
            "quality": (n, len(self.quality_name)),
        }

    @classmethod
    def _absent(cls, name: str, samples: int) -> np.ndarray | None:
        match name:
            case "quality_name":
                return np.zeros(0, dtype=np.str_)
            case "quality":
                return np.zeros((samples, 0), dtype=np.float32)
            case _:
                return None

    def __post_init__(self) -> None:
        super().__post_init__()
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
    def recon_row(self) -> int:
        """Row of the reconstruction without noise."""
        return int(np.flatnonzero(self.kind == "recon")[0])

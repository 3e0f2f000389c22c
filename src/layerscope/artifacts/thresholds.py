"""threshold.json: the decision thresholds a classifier evaluation fitted on real validation images."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerscope.artifacts.versions import SCHEMA_VERSION
from layerscope.errors import ArtifactError


@dataclass(frozen=True)
class Thresholds:
    """A sample is called positive when its logit is at least the threshold.

    label: L names. global_logit: maximises macro-F1 over all labels; macro_f1: what it reached.
    label_logit: L logits, each maximising its label's F1, NaN where undefined; label_f1: what each reached.
    fitted_on: the split. data_hash: hash of that split's ids, sizes and labels. teacher_hash: hash of the teacher's
    weights and of how images were cut and resized for it.
    """

    label: tuple[str, ...]
    global_logit: float
    macro_f1: float
    label_logit: tuple[float, ...]
    label_f1: tuple[float, ...]
    fitted_on: str
    data_hash: str
    teacher_hash: str = ""

    @property
    def global_probability(self) -> float:
        """The global threshold as a probability."""
        return _sigmoid(self.global_logit)

    @property
    def label_probability(self) -> tuple[float, ...]:
        """The labels' thresholds as probabilities, NaN where undefined."""
        return tuple(_sigmoid(logit) for logit in self.label_logit)

    def for_labels(self, names: tuple[str, ...] | list[str]) -> Thresholds:
        """The same thresholds in the order of ``names``; ArtifactError names the labels that were never fitted."""
        missing = [name for name in names if name not in self.label]
        if missing:
            raise ArtifactError(
                f"The thresholds hold no entry for the labels {', '.join(missing)}; they were fitted for "
                f"{', '.join(self.label)}. Evaluate the teacher on this data set again (layerscope test of the "
                "classifier), or set thresholds to search_on_real_val."
            )
        rows = [self.label.index(name) for name in names]
        return Thresholds(
            tuple(names),
            self.global_logit,
            self.macro_f1,
            tuple(self.label_logit[row] for row in rows),
            tuple(self.label_f1[row] for row in rows),
            self.fitted_on,
            self.data_hash,
            self.teacher_hash,
        )

    def as_json(self) -> dict[str, Any]:
        """The content of threshold.json, for ``Stage.write_json``."""
        per_label = zip(self.label, self.label_logit, self.label_probability, self.label_f1)
        return {
            "schema_version": SCHEMA_VERSION,
            "fitted_on": self.fitted_on,
            "data_hash": self.data_hash,
            "teacher_hash": self.teacher_hash,
            "global": {
                "logit": self.global_logit,
                "probability": self.global_probability,
                "macro_f1": self.macro_f1,
            },
            "per_label": [
                {"label": name, "logit": logit, "probability": probability, "f1": f1}
                for name, logit, probability, f1 in per_label
            ],
        }

    @classmethod
    def load(cls, path: str | Path) -> Thresholds:
        """Reads threshold.json. Raises ArtifactError if it is missing, damaged or newer than this layerscope."""
        path = Path(path)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            version = int(content["schema_version"])
            if version > SCHEMA_VERSION:
                raise ArtifactError(
                    f"The thresholds in {path} have schema version {version}; this layerscope reads up to "
                    f"{SCHEMA_VERSION}. Update layerscope."
                )
            return cls(
                label=tuple(str(row["label"]) for row in content["per_label"]),
                global_logit=_number(content["global"]["logit"]),
                macro_f1=_number(content["global"]["macro_f1"]),
                label_logit=tuple(_number(row["logit"]) for row in content["per_label"]),
                label_f1=tuple(_number(row["f1"]) for row in content["per_label"]),
                fitted_on=str(content["fitted_on"]),
                data_hash=str(content["data_hash"]),
                teacher_hash=str(content.get("teacher_hash", "")),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = f"it has no entry {error}" if isinstance(error, KeyError) else str(error)
            raise ArtifactError(
                f"The thresholds could not be read from {path}: {reason}. The file is written by the evaluation of "
                "the teacher (layerscope test of the classifier); run it, or set thresholds to search_on_real_val."
            ) from error


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _sigmoid(logit: float) -> float:
    if math.isnan(logit):
        return math.nan
    if logit >= 0:
        return 1.0 / (1.0 + math.exp(-logit))
    return math.exp(logit) / (1.0 + math.exp(logit))

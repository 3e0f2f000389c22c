"""The labelled data behind a trainer."""

from __future__ import annotations

from typing import Any

from layerscope.errors import ConfigurationError
from layerscope.protocols import LabelledData


def labelled_data(trainer: Any) -> LabelledData:
    """The trainer's datamodule, checked to tell its labels, groups and hash."""
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, LabelledData):
        raise ConfigurationError(
            f"This task needs a datamodule that tells labels, evaluated_groups and data_hash; got "
            f"{type(data).__name__}. "
            "Use layerscope.data.multilabel.MultilabelImages or, without labels, layerscope.data.folder.ImageFolder, "
            "or give yours these (layerscope.protocols.LabelledData)."
        )
    return data

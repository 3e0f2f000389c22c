"""The autoencoder inside a Lightning checkpoint of layerscope's VAE training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from layerscope.errors import ConfigurationError, WeightsError
from layerscope.models.autoencoders import DiffusersAutoencoder
from layerscope.models.weight_files import is_safetensors, key_mismatch, name_keys, read_torch
from layerscope.types import AutoencoderRecord

RECORD = "layerscope_autoencoder"
"""The entry of the checkpoint that describes the autoencoder, ``layerscope.types.AutoencoderRecord``."""
PREFIX = "autoencoder.model."
"""Where the task keeps the diffusers module."""
TRAINED = ("all", "decoder", "encoder")


@dataclass(frozen=True)
class TrainedAutoencoder:
    """An autoencoder read from a checkpoint, with what the checkpoint says of it.

    weights: ``averaged`` (EMA) or ``current``, those of the last optimizer step.
    """

    autoencoder: DiffusersAutoencoder
    record: AutoencoderRecord
    weights: Literal["averaged", "current"]


def read_trained_autoencoder(path: str | Path, averaged: bool | None = None) -> TrainedAutoencoder:
    """Reads the autoencoder of a checkpoint, every weight accounted for, executing nothing from the file.

    Lightning's ``WeightAveraging`` puts the averaged weights under ``state_dict`` and the current ones under
    ``current_model_state``; without that callback ``state_dict`` has the current ones. Before its first update the
    average is a copy of the starting weights (``averaging_state["n_averaged"]`` is 0), and counts as absent here.

    Args:
        path: a ``.ckpt`` that ``layerscope fit`` wrote.
        averaged: True wants the averaged weights, False the current ones, None the averaged ones where there are any.

    Raises:
        WeightsError: no such file, no checkpoint, one of another task, or weights that do not fit its configuration.
        ConfigurationError: averaged weights are wanted and there are none.
    """
    path = Path(path)
    checkpoint = _read_checkpoint(path)
    record = _record(path, checkpoint)
    has_average = "current_model_state" in checkpoint
    updates = checkpoint.get("averaging_state", {}).get("n_averaged", 1) if has_average else 0
    if averaged and not int(updates):
        reason = "its average was not updated yet" if has_average else "it was trained without weight averaging"
        raise ConfigurationError(
            f"--ema: {path} has no averaged weights, {reason}. Leave --ema out to export the current weights."
        )
    use_average = bool(int(updates)) if averaged is None else averaged
    state = checkpoint["current_model_state" if has_average and not use_average else "state_dict"]
    autoencoder = _build(path, record, state)
    return TrainedAutoencoder(autoencoder, record, "averaged" if use_average else "current")


def _read_checkpoint(path: Path) -> Mapping[str, Any]:
    if path.is_dir():
        raise WeightsError(
            f"{path} is a directory, and a checkpoint is a file. Give a .ckpt, such as RUN/checkpoints/last.ckpt; a "
            "diffusers folder (config.json inside) is exported already."
        )
    if not path.is_file():
        raise WeightsError(f"The checkpoint {path} does not exist (relative to {Path.cwd()}). Check the path.")
    if is_safetensors(path):
        raise WeightsError(
            f"{path} is a safetensors file: weights without the record of a training. Export takes the .ckpt that "
            "`layerscope fit` wrote under RUN/checkpoints."
        )
    content = read_torch(path)
    state = content.get("state_dict") if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping):
        found = f"keys {name_keys(map(str, content))}" if isinstance(content, Mapping) else type(content).__name__
        raise WeightsError(
            f"{path} is no Lightning checkpoint: looked for state_dict, and found {found}. Export takes the .ckpt that "
            "`layerscope fit` wrote under RUN/checkpoints."
        )
    return content


def _record(path: Path, checkpoint: Mapping[str, Any]) -> AutoencoderRecord:
    """The checkpoint's record with everything that may be missing filled in."""
    keys = [str(key) for key in checkpoint["state_dict"]]
    if not any(key.startswith(PREFIX) for key in keys):
        raise WeightsError(
            f"{path} is a checkpoint of something else than a VAE: no weight begins with {PREFIX}, its weights are "
            f"{name_keys(keys)}. A teacher needs no export: `layerscope fit` leaves it as safetensors in its run."
        )
    record = checkpoint.get(RECORD)
    config = record.get("config") if isinstance(record, Mapping) else None
    if not isinstance(record, Mapping) or not isinstance(config, Mapping) or "_class_name" not in config:
        raise WeightsError(
            f"{path} does not say which architecture its autoencoder has: looked for {RECORD} with a config. An older "
            "layerscope or another program wrote it; continue the training with this one "
            f"(layerscope fit --ckpt_path {path}) and export the new checkpoint."
        )
    trained = record.get("trained", "all")
    if trained not in TRAINED:
        raise WeightsError(
            f"{path} says that {trained!r} was trained; this layerscope knows {', '.join(TRAINED)}. A newer one wrote "
            "the checkpoint: update, or the file is damaged."
        )
    return AutoencoderRecord(
        # diffusers takes the class's default for what it lists under _use_default_values, whatever stands beside it.
        config={key: value for key, value in config.items() if key == "_class_name" or not str(key).startswith("_")},
        start_hash=record.get("start_hash"),
        trained=trained,
        data_hash=record.get("data_hash"),
        losses=dict(record.get("losses") or {}),
        metrics=dict(record.get("metrics") or {}),
        command=record.get("command"),
    )


def _build(path: Path, record: AutoencoderRecord, state: Mapping[str, Tensor]) -> DiffusersAutoencoder:
    try:
        autoencoder = DiffusersAutoencoder(architecture=record["config"], seed=0)
    except ConfigurationError as error:
        raise WeightsError(f"The configuration that {path} keeps under {RECORD} cannot be built: {error}") from error
    weights = {key[len(PREFIX) :]: value for key, value in state.items() if key.startswith(PREFIX)}
    if mismatch := key_mismatch(autoencoder.model.state_dict(), weights):
        raise WeightsError(
            f"The autoencoder in {path} does not fit the configuration that the file keeps under {RECORD}. {mismatch} "
            "The checkpoint is incomplete or was changed; take another one."
        )
    autoencoder.model.load_state_dict(weights, strict=True)
    return autoencoder.eval()

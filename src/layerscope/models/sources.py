"""Building a diffusers autoencoder: from a diffusers folder or hub id, or with random weights from its JSON."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from layerscope.errors import ConfigurationError, WeightsError
from layerscope.models.hub_sources import (
    CONFIG_NAME,
    WEIGHT_SUFFIXES,
    loading_explained,
    looks_local,
    read_config,
    seeded,
)
from layerscope.models.weight_files import name_keys

# The classes whose conventions layerscope knows; each is a name in ``diffusers``.
CLASSES = ("AutoencoderKL", "VQModel", "AutoencoderTiny", "AutoencoderDC")
WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"


def build_random(architecture: str | Path | Mapping[str, Any], seed: int | None) -> nn.Module:
    """A diffusers autoencoder with random weights.

    Args:
        architecture: a diffusers ``config.json`` (path or content); without ``_class_name`` an AutoencoderKL.
        seed: of the weights; with None they come from torch's global generator.

    Raises:
        ConfigurationError: the file is missing or no JSON, the class is unknown, an argument is unknown or impossible.
    """
    config, where = (
        (dict(architecture), "architecture")
        if isinstance(architecture, Mapping)
        else read_config(architecture, "architecture", "a diffusers JSON such as a VAE's config.json")
    )
    name = config.get("_class_name", "AutoencoderKL")
    if name not in CLASSES:
        raise ConfigurationError(f"{where} names the class {name!r}; layerscope knows {', '.join(CLASSES)}.")
    model_class = diffusers_class(name)
    arguments = {key: value for key, value in config.items() if not key.startswith("_")}
    # AutoencoderTiny writes this one into its own config without accepting it.
    known = {*inspect.signature(model_class.__init__).parameters, "block_out_channels"}
    if strangers := [key for key in arguments if key not in known]:
        raise ConfigurationError(
            f"{where} has arguments that {name} does not know: {name_keys(strangers)}. diffusers would ignore them "
            f"silently; it knows {', '.join(sorted(known - {'self'}))}."
        )
    _check_levels(name, arguments, where)
    with seeded(seed):
        try:
            # With the class in it, as a config that was read has it: exports name it.
            model: nn.Module = model_class.from_config({"_class_name": name} | config)
        except (TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
            raise ConfigurationError(f"{where} does not describe an {name}: {error}") from error
    return model


def load_pretrained(source: str, subfolder: str | None) -> nn.Module:
    """The autoencoder of a local diffusers folder or of a hub id, in float32, every weight accounted for.

    Args:
        source: a folder with ``config.json`` and ``diffusion_pytorch_model.safetensors``, or a hub id.
        subfolder: where in the folder or repository the autoencoder is: ``vae`` in a pipeline.

    Raises:
        ConfigurationError: the folder does not exist, or the model is of a class that layerscope does not know.
        WeightsError: the hub cannot be reached, or weights are missing, unexpected or of another shape.
    """
    folder = Path(source).expanduser()
    local = folder.is_dir()
    place = str(folder) if local else source
    if local:
        _check_folder(folder, subfolder)
    elif looks_local(source):
        raise ConfigurationError(
            f"The autoencoder's source {source} does not exist (relative to {Path.cwd()}). Give as source "
            f"(--vae of `layerscope pair`) a diffusers folder with {CONFIG_NAME}, a single file "
            f"({', '.join(WEIGHT_SUFFIXES)}) or a hub id; checkpoints/README.md tells where known VAEs go."
        )
    where = f"{place}/{subfolder}" if subfolder else place
    extra: dict[str, Any] = {"subfolder": subfolder} if subfolder else {}
    if local:
        extra["local_files_only"] = True
    with loading_explained(where, local, "autoencoder", WEIGHTS_NAME):
        config = diffusers_class("AutoencoderKL").load_config(place, **extra)
    name = config.get("_class_name") if isinstance(config, Mapping) else None
    if name not in CLASSES:
        raise ConfigurationError(
            f"{where}/{CONFIG_NAME} names the class {name!r}; layerscope knows {', '.join(CLASSES)}. Any other "
            "autoencoder can be given by class_path with a module of your own (layerscope.protocols.Autoencoder)."
        )
    with loading_explained(where, local, "autoencoder", WEIGHTS_NAME), quiet_diffusers():
        # A mismatched shape is reported like the others instead of raised, so that the message names it.
        model, found = diffusers_class(name).from_pretrained(
            place,
            output_loading_info=True,
            low_cpu_mem_usage=False,
            ignore_mismatched_sizes=True,
            torch_dtype=torch.float32,
            **extra,
        )
    # diffusers leaves a missing weight random and only warns.
    shapes = [f"{key} {tuple(stored)} instead of {tuple(wanted)}" for key, stored, wanted in found["mismatched_keys"]]
    problems = [
        f"{word}: {name_keys(keys)}."
        for word, keys in (
            ("Missing", sorted(found["missing_keys"])),
            ("Unexpected", sorted(found["unexpected_keys"])),
            ("Of another shape", shapes),
        )
        if keys
    ]
    if problems:
        raise WeightsError(
            f"The weights in {where} do not fit the {name} of its {CONFIG_NAME}. {' '.join(problems)} The file is "
            "incomplete or belongs to another configuration; copy both again from one source."
        )
    loaded: nn.Module = model
    return loaded


def diffusers_class(name: str) -> Any:
    """A model class of diffusers; imported here because that takes seconds."""
    import diffusers

    return getattr(diffusers, name)


@contextlib.contextmanager
def quiet_diffusers() -> Iterator[None]:
    """Inside, diffusers keeps its warnings about keys to itself: we raise an error that says the same."""
    from diffusers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _check_levels(name: str, arguments: Mapping[str, Any], where: str) -> None:
    """diffusers builds an AutoencoderKL or VQModel of unequal lists without a word; it fails at the first image."""
    if name not in ("AutoencoderKL", "VQModel"):
        return
    signature = inspect.signature(diffusers_class(name).__init__).parameters
    names = ("block_out_channels", "down_block_types", "up_block_types")
    lists = [arguments.get(key, signature[key].default) for key in names]
    counts = [len(one) if isinstance(one, (list, tuple)) else None for one in lists]
    if None in counts or len(set(counts)) > 1:
        raise ConfigurationError(
            f"{where} must give the {name}'s {', '.join(names)} as lists of one length, one entry for each level; "
            f"found {', '.join(map(str, lists))}."
        )


def _check_folder(folder: Path, subfolder: str | None) -> None:
    inner = folder / subfolder if subfolder else folder
    if (inner / CONFIG_NAME).is_file():
        return
    nested = [name for name in ("vae", "vqvae", "vae_1_0") if (folder / name / CONFIG_NAME).is_file()]
    remedy = (
        f"It looks like a whole pipeline: set subfolder to {nested[0]}."
        if nested
        else f"A diffusers folder holds {CONFIG_NAME} and diffusion_pytorch_model.safetensors; for a single original "
        "checkpoint give the file itself and original_config."
    )
    raise ConfigurationError(f"There is no {CONFIG_NAME} in {inner}. {remedy}")

"""Building a diffusers autoencoder: from a diffusers folder or hub id, or with random weights from its JSON."""

from __future__ import annotations

import contextlib
import inspect
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from layerscope.errors import ConfigurationError, WeightsError
from layerscope.models.weight_files import first_line, name_keys

# The classes whose conventions layerscope knows; each is a name in ``diffusers``.
CLASSES = ("AutoencoderKL", "VQModel", "AutoencoderTiny", "AutoencoderDC")
CONFIG_NAME = "config.json"
WEIGHT_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")


def build_random(architecture: str | Path | Mapping[str, Any], seed: int | None) -> nn.Module:
    """A diffusers autoencoder with random weights.

    Args:
        architecture: a diffusers ``config.json`` (path or content); without ``_class_name`` an AutoencoderKL.
        seed: of the weights; with None they come from torch's global generator.

    Raises:
        ConfigurationError: the file is missing or no JSON, the class is unknown, an argument is unknown or impossible.
    """
    config, where = (
        (dict(architecture), "architecture") if isinstance(architecture, Mapping) else _read_json(architecture)
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
    elif _looks_local(source):
        raise ConfigurationError(
            f"The autoencoder's source {source} does not exist (relative to {Path.cwd()}). Give a diffusers folder "
            f"with {CONFIG_NAME}, a single file ({', '.join(WEIGHT_SUFFIXES)}) or a hub id; checkpoints/README.md "
            "tells where known VAEs go."
        )
    where = f"{place}/{subfolder}" if subfolder else place
    extra: dict[str, Any] = {"subfolder": subfolder} if subfolder else {}
    if local:
        extra["local_files_only"] = True
    with _explained(where, local):
        config = diffusers_class("AutoencoderKL").load_config(place, **extra)
    name = config.get("_class_name") if isinstance(config, Mapping) else None
    if name not in CLASSES:
        raise ConfigurationError(
            f"{where}/{CONFIG_NAME} names the class {name!r}; layerscope knows {', '.join(CLASSES)}. Any other "
            "autoencoder can be given by class_path with a module of your own (layerscope.protocols.Autoencoder)."
        )
    with _explained(where, local), quiet_diffusers():
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
def seeded(seed: int | None) -> Iterator[None]:
    """Inside, torch's CPU generator starts at ``seed``; afterwards it is as before. With None nothing happens."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


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


def _read_json(path: str | Path) -> tuple[dict[str, Any], str]:
    path = Path(path).expanduser()
    if path.is_dir():
        path = path / CONFIG_NAME
    if not path.is_file():
        raise ConfigurationError(
            f"The architecture {path} does not exist (relative to {Path.cwd()}). Give a diffusers JSON such as a "
            "VAE's config.json, or its content as a mapping."
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"The architecture {path} is no JSON file: {error}.") from error
    if not isinstance(config, dict):
        raise ConfigurationError(f"The architecture {path} holds a {type(config).__name__}, not a JSON object.")
    return config, str(path)


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


def _looks_local(source: str) -> bool:
    """A hub id is ``name`` or ``owner/name``; a path is anything else, or begins with a folder that exists here."""
    parts = Path(source).parts
    return (
        source.startswith((".", "/", "~"))
        or len(parts) > 2
        or source.endswith(WEIGHT_SUFFIXES)
        or (len(parts) == 2 and Path(parts[0]).is_dir())
    )


def _reason(error: BaseException) -> str:
    """The first line of an error and of its root: diffusers hides a missing network behind a missing file."""
    root = error
    while (cause := root.__cause__ or root.__context__) is not None:
        root = cause
    lines = [first_line(one) for one in (error, root)]
    return f"{lines[0].rstrip('.')}." if lines[0] == lines[1] else f"{lines[0].rstrip('.')} ({lines[1].rstrip('.')})."


@contextlib.contextmanager
def _explained(where: str, local: bool) -> Iterator[None]:
    """Turns what diffusers and the hub client raise while loading into one paragraph."""
    try:
        yield
    except Exception as error:  # the hub client raises errors of several libraries, old and new
        reason = _reason(error)
        if local:
            raise WeightsError(
                f"The autoencoder in {where} cannot be loaded: {reason} The folder needs {CONFIG_NAME} and "
                "complete weights of the same model (diffusion_pytorch_model.safetensors); copy both again "
                "from one source."
            ) from error
        raise WeightsError(
            f"{where} is no folder here (relative to {Path.cwd()}) and could not be fetched as a hub id: {reason} "
            "Without network, fetch it on another machine (`hf download OWNER/NAME config.json "
            "diffusion_pytorch_model.safetensors --local-dir checkpoints/NAME`), copy the folder here and set source "
            "to checkpoints/NAME; checkpoints/README.md has the details."
        ) from error

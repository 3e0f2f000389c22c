"""What a ``source`` is, a local folder or a hub id, and what to say when neither works."""

from __future__ import annotations

import contextlib
import json
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch

from layerscope.errors import ConfigurationError, WeightsError
from layerscope.models.weight_files import first_line

CONFIG_NAME = "config.json"
WEIGHT_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")


def looks_local(source: str) -> bool:
    """A hub id is ``name`` or ``owner/name``; a path is anything else, or begins with a folder that exists here.

    ``checkpoints`` and ``outputs`` are folders of ours, be they there or not.
    """
    parts = Path(source).parts
    return (
        source.startswith((".", "/", "~"))
        or len(parts) > 2
        or source.endswith(WEIGHT_SUFFIXES)
        or (len(parts) == 2 and (parts[0] in ("checkpoints", "outputs") or Path(parts[0]).is_dir()))
    )


@contextlib.contextmanager
def loading_explained(where: str, local: bool, what: str, weights: str, further: str = "") -> Iterator[None]:
    """Turns what diffusers, transformers and the hub client raise while loading into one paragraph.

    Args:
        where: the folder or hub id.
        local: whether it is a folder.
        what: the model's part, such as autoencoder.
        weights: name of its file of weights.
        further: name of another file worth fetching.
    """
    unreachable: str | None = None
    try:
        with contextlib.nullcontext() if local else unreachable_hub() as unreachable:
            yield
    except Exception as error:  # the hub client raises errors of several libraries, old and new
        reason = unreachable if unreachable is not None and isinstance(error, OSError) else _reason(error)
        if local:
            raise WeightsError(
                f"The {what} in {where} cannot be loaded: {reason} The folder needs {CONFIG_NAME} and "
                f"complete weights of the same model ({weights}); copy both again from one source."
            ) from error
        files = " ".join(name for name in (CONFIG_NAME, weights, further) if name)
        raise WeightsError(
            f"{where} is no folder here (relative to {Path.cwd()}) and could not be fetched as a hub id: {reason} "
            f"Without network, fetch it on another machine (`hf download OWNER/NAME {files} "
            "--local-dir checkpoints/NAME`), copy the folder here and set source "
            "to checkpoints/NAME; checkpoints/README.md has the details."
        ) from error


def read_config(path: str | Path, what: str, such_as: str) -> tuple[dict[str, Any], str]:
    """A model's JSON configuration and where it was found; of a folder, its ``config.json``.

    Args:
        path: the file or folder.
        what: of what errors speak.
        such_as: the kind of file they ask for.

    Raises:
        ConfigurationError: there is no such file, or it is no JSON object.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        path = path / CONFIG_NAME
    if not path.is_file():
        raise ConfigurationError(
            f"The {what} {path} does not exist (relative to {Path.cwd()}). Give {such_as}, or its content as a mapping."
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"The {what} {path} is no JSON file: {error}.") from error
    if not isinstance(config, dict):
        raise ConfigurationError(f"The {what} {path} holds a {type(config).__name__}, not a JSON object.")
    return config, str(path)


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
def unreachable_hub() -> Iterator[str | None]:
    """Why the hub cannot be reached, where that is plain, and None where it may answer.

    Inside, its client then takes what is in its cache and asks nobody: it would try for half a minute.
    """
    from huggingface_hub import constants

    reason = None if constants.HF_HUB_OFFLINE else _lookup_failure(urlsplit(constants.ENDPOINT).hostname)
    if reason is None:
        yield None
        return
    constants.HF_HUB_OFFLINE = True
    try:
        yield reason
    finally:
        constants.HF_HUB_OFFLINE = False


def _lookup_failure(host: str | None) -> str | None:
    if host is None or urllib.request.getproxies().keys() & {"https", "http", "all"}:
        return None
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        return f"it is not in the cache, and {host} cannot be looked up ({error.strerror or error})."
    return None


def is_not_cached(error: BaseException | None) -> bool:
    """Whether an error comes of the hub's client, which asked nobody and found no file in its cache."""
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    while error is not None:
        if isinstance(error, (LocalEntryNotFoundError, OfflineModeIsEnabled)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _reason(error: BaseException) -> str:
    """The first line of an error and of its root: diffusers hides a missing network behind a missing file."""
    root = error
    while (cause := root.__cause__ or root.__context__) is not None:
        root = cause
    lines = [first_line(one) for one in (error, root)]
    return f"{lines[0].rstrip('.')}." if lines[0] == lines[1] else f"{lines[0].rstrip('.')} ({lines[1].rstrip('.')})."

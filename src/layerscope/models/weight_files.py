"""Reading files of weights: never executing anything from them, and comparing their keys with a model's strictly."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from layerscope.errors import WeightsError

# Where training scripts put the weights inside a checkpoint; Lightning, timm and LDM use the first.
CONTAINERS = ("state_dict", "model_state_dict", "model", "weights")


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file of weights, on the CPU, in the stored precision.

    safetensors are recognised by suffix or content, everything else is a torch file, read with ``weights_only=True``.
    Checkpoints that keep the weights under ``state_dict``, ``model_state_dict``, ``model`` or ``weights`` are unpacked.

    Args:
        path: the file.

    Raises:
        WeightsError: the file is missing, is not readable, holds objects other than plain data, or no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(
            f"The file of weights {path} {_what_instead(path)}. Check the path (it is relative to {Path.cwd()})."
        )
    content: Any = _read_safetensors(path) if is_safetensors(path) else read_torch(path)
    while isinstance(content, Mapping):
        inner = next((content[name] for name in CONTAINERS if isinstance(content.get(name), Mapping)), None)
        if inner is None:
            break
        content = inner
    tensors = (
        {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
        if isinstance(content, Mapping)
        else {}
    )
    if not tensors:
        found = (
            f"keys {name_keys(map(str, content))}" if isinstance(content, Mapping) else f"a {type(content).__name__}"
        )
        raise WeightsError(
            f"{path} holds no weights: looked for tensors by name, at the top or under {', '.join(CONTAINERS)}, and "
            f"found {found}. Save a state dict, best as safetensors."
        )
    return tensors


def _what_instead(path: Path) -> str:
    return "is a directory" if path.is_dir() else "does not exist"


def is_safetensors(path: Path) -> bool:
    """By suffix, or by content: the length of a JSON header in 8 bytes, then the header's brace."""
    if path.suffix == ".safetensors":
        return True
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes safetensors, whole or not at all; directories are made."""
    from safetensors.torch import save_file

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        # Copies, because safetensors refuses tensors that share memory.
        save_file({key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}, partial)
        make_readable(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def make_readable(path: Path) -> None:
    """Gives a file the permissions of any new file: safetensors writes for the owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"{path} cannot be read as safetensors: {error}. It is truncated or no safetensors file; copy it again and "
            "compare its size and checksum with the original."
        ) from error


def read_torch(path: Path) -> Any:
    """All that a torch file holds, on the CPU, if it is tensors and plain data; WeightsError otherwise."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's message is a page of advice that begins by turning the protection off; only its reason is told.
        lines = [line.strip() for line in str(error).splitlines()]
        reason = next((line for line in lines if "Unsupported" in line or "GLOBAL" in line), "")
        raise WeightsError(
            f"{path} is not loaded: besides tensors it pickles Python objects (a .ckpt often holds its training "
            f"callbacks), or it is no torch file at all. Unpickling such objects runs code from the file. {reason} "
            "If you trust the file, re-save its weights alone as safetensors, once, on a machine you can spare: "
            'safetensors.torch.save_file(torch.load(FILE, weights_only=False)["state_dict"], "weights.safetensors"), '
            "and give the new file."
        ) from error
    except Exception as error:  # the restricted unpickler trips over other formats with errors of any kind
        raise WeightsError(
            f"{path} cannot be read as a torch file: {first_line(error)}. "
            "It is truncated or of another format; copy it again and compare its size and checksum with the original."
        ) from error


def first_line(error: BaseException) -> str:
    """What an error says first; its type where it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def name_keys(keys: Iterable[str], limit: int = 4) -> str:
    """The first few keys and how many there are: ``a, b, c, d, … (126 in all)``."""
    names = list(keys)
    listed = ", ".join(names[:limit])
    return listed if len(names) <= limit else f"{listed}, … ({len(names)} in all)"


def key_mismatch(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str | None:
    """How the found tensors differ from the expected ones, as sentences; None where names and shapes are equal."""
    missing = [key for key in expected if key not in found]
    unexpected = [key for key in found if key not in expected]
    shapes = [
        f"{key} {tuple(found[key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if key in found and found[key].shape != value.shape
    ]
    sentences = []
    if missing:
        sentences.append(f"Missing: {name_keys(missing)}.")
    if unexpected:
        sentences.append(f"Unexpected: {name_keys(unexpected)}.")
    if shapes:
        sentences.append(f"Of another shape: {name_keys(shapes)}.")
    return " ".join(sentences) or None

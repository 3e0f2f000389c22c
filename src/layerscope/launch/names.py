"""Names of a sweep's runs, made from what tells them apart.

``latent_channels-4_seed-1``: the last part of each setting's name and its value, seeds last. Of paths, configurations
and classes the part that differs stands alone. What all runs share enters no name.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath

from layerscope.errors import ConfigurationError
from layerscope.launch.grid import CONFIG, Point

SEED = "seed_everything"
_IMAGE = re.compile(r"\.(jpe?g|png|tiff?|bmp|webp|gif)$", re.IGNORECASE)
_WEIGHTS = re.compile(r"\.(ckpt|safetensors)$", re.IGNORECASE)
_LONGEST = 80
_MOST_BYTES = 180
"""Longest name of a file is 255 on most systems; suffixes and the prefixes of partial files come on top."""


def name_runs(points: Sequence[Point]) -> list[str]:
    """A name for each run, in their order: unique also where case is ignored, and a plain file name.

    Raises:
        ConfigurationError: a name that the user gave is no plain file name.
    """
    keys = list(dict.fromkeys(key for point in points for key in point.values))
    varied = [key for key in keys if len({point.values.get(key) for point in points}) > 1] or keys
    if SEED in varied:
        varied.remove(SEED)
        varied.append(SEED)
    short_keys = _short_keys(varied)
    shown = {key: _shown(key, [point.values[key] for point in points if key in point.values]) for key in varied}
    names = []
    for point in points:
        parts = [] if point.label is None else [_checked(point.label)]
        for key in varied:
            if key in point.values and (point.label is None or key not in point.labelled):
                text, alone = shown[key][point.values[key]]
                parts.append(text if alone else f"{short_keys[key]}-{text}")
        names.append(_shortened("_".join(parts) or "default", point))
    folded = [name.casefold() for name in names]
    return [
        f"{name}-{_hash(point)}" if folded.count(name.casefold()) > 1 else name for name, point in zip(names, points)
    ]


def _checked(label: str) -> str:
    if not label or PurePath(label).name != label or label[0] == "." or not label.isprintable() or "\\" in label:
        raise ConfigurationError(
            f"The list names a run {label!r}: expected is a plain name without slashes, since it names a directory."
        )
    return label


def _short_keys(keys: Sequence[str]) -> dict[str, str]:
    """As much of each key's end as tells it from the others.

    >>> _short_keys(["model.init_args.optimizer.init_args.lr", "model.ema.lr", "seed_everything"])
    {'model.init_args.optimizer.init_args.lr': 'optimizer.lr', 'model.ema.lr': 'ema.lr', 'seed_everything': 'seed'}
    """
    parts = {key: [part for part in key.rstrip("+").split(".") if part != "init_args"] or [key] for key in keys}
    short = {}
    for key, own in parts.items():
        others = [other for name, other in parts.items() if name != key]
        n = next((n for n in range(1, len(own)) if all(other[-n:] != own[-n:] for other in others)), len(own))
        short[key] = "seed" if key == SEED else _plain(".".join(own[-n:]))
    return short


def _shown(key: str, values: Sequence[str]) -> dict[str, tuple[str, bool]]:
    """Each value as it stands in a name, and whether it stands alone, without its key."""
    distinct = list(dict.fromkeys(values))
    paths = [value for value in distinct if "/" in value or _IMAGE.search(value) or _WEIGHTS.search(value)]
    if key == CONFIG or any(not value.startswith(("[", "{")) for value in paths):
        stems = [_stem(value) for value in distinct]
        plain = len(set(stems)) == len(stems) and (key == CONFIG or all(map(_IMAGE.search, distinct)))
        told = dict(zip(distinct, stems)) if plain else _told_apart(distinct)
        return {value: (_plain(name), True) for value, name in told.items()}
    if key.split(".")[-1] == "class_path":
        last = [value.rpartition(".")[2] for value in distinct]
        return {value: (_plain(end if last.count(end) == 1 else value), True) for value, end in zip(distinct, last)}
    return {value: (_plain(value), False) for value in distinct}


def _told_apart(paths: Sequence[str]) -> dict[str, str]:
    """Paths without the folders and ends that all of them share.

    >>> _told_apart(["outputs/a/vae_final", "outputs/b/vae_final"])
    {'outputs/a/vae_final': 'a', 'outputs/b/vae_final': 'b'}
    >>> _told_apart(["photos/cat.jpg", "photos/more/dog.png"])
    {'photos/cat.jpg': 'cat', 'photos/more/dog.png': 'more_dog'}
    """
    parts = [list(PurePath(path).parts) or [path] for path in paths]
    stems = [[*own[:-1], _stem(own[-1])] for own in parts]
    if len({tuple(own) for own in stems}) == len(paths):
        parts = stems
    while len(parts) > 1 and all(len(own) > 1 and own[0] == parts[0][0] for own in parts):
        parts = [own[1:] for own in parts]
    while len(parts) > 1 and all(len(own) > 1 and own[-1] == parts[0][-1] for own in parts):
        parts = [own[:-1] for own in parts]
    if len(parts) == 1:
        parts = [parts[0][-1:]]
    return {path: "_".join(part.strip("/\\") for part in own).strip("_") for path, own in zip(paths, parts)}


def _stem(path: str) -> str:
    """
    >>> _stem("photos/cat.v2.jpg"), _stem("openai/model-1.5")
    ('cat.v2', 'model-1.5')
    """
    return re.sub(r"(?<=.)\.[A-Za-z]\w*$", "", PurePath(path).name)


def _plain(text: str) -> str:
    """
    >>> _plain("[1, 2]"), _plain("-0.5"), _plain("a b"), _plain("")
    ('1-2', '-0.5', 'a-b', 'empty')
    """
    plain = re.sub(r"[^\w.-]+", "-", text)
    return (plain if plain == text else plain.strip("-")) or "empty"


def _shortened(name: str, point: Point) -> str:
    name = f"x{name}" if name[0] in ".-" else name
    if len(name) <= _LONGEST and len(name.encode()) <= _MOST_BYTES:
        return name
    begin = name[: _LONGEST - 9].encode()[: _MOST_BYTES - 9].decode("utf-8", "ignore")
    return f"{begin}-{_hash(point)}"


def _hash(point: Point) -> str:
    values: Mapping[str, str] = dict(sorted(point.values.items()))
    return hashlib.sha256(json.dumps([point.label, values]).encode()).hexdigest()[:8]

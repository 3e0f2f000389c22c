"""Which runs a sweep asks for: the product of its grids and of its list."""

from __future__ import annotations

import glob
import itertools
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from layerscope.errors import ConfigurationError, listed

CONFIG = "config"
"""The key whose values are whole configuration files."""
_OWN = ("experiment_name", "output_root", "overwrite", "config")
_FORM = (
    "The form is --grid KEY=VALUE,VALUE,... with a setting's name as in configurations: --grid seed_everything=1,2,3, "
    "--grid 'data.path=glob(photos/*.jpg)', --grid config=a.yaml,b.yaml; a value that holds commas stands in brackets, "
    "braces or quotes."
)


@dataclass(frozen=True)
class Point:
    """One run of a sweep.

    values: key to value, both as the command line takes them.
    label: the user's name for it, which stands for the values of the keys in ``labelled``.
    """

    values: Mapping[str, str]
    label: str | None = None
    labelled: frozenset[str] = field(default=frozenset())


def expand(grids: Sequence[str], listing: Path | None = None) -> list[Point]:
    """All runs: the entries of the list times every grid, in the order given, the last grid changing fastest.

    Args:
        grids: of the form ``KEY=V1,V2``.
        listing: YAML file, a list of entries.

    Raises:
        ConfigurationError: there is neither, one has another form, or a run or key is asked for twice.
    """
    if not grids and listing is None:
        raise ConfigurationError(f"A sweep needs a --grid or a --list: neither was given. {_FORM}")
    parsed: dict[str, list[str]] = {}
    for text in grids:
        key, values = parse_grid(text)
        if key in parsed:
            raise ConfigurationError(f"Two grids are of {key}. Give all its values in one: --grid {key}=V1,V2,...")
        parsed[key] = values
    entries = [Point({})] if listing is None else read_list(listing)
    points = []
    for entry in entries:
        if both := sorted(entry.values.keys() & parsed.keys()):
            raise ConfigurationError(f"{listing} sets {', '.join(both)}, and so does --grid. Leave it to one of them.")
        points += [Point({**entry.values, **more}, entry.label, entry.labelled) for more in _product(parsed)]
    seen: dict[str, int] = {}
    for number, point in enumerate(points):
        if (first := seen.setdefault(json.dumps(point.values, sort_keys=True), number)) != number:
            told = listed([f"{key}={value}" for key, value in point.values.items()], most=6) or "no setting at all"
            raise ConfigurationError(f"Runs {first + 1} and {number + 1} of the sweep are the same: {told}.")
    return points


def parse_grid(text: str) -> tuple[str, list[str]]:
    """Key and values of ``KEY=V1,V2,...``.

    >>> parse_grid("--model.layers=[1,2],[3]")
    ('model.layers', ['[1,2]', '[3]'])
    >>> parse_grid('title="a,b",c')
    ('title', ['a,b', 'c'])

    Raises:
        ConfigurationError: it has another form, a value is missing or given twice, or no file matches.
    """
    key, equals, rest = text.partition("=")
    key = _key(key)
    if not equals or not key:
        raise ConfigurationError(f"--grid {text} has no KEY= in front. {_FORM}")
    if not re.fullmatch(r"[A-Za-z_][\w.\-]*\+?", key):
        raise ConfigurationError(f"--grid {text}: {key!r} is no name of a setting. {_FORM}")
    _check_key(key, f"--grid {text}", allowed=(CONFIG,))
    pieces = _split(rest, text)
    if any(not piece for piece in pieces):
        raise ConfigurationError(f"--grid {text} lacks a value; an empty one is written as two quotes. {_FORM}")
    return key, _unique([value for piece in pieces for value in _expanded(piece)], f"--grid {text}")


def read_list(path: Path) -> list[Point]:
    """The runs of a list: entries ``{name: ..., config: ..., KEY: VALUE, ...}``, with ``grid: {KEY: [VALUE, ...]}``.

    name, config and grid may be left out; an entry with a grid is a run for each of its values, so it has no name.

    Raises:
        ConfigurationError: it cannot be read or has another form; the message names the entry.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"The list {path} cannot be read as YAML: {error}.") from error
    if not isinstance(content, list) or not content:
        raise ConfigurationError(
            f"The list {path} holds {_kind(content)}; expected is a list of runs such as "
            "`- {name: small, config: vae.yaml, seed_everything: 1}`."
        )
    points = [point for number, entry in enumerate(content, 1) for point in _entry(entry, f"{path}, entry {number}")]
    names = [point.label for point in points if point.label is not None]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigurationError(f"The list {path} has several entries of the name {', '.join(twice)}.")
    return points


def _entry(entry: Any, where: str) -> list[Point]:
    if not isinstance(entry, dict):
        raise ConfigurationError(
            f"{where} is {_kind(entry)}; expected are settings and their values, such as `seed_everything: 1`."
        )
    fixed = {_text_key(key, where): value for key, value in entry.items()}
    label, grid = fixed.pop("name", None), fixed.pop("grid", {})
    if not isinstance(grid, dict) or any(not isinstance(values, list) or not values for values in grid.values()):
        raise ConfigurationError(f"{where}: grid is expected to give each setting a list: `grid: {{KEY: [V1, V2]}}`.")
    if label is not None and (not isinstance(label, (str, int, float)) or grid):
        raise ConfigurationError(
            f"{where}: a grid is many runs, which are named from their values: leave out the name."
            if grid
            else f"{where}: the name is {_kind(label)}; expected is text."
        )
    varied = {_text_key(key, where): values for key, values in grid.items()}
    for key in (*fixed, *varied):
        _check_key(key, where, allowed=(CONFIG,))
    if both := sorted(fixed.keys() & varied.keys()):
        raise ConfigurationError(f"{where} sets {', '.join(both)} in its grid and beside it.")
    if any(not isinstance(value, str) for value in [fixed.get(CONFIG, ""), *varied.get(CONFIG, [])]):
        raise ConfigurationError(f"{where}: config is expected to be the name of a file.")
    told = {key: _told(value) for key, value in fixed.items()}
    choices = {
        key: _unique([text for value in values for text in _expanded(_told(value))], f"{where}, grid of {key}")
        for key, values in varied.items()
    }
    name = None if label is None else str(label)
    return [Point({**told, **more}, name, frozenset(told)) for more in _product(choices)]


def _product(choices: Mapping[str, Sequence[str]]) -> Iterable[dict[str, str]]:
    return (dict(zip(choices, values)) for values in itertools.product(*choices.values()))


def _key(text: str) -> str:
    return text.strip().removeprefix("--")


def _text_key(key: Any, where: str) -> str:
    if not isinstance(key, str):
        raise ConfigurationError(f"{where}: the key {key!r} is {_kind(key)}; expected is the name of a setting.")
    return _key(key)


def _check_key(key: str, where: str, allowed: Sequence[str]) -> None:
    if key in _OWN and key not in allowed:
        raise ConfigurationError(
            f"{where}: {key} is the sweep's own, which gives every run a directory named from its values. Choose where "
            "with --output; a name can be given in a --list."
        )


def _told(value: Any) -> str:
    """A value of YAML on the command line; text stays as it is, since what a setting takes decides how it is read."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _expanded(value: str) -> list[str]:
    """The files that match ``glob(PATTERN)``, sorted; folders too. Any other value is itself."""
    if not (value.startswith("glob(") and value.endswith(")")):
        return [_unquoted(value)]
    pattern = os.path.expanduser(_unquoted(value[len("glob(") : -1].strip()))
    found = sorted(glob.glob(pattern, recursive=True))
    if not found:
        raise ConfigurationError(f"No file matches {value} (relative to {Path.cwd()}). ** stands for any folders.")
    return found


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value


def _unique(values: list[str], where: str) -> list[str]:
    if twice := sorted({value for value in values if values.count(value) > 1}):
        raise ConfigurationError(f"{where} has {', '.join(twice)} more than once. Each value is a run of its own.")
    return values


_PAIRS = {"[": "]", "{": "}", "(": ")"}


def _split(text: str, grid: str) -> list[str]:
    """Parts between commas that stand outside of brackets, braces, quotes and ``glob()``.

    A quote is one only where a value begins, so that names with an apostrophe need nothing.
    """
    parts: list[str] = []
    closing: list[str] = []
    begin, fresh = 0, True  # fresh: a value begins here
    for place, sign in enumerate(text):
        if closing and closing[-1] in "\"'":
            if sign == closing[-1]:
                closing.pop()
            continue
        if sign == "," and not closing:
            parts.append(text[begin:place].strip())
            begin, fresh = place + 1, True
            continue
        opens = sign in "[{" or (sign == "(" and (bool(closing) or text[begin:place].strip() == "glob"))
        if sign in "\"'" and fresh:
            closing.append(sign)
        elif opens:
            closing.append(_PAIRS[sign])
        elif closing and sign == closing[-1]:
            closing.pop()
        elif sign in "]}" and not (closing and closing[-1] == ")"):
            raise ConfigurationError(f"--grid {grid}: {sign!r} closes nothing that is open. {_FORM}")
        fresh = (bool(closing) and sign in "[{(,: ") or (fresh and sign == " ")
    if closing:
        raise ConfigurationError(f"--grid {grid}: {closing[-1]!r} is missing at the end. {_FORM}")
    return [*parts, text[begin:].strip()]


def _kind(value: Any) -> str:
    """
    >>> _kind({}), _kind(None), _kind(3)
    ('a mapping', 'nothing', '3')
    """
    kinds = {dict: "a mapping", list: "a list", str: "text", type(None): "nothing"}
    return kinds.get(type(value), str(value))

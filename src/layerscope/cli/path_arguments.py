"""File names on the command line: several after one option, and such as YAML would take for something else."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

import yaml

_OPTIONS = {
    f"--data.{prefix}{name}": f"--data.{name}" for name in ("path", "masks", "other") for prefix in ("", "init_args.")
}


def path_arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments with all values of --data.path, --data.masks and --data.other as one JSON list each.

    A shell writes ``*.jpg`` as many arguments, which become one list where the option was last named; so do several
    uses of it. A single value stays as it is where a configuration's reader takes it as the text that it is. In both
    ``${...}`` stands for another setting, as everywhere in a configuration.

    >>> path_arguments(["--data.path", "a.jpg", "b 2.jpg", "--data.limit", "3"])
    ['--data.path=["a.jpg", "b 2.jpg"]', '--data.limit', '3']
    >>> path_arguments(["--data.path=a.jpg", "--data.path=x: y.jpg"]), path_arguments(["--data.path", "a.jpg"])
    (['--data.path=["a.jpg", "x: y.jpg"]'], ['--data.path=a.jpg'])
    """
    kept: list[str | None] = []
    values: dict[str, list[str]] = {}
    places: dict[str, int] = {}
    option = None
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name in _OPTIONS:
            option = _OPTIONS[name]
            if option in places:
                kept[places[option]] = None
            places[option] = len(kept)
            kept.append(argument)
            values.setdefault(option, []).extend([value] if equals else [])
        elif option is not None and not _is_option(argument):
            values[option].append(argument)
        else:
            option = None
            kept.append(argument)
    for option, place in places.items():
        # Without any value the option stays alone, and the parser says what it lacks.
        kept[place] = f"{option}={_told(option, values[option])}" if values[option] else option
    return [argument for argument in kept if argument is not None]


def _is_option(argument: str) -> bool:
    return argument.startswith("-") and argument != "-"


def _told(option: str, values: Sequence[str]) -> str:
    if len(values) == 1 and not _is_misread(option, values[0]):
        return values[0]
    names = [name for value in values for name in (_list_in(value) or [value])]
    return json.dumps(names, ensure_ascii=False)


def _is_misread(option: str, value: str) -> bool:
    """Whether a parser of YAML takes a file's name for nothing, or for a mapping or a list.

    Numbers and truth values it gives back as the text that they were, where text is asked for.
    """
    try:
        read = yaml.safe_load(value)
    except yaml.YAMLError:
        return False
    if read is None:
        return bool(value) and (option == "--data.path" or os.path.exists(value))
    if isinstance(read, list):
        return read != _list_in(value)  # a number within a list stays one
    return isinstance(read, dict) and not value.startswith("{")


def _list_in(value: str) -> list[str] | None:
    """The names in ``[a.jpg, b.jpg]``, which is how a configuration writes a list; None for any other value."""
    if not (value.startswith("[") and value.endswith("]")) or os.path.exists(value):
        return None
    try:
        names = yaml.load(value, yaml.BaseLoader)  # makes nothing but texts, lists and mappings
    except yaml.YAMLError:
        return None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None

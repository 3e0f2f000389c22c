"""``null`` for a setting of a class inside a class: jsonargparse would make it the text "None", or refuse it.

``--model.init_args.autoencoder.init_args.architecture=null`` is told as a mapping, which it reads as a file would be:
``--model={"init_args": {"autoencoder": {"init_args": {"architecture": null}}}}``. Everything else it merges the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any


def nested_nulls(arguments: Sequence[str]) -> list[str]:
    """``arguments`` with every such ``--KEY=null``, or ``--KEY null``, as a mapping of its first part."""
    return list(_rewritten(arguments))


def _rewritten(arguments: Sequence[str]) -> Iterator[str]:
    left = list(arguments)
    while left:
        argument = left.pop(0)
        option, equals, value = argument.partition("=")
        deep = option.startswith("--") and option.count(".init_args.") > 1
        if not deep or (value if equals else next(iter(left), "")) != "null":
            yield argument
            continue
        if not equals:
            left.pop(0)
        top, *path = option[2:].split(".")
        setting: Any = None
        for name in reversed(path):
            setting = {name: setting}
        yield f"--{top}={json.dumps(setting)}"

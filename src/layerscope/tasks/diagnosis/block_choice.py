"""Which blocks of a vision transformer are meant: the last, all, or some by number, name and pattern."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Sequence

from layerscope.errors import ConfigurationError, listed
from layerscope.protocols import TokenEncoder


def chosen_layers(encoder: TokenEncoder, layers: int | str | Sequence[int | str]) -> list[str]:
    """Names of the meant blocks, in the order of the computation.

    Args:
        encoder: has the blocks ``default_layers``.
        layers: ``last``, ``all``, or one or several numbers, names and patterns with ``*``.

    Raises:
        ConfigurationError: one that does not exist, with close names.
    """
    blocks = list(encoder.default_layers)
    wanted: Sequence[int | str] = [layers] if isinstance(layers, (int, str)) else layers
    meant: set[str] = set()
    for one in wanted:
        meant |= _meant(blocks, one)
    if not meant:
        raise ConfigurationError("layers names none. Write last, all, or a list of numbers and names.")
    return [name for name in blocks if name in meant]


def _meant(blocks: list[str], one: int | str) -> set[str]:
    if isinstance(one, str) and one.lstrip("-").isdecimal():
        one = int(one)
    match one:
        case "last":
            return {blocks[-1]}
        case "all":
            return set(blocks)
        case int():
            if not -len(blocks) <= one < len(blocks):
                raise ConfigurationError(
                    f"layers has {one}, and the encoder has {len(blocks)} blocks: 0 to {len(blocks) - 1}, or from the "
                    f"end −1 to −{len(blocks)}."
                )
            return {blocks[one]}
        case _:
            found = set(fnmatch.filter(blocks, one))
            if not found:
                near = difflib.get_close_matches(one, [*blocks, "last", "all"], n=3, cutoff=0.4)
                raise ConfigurationError(
                    f"layers has {one!r}, which is no block of the encoder. "
                    + (f"Did you mean {' or '.join(near)}? " if near else "")
                    + f"Its blocks are {listed(blocks, 6)}; last, all and numbers are possible too."
                )
            return found

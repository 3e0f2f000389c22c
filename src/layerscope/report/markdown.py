"""Text for Markdown files: whatever comes from users' files and names is shown as it is."""

from __future__ import annotations

import re
from collections.abc import Sequence


def escaped(text: object) -> str:
    """Text that Markdown and HTML show as it is, on one line, in a table cell or outside.

    >>> escaped("a|b <i> *c*\\n# d")
    'a\\\\|b &lt;i&gt; \\\\*c\\\\* \\\\# d'
    """
    line = without_controls(" ".join(str(text).split()))
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]#|~$])", r"\\\1", line)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table, every cell escaped."""
    first, *rest = [[escaped(cell) for cell in row] for row in (header, *rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (first, ["---"] * len(header), *rest))


def without_controls(line: str) -> str:
    """Without control characters, which could move a terminal's cursor or hide text."""
    return "".join(char for char in line if char.isprintable())

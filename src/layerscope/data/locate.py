"""Where a table, split file or schema lies that a configuration names."""

from __future__ import annotations

from pathlib import Path

from layerscope.errors import DataError
from layerscope.shipped import shipped


def find_data_file(name: str | Path, root: str | Path, what: str) -> Path:
    """The file ``name``: in the data directory ``root``, else in the working directory, else shipped with layerscope.

    So one configuration serves any ``root``, and ``configs/labels/...`` is found from anywhere.

    Raises:
        DataError: it is in none of them; ``what`` is the name of the setting, for the message.
    """
    places = [Path(root) / name, Path.cwd() / name]
    for path in [*places, shipped(name)]:
        if path.is_file():
            return path
    looked = " and ".join(map(str, places))
    raise DataError(
        f"data.init_args.{what} is {name}, which does not exist (looked for {looked}). Correct the path; docs/data.md "
        "describes the file."
    )

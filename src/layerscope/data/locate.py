"""Where a table, split file or schema lies that a configuration names."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from layerscope.errors import DataError


def find_data_file(name: str | Path, root: str | Path, what: str) -> Path:
    """The file ``name``: in the data directory ``root``, else in the working directory, else shipped with layerscope.

    So one configuration serves any ``root``, and ``configs/labels/...`` is found from anywhere.

    Raises:
        DataError: it is in none of them; ``what`` is the name of the setting, for the message.
    """
    package = Path(str(resources.files("layerscope")))
    # Installed, configs/ lies in the package; in a source tree, beside src/.
    places = [Path(root), Path.cwd(), package, package.parents[1]]
    for place in places:
        if (place / name).is_file():
            return place / name
    looked = " and ".join(str(place / name) for place in places[:2])
    raise DataError(
        f"data.init_args.{what} is {name}, which does not exist (looked for {looked}). Correct the path; docs/data.md "
        "describes the file."
    )

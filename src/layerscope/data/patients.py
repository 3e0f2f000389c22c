"""Which patient an image file belongs to, by its path."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from layerscope.errors import ConfigurationError, DataError


def patient_pattern(patient: str | None) -> re.Pattern[str] | None:
    """The compiled expression of a datamodule's ``patient``.

    Raises:
        ConfigurationError: it is no regular expression, or has no group.
    """
    if patient is None:
        return None
    try:
        pattern = re.compile(patient)
    except re.error as error:
        raise ConfigurationError(
            f"data.init_args.patient is {patient!r}, which is no regular expression: {error}."
        ) from error
    if not pattern.groups:
        raise ConfigurationError(
            f"data.init_args.patient is {patient!r}, which has no group. Put parentheses around the part that names "
            "the patient, such as '(p[0-9]+)_'."
        )
    return pattern


def patients_of(root: Path, files: Sequence[Path], pattern: re.Pattern[str] | None) -> list[str]:
    """The patient of each file: the first group of ``pattern``, searched in the path relative to ``root``.

    "" for all without a pattern.

    Raises:
        DataError: the pattern names no patient in some path.
    """
    if pattern is None:
        return [""] * len(files)
    paths = [path.relative_to(root).as_posix() for path in files]
    matches = [pattern.search(path) for path in paths]
    patients = [(match.group(1) or "") if match else "" for match in matches]
    nameless = [path for path, patient in zip(paths, patients) if not patient]
    if nameless:
        raise DataError(
            f"data.init_args.patient {pattern.pattern!r} names no patient in {len(nameless)} of {len(paths)} paths "
            f"below {root}, such as {', '.join(map(repr, nameless[:3]))}. Correct the expression so that its first "
            "group matches in every path (it is searched in the path relative to that folder), or rename these files."
        )
    return patients

"""Every error layerscope raises on purpose, each with the exit status the command line answers with.

The message of such an error is one readable paragraph: what was looked for, what was found, where, and the way out.
"""

from __future__ import annotations

from collections.abc import Sequence


class LayerscopeError(Exception):
    """A failure that is explained to the user in one paragraph. Exit status 1."""

    exit_status = 1


class ConfigurationError(LayerscopeError):
    """Wrong usage: an option, a configuration value or a combination of them. Exit status 2."""

    exit_status = 2


class DataError(LayerscopeError):
    """Images, tables or schemas that cannot be used; the message names file, row and remedy."""


class WeightsError(LayerscopeError):
    """Model weights that are missing, incomplete or of another model; the message names the keys."""


class NumericalError(LayerscopeError):
    """NaN or infinite values where the answer would silently be wrong; the message names sample and condition."""


class ArtifactError(LayerscopeError):
    """A run directory that cannot be written, read or trusted."""


def listed(names: Sequence[str], most: int = 16) -> str:
    """Names in a message: the first of them, and how many there are."""
    return ", ".join(names[:most]) + (f", … ({len(names)} in all)" if len(names) > most else "")


def explained_cause(error: BaseException | None) -> LayerscopeError | None:
    """The error of ours in the chain of causes: jsonargparse buries what a constructor raised under its own text."""
    while error is not None:
        if isinstance(error, LayerscopeError):
            return error
        error = error.__cause__ or error.__context__
    return None

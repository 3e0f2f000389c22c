"""Checks of the values that terms are built with; a configuration file is checked by its parser, Python code here."""

from __future__ import annotations

import math
from collections.abc import Sequence

from layerscope.errors import ConfigurationError


def check_choice(owner: str, argument: str, value: object, allowed: Sequence[str]) -> None:
    """Raises ConfigurationError where ``value`` is not one of the allowed words."""
    if value not in allowed:
        raise ConfigurationError(f"{argument} of {owner} is {value!r}: expected one of {', '.join(allowed)}.")


def check_not_negative(owner: str, argument: str, value: float) -> None:
    """Raises ConfigurationError where ``value`` is negative, infinite or NaN."""
    if not (math.isfinite(value) and value >= 0):
        raise ConfigurationError(f"{argument} of {owner} is {value}: expected a finite number of at least 0.")


def check_positive(owner: str, argument: str, value: float) -> None:
    """Raises ConfigurationError where ``value`` is zero, negative, infinite or NaN."""
    if not (math.isfinite(value) and value > 0):
        raise ConfigurationError(f"{argument} of {owner} is {value}: expected a finite number above 0.")

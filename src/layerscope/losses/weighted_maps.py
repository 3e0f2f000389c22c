"""Choosing among the maps that a frozen network shows, and weighing them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from layerscope.errors import ConfigurationError
from layerscope.losses.choices import check_not_negative


def check_weights(owner: str, argument: str, names: list[str] | None, weights: list[float] | None) -> None:
    """Raises ConfigurationError for an empty choice, doubled names, or weights that do not belong to the names."""
    if names is not None and (not names or len(set(names)) < len(names)):
        raise ConfigurationError(f"{argument} of {owner} is {names}: expected different names, or null for all.")
    if weights is None:
        return
    if names is None or len(weights) != len(names):
        raise ConfigurationError(
            f"{owner} has {len(weights)} weights for {'all' if names is None else len(names)} {argument}. Name the "
            f"{argument} and give one weight for each, or none for a mean."
        )
    for weight in weights:
        check_not_negative(owner, f"a weight of {argument}", weight)


def weighted_distance(
    owner: str,
    found: Mapping[str, Tensor],
    target: Mapping[str, Tensor],
    names: list[str] | None,
    weights: list[float] | None,
    distance: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Σ weight · distance(found, target) over the named maps; the mean over all of them by default.

    Raises:
        ConfigurationError: a named map is not there, or there are none at all.
    """
    chosen = list(found) if names is None else names
    missing = [name for name in chosen if name not in found]
    if missing or not chosen:
        raise ConfigurationError(
            f"{owner} looked for the feature maps {', '.join(missing) or 'of a network'} and the network shows "
            f"{', '.join(found) or 'none'}. Choose among these."
        )
    shares = [1 / len(chosen)] * len(chosen) if weights is None else weights
    values = [share * distance(found[name], target[name]) for name, share in zip(chosen, shares)]
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total

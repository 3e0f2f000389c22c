"""What the tests of default layers share: patterns matched by plain means, and hooks that count calls."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def matched(root: nn.Module, patterns: tuple[str, ...]) -> list[str]:
    """Names of the layers of a model; every pattern must match one."""
    names = [name for name, _ in root.named_modules()]
    found = {pattern: [name for name in names if _expression(pattern).fullmatch(name)] for pattern in patterns}
    assert all(found.values()), found
    return [name for name in names if any(name in matches for matches in found.values())]


def seen(root: nn.Module, names: list[str], run: Callable[[], Any]) -> dict[str, list[Tensor]]:
    """What the named layers give, call by call, while ``run`` runs."""
    modules = dict(root.named_modules())
    calls: dict[str, list[Tensor]] = {name: [] for name in names}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            tensors = [output] if isinstance(output, Tensor) else [one for one in output if isinstance(one, Tensor)]
            assert len(tensors) == 1, f"{name} gives {len(tensors)} tensors"
            calls[name].append(tensors[0].clone())

        return hook

    handles = [modules[name].register_forward_hook(keep(name)) for name in names]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _expression(pattern: str) -> re.Pattern[str]:
    if pattern.startswith("re:"):
        return re.compile(pattern.removeprefix("re:"))
    return re.compile(re.escape(pattern).replace(r"\*", r"[^.]*"))

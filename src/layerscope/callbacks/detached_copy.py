"""A module as it stands, apart from the training that goes on with the original."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn


def detached_copy(module: nn.Module) -> nn.Module:
    """A copy with float32 weights in evaluation mode, without gradients and without compilation.

    Compiled modules would name their weights otherwise (``_orig_mod``) and never call hooks that came later.
    """
    copied = _uncompiled(deepcopy(module))
    for parent in list(copied.modules()):
        for name, child in list(parent.named_children()):
            setattr(parent, name, _uncompiled(child))
    for parameter in copied.parameters():
        parameter.grad = None
    return copied.requires_grad_(False).float().to(memory_format=torch.contiguous_format).eval()


def _uncompiled(module: nn.Module) -> nn.Module:
    """What ``torch.compile`` was given."""
    original = module._modules.get("_orig_mod")
    return module if original is None else original

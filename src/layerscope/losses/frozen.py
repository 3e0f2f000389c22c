"""The one way in which a loss term holds a network that is not trained."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import nn

from layerscope.errors import ConfigurationError


class Frozen:
    """A network without gradients of its own weights, always in evaluation mode, and in no checkpoint.

    Deliberately no ``nn.Module``: a module that keeps a ``Frozen`` as attribute does not register the network, so
    ``train()``, ``state_dict()``, ``load_state_dict()``, ``parameters()``, DDP, FSDP, weight averaging and optimizers
    all pass it by. A teacher's dropout stays off, and a resumed run meets neither unexpected nor missing keys.
    Gradients still flow through the network to its input.

    The network follows the device of what it is given and keeps its own precision. Copies of the owner share it, so
    an averaged copy of the task costs no second teacher.

    Args:
        network: the module to freeze; its ``requires_grad`` is switched off for good.
    """

    def __init__(self, network: nn.Module) -> None:
        if not isinstance(network, nn.Module):
            raise ConfigurationError(f"A frozen network is a torch.nn.Module; given: {type(network).__name__}.")
        self._network = network.requires_grad_(False).eval()

    def on(self, device: torch.device) -> Any:
        """The network, on this device and in evaluation mode.

        Any: what it offers beside ``__call__`` (such as a teacher's ``features``) is the owner's affair.
        """
        first = next(itertools.chain(self._network.parameters(), self._network.buffers()), None)
        if first is not None and first.device != device:
            self._network.to(device)
        if any(module.training for module in self._network.modules()):
            # Whoever else holds the network, such as a task that also judges with it, may have switched it.
            self._network.eval()
        return self._network

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights; float32 where there are none."""
        floats = (p.dtype for p in self._network.parameters() if p.is_floating_point())
        return next(floats, torch.float32)

    def __deepcopy__(self, memo: dict[int, Any]) -> Frozen:
        return self

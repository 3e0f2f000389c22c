"""A callback that writes down what the optimizers saw and did, step by step, for a test to read after the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

Step = dict[str, Any]


class StepRecords(Callback):
    """One record for each step of each optimizer, in ``<path>.<rank>.pt``.

    A record has ``optimizer`` (its number), ``batch``, ``ids``, ``buffers`` by name, and ``names`` of the parameters
    which that optimizer holds. By those names: ``local``, the gradient of this process's batch alone, before DDP
    averages it; ``gradients``, what the optimizer is about to use (only of parameters that have one); ``weights``,
    after the step.

    path: absolute, without the ending.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.steps: list[Step] = []
        self.local: dict[str, Tensor] = {}
        self.ids: list[str] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name, parameter in pl_module.named_parameters():
            if parameter.requires_grad:
                # A hook on the leaf itself comes before DDP's, which is on the node that accumulates the gradient.
                parameter.register_hook(lambda gradient, name=name: self._add(name, gradient))

    def _add(self, name: str, gradient: Tensor) -> None:
        self.local[name] = self.local.get(name, 0) + gradient.clone()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.ids = list(batch["id"])

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        names = {name for name, parameter in pl_module.named_parameters() if id(parameter) in held}
        parameters = dict(pl_module.named_parameters())
        own = [getattr(one, "optimizer", one) for one in trainer.optimizers]
        self.steps.append(
            {
                "optimizer": next(i for i, one in enumerate(own) if one is getattr(optimizer, "optimizer", optimizer)),
                "batch": trainer.fit_loop.total_batch_idx,
                "ids": self.ids,
                "names": sorted(names),
                "buffers": {name: buffer.clone() for name, buffer in pl_module.named_buffers()},
                "local": {name: value for name, value in self.local.items() if name in names},
                "gradients": {n: parameters[n].grad.clone() for n in sorted(names) if parameters[n].grad is not None},
            }
        )
        self.local = {name: value for name, value in self.local.items() if name not in names}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        held = {name: parameter.detach().clone() for name, parameter in pl_module.named_parameters()}
        for step in self.steps:
            step.setdefault("weights", {name: held[name] for name in step["names"]})

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.save(self.steps, f"{self.path}.{trainer.global_rank}.pt")


def recorded(path: Path) -> dict[str, Any]:
    """The callback in a configuration."""
    return {"class_path": "step_records.StepRecords", "init_args": {"path": str(path)}}


def read_steps(path: Path, rank: int = 0) -> list[Step]:
    """What one process has written."""
    return torch.load(f"{path}.{rank}.pt", weights_only=True)

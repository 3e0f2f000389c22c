"""Loss terms that misbehave, and a teacher that watches how it is treated, for trainings through the command."""

from __future__ import annotations

from typing import Any

import torch
from loss_stand_ins import TinyTeacher
from torch import Tensor, nn

from layerscope.losses import LossInputs, LossTerm
from layerscope.types import TeacherFeatures


class Breaks(LossTerm):
    """Twice the mean squared error, until ``batches`` batches were seen; then as ``how`` says, on process ``rank``.

    how: ``nan``; ``inf``; or ``gradient``, whose value stays finite while the backward pass gives NaN.
    """

    def __init__(self, how: str, batches: int, rank: int = 0, name: str = "breaks") -> None:
        super().__init__(name)
        self.how, self.batches, self.rank = how, batches, rank

    def forward(self, inputs: LossInputs) -> Tensor:
        error = 2 * (inputs.recon - inputs.image).square().mean()
        here = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        if inputs.batches < self.batches or here != self.rank:
            return error
        # The slope of √ at 0 is infinite, and that of a square is 0.
        return error + torch.sqrt((error - error).square()) if self.how == "gradient" else error * float(self.how)


class Unreached(LossTerm):
    """The mean squared error, and two parameters that it does not depend on."""

    def __init__(self) -> None:
        super().__init__("unreached")
        self.spare = nn.Linear(2, 1)

    def forward(self, inputs: LossInputs) -> Tensor:
        return (inputs.recon - inputs.image).square().mean()


class WatchedTeacher(TinyTeacher):
    """Refuses to be copied, and notes the mode of its modules whenever it is asked."""

    asked: list[bool] = []  # noqa: RUF012 - shared by all instances on purpose

    def features(self, image: Tensor) -> TeacherFeatures:
        self.asked.append(any(module.training for module in self.modules()))
        return super().features(image)

    def __deepcopy__(self, memo: dict[int, Any]) -> WatchedTeacher:
        raise AssertionError("a frozen teacher was copied")


class Runaway(torch.optim.SGD):
    """Plain gradient descent at 0.01, infinite once ``after`` steps were taken."""

    def __init__(self, params: Any, after: int) -> None:
        super().__init__(params, lr=0.01)
        self.left = after

    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        self.left -= 1
        if self.left < 0:
            with torch.no_grad():
                for group in self.param_groups:
                    for parameter in group["params"]:
                        parameter.mul_(torch.inf)
        return loss

"""Networks inside terms: frozen, in evaluation mode, in no checkpoint, and shared by copies."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from loss_stand_ins import Maps, TinyTeacher, loss_inputs
from torch import nn

from layerscope.errors import ConfigurationError
from layerscope.losses import (
    LPIPS,
    FeatureMatching,
    FrozenFeatures,
    LearnedLogvar,
    LossTerm,
    NoisyFeatureMatching,
    TeacherClassification,
    WeightedSum,
)
from layerscope.losses.frozen import Frozen


class PairDistance(nn.Module):
    """A perceptual network of the user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = TinyTeacher()

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (self.teacher(a) - self.teacher(b)).square().mean(dim=1).view(-1, 1, 1, 1)


TERMS: list[tuple[Callable[[nn.Module], LossTerm], type[nn.Module]]] = [
    (FeatureMatching, TinyTeacher),
    (NoisyFeatureMatching, TinyTeacher),
    (TeacherClassification, TinyTeacher),
    (lambda network: FrozenFeatures(network), lambda: Maps("list")),  # type: ignore[list-item]
    (lambda network: LPIPS(network=network), PairDistance),
    (lambda network: LearnedLogvar(FeatureMatching(network)), TinyTeacher),
]


@pytest.mark.parametrize(("build", "network"), TERMS)
class TestEveryTermWithANetwork:
    def test_trains_nothing_in_it_and_keeps_it_in_evaluation(
        self, build: Callable[[nn.Module], LossTerm], network: Callable[[], nn.Module]
    ) -> None:
        held = network()
        before = copy.deepcopy(held.state_dict())
        parent = nn.Sequential(WeightedSum([build(held)])).train().requires_grad_(True)
        parent[0](loss_inputs())[0].backward()
        assert not any(module.training for module in held.modules())
        for parameter in held.parameters():
            assert not parameter.requires_grad
            assert parameter.grad is None
        for key, value in held.state_dict().items():
            torch.testing.assert_close(value, before[key], rtol=0, atol=0)

    def test_gives_the_same_in_training_and_evaluation(
        self, build: Callable[[nn.Module], LossTerm], network: Callable[[], nn.Module]
    ) -> None:
        # Dropout and BatchNorm of the network would differ.
        losses = WeightedSum([build(network())])
        values = [float(losses.train(mode)(loss_inputs())[0]) for mode in (True, True, False)]
        assert values[0] == values[1] == values[2]

    def test_is_in_no_checkpoint_and_a_resume_is_strict(
        self, build: Callable[[nn.Module], LossTerm], network: Callable[[], nn.Module]
    ) -> None:
        losses = WeightedSum([build(network())])
        own = [name for name, _ in losses.named_parameters()]
        assert own == (["terms.0.logvar"] if isinstance(losses.terms[0], LearnedLogvar) else [])
        assert list(losses.state_dict()) == own
        losses.load_state_dict(losses.state_dict(), strict=True)


def test_another_owner_that_switches_to_training_mode_is_not_believed() -> None:
    teacher = TinyTeacher()
    term = TeacherClassification(teacher)
    expected = term(loss_inputs())
    teacher.dropout.train()
    torch.testing.assert_close(term(loss_inputs()), expected, rtol=0, atol=0)


def test_copies_share_the_network() -> None:
    held = Frozen(TinyTeacher())
    term = nn.Module()
    term.held = held
    cpu = torch.device("cpu")
    assert copy.deepcopy(term).held.on(cpu) is held.on(cpu)


def test_the_network_follows_its_input_and_keeps_its_precision() -> None:
    term = FrozenFeatures(Maps("dict").double())
    held = term._network
    term.to(torch.bfloat16)
    assert held.dtype == torch.float64
    assert float(term(loss_inputs())) > 0
    assert next(held.on(torch.device("meta")).parameters()).device.type == "meta"


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="given: str"):
        Frozen("vgg16")  # type: ignore[arg-type]

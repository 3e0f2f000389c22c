"""The sum of the terms: values, checks, gradients of each term, and terms of the user's own."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from jsonargparse import ArgumentParser, set_parsing_settings
from loss_stand_ins import Maps, MeanColour, TinyTeacher, loss_inputs
from torch import Tensor, nn

from layerscope.errors import ConfigurationError, NumericalError
from layerscope.losses import (
    KL,
    L1,
    MSE,
    SSIM,
    Charbonnier,
    Equivariance,
    FeatureMatching,
    FrozenFeatures,
    LearnedLogvar,
    LossInputs,
    LossTerm,
    NoisyFeatureMatching,
    NoisyReconstruction,
    TeacherClassification,
    WeightedSum,
)
from layerscope.protocols import LossTerm as LossTermProtocol

MOVES: list[tuple[Callable[[], nn.Module], set[str]]] = [
    (L1, {"recon"}),
    (MSE, {"recon"}),
    (Charbonnier, {"recon"}),
    (SSIM, {"recon"}),
    (KL, {"mean", "std"}),
    (lambda: FrozenFeatures(Maps("dict")), {"recon"}),
    (lambda: FeatureMatching(TinyTeacher()), {"recon"}),
    (lambda: NoisyFeatureMatching(TinyTeacher()), {"noisy_recon"}),
    (NoisyReconstruction, {"noisy_recon"}),
    (lambda: TeacherClassification(TinyTeacher()), {"recon"}),
    (Equivariance, {"latent"}),
    (lambda: LearnedLogvar(L1()), {"recon"}),
    (MeanColour, {"recon"}),
]


class Constant(LossTerm):
    """Gives what it is told."""

    def __init__(self, value: object, name: str = "constant") -> None:
        super().__init__(name)
        self.value = value

    def forward(self, inputs: LossInputs) -> Tensor:
        return self.value  # type: ignore[return-value]


@pytest.mark.parametrize(("build", "moved"), MOVES)
def test_each_term_moves_what_it_should_and_nothing_else(build: Callable[[], nn.Module], moved: set[str]) -> None:
    term = build()
    assert isinstance(term, LossTermProtocol)
    total, _ = WeightedSum([term]).train()(inputs := loss_inputs())
    total.backward()
    leaves = ("recon", "noisy_recon", "mean", "std", "latent")
    touched = {name for name in leaves if getattr(inputs, name).grad is not None}
    assert touched == moved
    for name in moved:
        gradient = getattr(inputs, name).grad
        # The untrained fourth latent channel, which the stand-in decoder leaves out, is the only still part.
        assert (gradient[:, :3] != 0).float().mean() > 0.5
        assert torch.isfinite(gradient).all()
    assert inputs.image.grad is None


def test_total_and_values() -> None:
    inputs = loss_inputs()
    total, values = WeightedSum([L1(weight=0.5), MSE(weight=3.0), MeanColour(weight=22.0)])(inputs)
    difference = inputs.recon - inputs.image
    colour = difference.mean(dim=(2, 3)).square().mean()
    assert list(values) == ["l1", "mse", "mean_colour"]
    torch.testing.assert_close(values["l1"], difference.abs().mean().detach())
    torch.testing.assert_close(values["mean_colour"], colour.detach())
    # A weight that depends on the batches seen, of which there were ten.
    torch.testing.assert_close(total, 0.5 * difference.abs().mean() + 3 * difference.square().mean() + 2 * colour)
    assert total.requires_grad
    assert not any(value.requires_grad for value in values.values())


def test_needs_are_those_of_any_term() -> None:
    plain, noisy = WeightedSum([L1(), KL()]), WeightedSum([L1(), NoisyReconstruction()])
    assert (plain.needs_noisy_recon, plain.needs_labels) == (False, False)
    assert (noisy.needs_noisy_recon, noisy.needs_labels) == (True, False)
    assert WeightedSum([L1(), TeacherClassification(TinyTeacher())]).needs_labels
    assert LearnedLogvar(NoisyReconstruction()).needs_noisy_recon


def test_without_noise_the_noisy_term_is_left_out_of_evaluation_and_refused_in_training() -> None:
    losses = WeightedSum([L1(), NoisyReconstruction()])
    clean = replace(loss_inputs(), noisy_recon=None)
    with pytest.raises(ConfigurationError, match="noisy_reconstruction needs the reconstruction of a noisy latent"):
        losses.train()(clean)
    total, values = losses.eval()(clean)
    assert list(values) == ["l1"]
    torch.testing.assert_close(total.detach(), values["l1"])


def test_labels_that_are_needed_and_missing_are_refused() -> None:
    losses = WeightedSum([TeacherClassification(TinyTeacher())])
    with pytest.raises(ConfigurationError, match="teacher_classification needs labels"):
        losses(replace(loss_inputs(), target=None))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_term_that_is_not_finite_is_named_with_the_images(bad: float) -> None:
    losses = WeightedSum([L1(), Constant(torch.tensor(bad, requires_grad=True), "broken")])
    with pytest.raises(NumericalError, match=rf"10 training batches: broken is {bad}.*image0, image1") as caught:
        losses(loss_inputs())
    assert "l1" not in str(caught.value)


@pytest.mark.parametrize("value", [torch.zeros(2), 1.0])
def test_a_term_that_gives_no_scalar_tensor_is_refused(value: object) -> None:
    with pytest.raises(ConfigurationError, match=r"constant gave .* instead of a scalar tensor"):
        WeightedSum([Constant(value)])(loss_inputs())


def test_a_term_without_gradient_is_told_once_and_only_in_training() -> None:
    losses = WeightedSum([L1(), Constant(torch.ones(()), "perceptual")])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        losses.eval()(loss_inputs())
    with pytest.warns(UserWarning, match="perceptual carries no gradient") as told:
        losses.train()(loss_inputs())
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        losses(loss_inputs())


def test_sums_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="no terms"):
        WeightedSum([])
    with pytest.raises(ConfigurationError, match="named l1"):
        WeightedSum([L1(), L1(weight=2.0)])
    with pytest.raises(ConfigurationError, match=r"Linear is no loss term .* lacks name, needs_noisy_recon"):
        WeightedSum([nn.Linear(1, 1)])
    with pytest.raises(ConfigurationError, match="weight of the loss term l1 is -1"):
        L1(weight=-1)
    assert len(WeightedSum([L1(), L1(name="other")]).terms) == 2


def test_terms_by_class_path_also_of_a_users_own_module() -> None:
    set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=["layerscope", "torch", "loss_stand_ins"])
    parser = ArgumentParser()
    parser.add_class_arguments(WeightedSum, "losses")
    teacher = {"class_path": "loss_stand_ins.TinyTeacher"}
    terms = [
        {"class_path": "layerscope.losses.Charbonnier", "init_args": {"eps": 0.01, "reduction": "sum_per_image"}},
        {"class_path": "loss_stand_ins.MeanColour", "init_args": {"weight": 4.0}},
        {"class_path": "layerscope.losses.FeatureMatching", "init_args": {"teacher": teacher, "stages": ["deep"]}},
        {
            "class_path": "layerscope.losses.LearnedLogvar",
            "init_args": {"term": {"class_path": "layerscope.losses.L1"}, "initial_logvar": -1.0},
        },
    ]
    losses = parser.instantiate_classes(parser.parse_object({"losses": {"terms": terms}})).losses
    _, values = losses(loss_inputs())
    assert list(values) == ["charbonnier", "mean_colour", "feature_matching", "nll"]
    assert losses.terms[1].weight == 4.0


def test_learned_logvar_is_ldms_formula_and_finds_the_scale() -> None:
    inputs = loss_inputs()
    term = LearnedLogvar(L1(weight=2.0), initial_logvar=0.7)
    rec = 2 * (inputs.recon - inputs.image).abs().mean().detach()
    torch.testing.assert_close(term(inputs).detach(), rec / torch.exp(torch.tensor(0.7)) + 0.7)
    losses = WeightedSum([term])
    assert [name for name, _ in losses.named_parameters()] == ["terms.0.logvar"]
    optimizer = torch.optim.SGD(losses.parameters(), lr=0.3)
    for _ in range(60):
        optimizer.zero_grad()
        losses(inputs)[0].backward()
        optimizer.step()
    torch.testing.assert_close(term.logvar.exp().detach(), rec, rtol=1e-3, atol=0)
    with pytest.raises(ConfigurationError, match="wraps the loss term l1 of reduction sum_per_image"):
        LearnedLogvar(L1(reduction="sum_per_image"))

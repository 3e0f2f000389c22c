"""Feature matching, frozen features and the classification loss against plain PyTorch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from loss_stand_ins import Maps, TinyTeacher, loss_inputs
from torch import Tensor, nn

from layerscope.errors import ConfigurationError
from layerscope.losses import FeatureMatching, FrozenFeatures, NoisyFeatureMatching, TeacherClassification
from layerscope.losses.feature_distance import FeatureDistance, feature_distance


def stages(image: Tensor) -> dict[str, Tensor]:
    return TinyTeacher().eval().features(image).stages


def unit(features: Tensor) -> Tensor:
    """Unit length across channels, times the root of their number."""
    return F.normalize(features, dim=1) * features.shape[1] ** 0.5


EXPECTED = {
    "l1": lambda a, b: F.l1_loss(unit(a), unit(b)),
    "mse": lambda a, b: F.mse_loss(unit(a), unit(b)),
    "cosine": lambda a, b: (1 - F.cosine_similarity(a, b, dim=1)).mean(),
}


@pytest.mark.parametrize("distance", list(EXPECTED))
def test_feature_distance(distance: FeatureDistance) -> None:
    for shape in ((2, 5, 3, 4), (2, 5)):
        a, b = torch.randn(shape), torch.randn(shape)
        torch.testing.assert_close(feature_distance(a, b, distance), EXPECTED[distance](a, b), rtol=1e-4, atol=1e-5)
    plain = {"l1": F.l1_loss(a, b), "mse": F.mse_loss(a, b), "cosine": EXPECTED["cosine"](a, b)}
    torch.testing.assert_close(feature_distance(a, b, distance, False), plain[distance], rtol=1e-4, atol=1e-5)
    # The size of a feature vector does not matter, and where there is nothing, nothing differs.
    torch.testing.assert_close(feature_distance(3 * a, b, distance), feature_distance(a, b, distance))
    nothing = torch.zeros(2, 5, 3, 3, requires_grad=True)
    value = feature_distance(nothing, torch.zeros(2, 5, 3, 3), distance)
    value.backward()
    assert float(value.detach()) == 0
    assert nothing.grad is not None
    assert torch.isfinite(nothing.grad).all()


@pytest.mark.parametrize("distance", list(EXPECTED))
def test_feature_matching_is_the_weighted_sum_over_stages(distance: FeatureDistance) -> None:
    inputs = loss_inputs()
    found, target = stages(inputs.recon), stages(inputs.image)
    d = {name: EXPECTED[distance](found[name], target[name]) for name in found}
    teacher = TinyTeacher()
    all_stages = FeatureMatching(teacher, distance=distance)(inputs)
    torch.testing.assert_close(all_stages, (d["shallow"] + d["deep"]) / 2, rtol=1e-4, atol=1e-5)
    one = FeatureMatching(teacher, ["deep"], distance=distance)(inputs)
    torch.testing.assert_close(one, d["deep"], rtol=1e-4, atol=1e-5)
    weighted = FeatureMatching(teacher, ["deep", "shallow"], [0.2, 3.0], distance)(inputs)
    torch.testing.assert_close(weighted, 0.2 * d["deep"] + 3 * d["shallow"], rtol=1e-4, atol=1e-5)


def test_feature_matching_without_normalisation() -> None:
    inputs = loss_inputs()
    expected = F.mse_loss(stages(inputs.recon)["deep"], stages(inputs.image)["deep"])
    torch.testing.assert_close(FeatureMatching(TinyTeacher(), ["deep"], normalise=False)(inputs), expected)


def test_noisy_feature_matching_compares_the_noisy_reconstruction_with_the_original() -> None:
    inputs = loss_inputs()
    assert inputs.noisy_recon is not None
    expected = FeatureMatching(TinyTeacher())(replace(inputs, recon=inputs.noisy_recon))
    term = NoisyFeatureMatching(TinyTeacher())
    torch.testing.assert_close(term(inputs), expected)
    with pytest.raises(ConfigurationError, match="noisy_feature_matching needs noisy_recon"):
        term(replace(inputs, noisy_recon=None))


def test_targets_carry_no_gradient() -> None:
    inputs = loss_inputs()
    inputs.image.requires_grad_()
    for term in (FeatureMatching(TinyTeacher()), NoisyFeatureMatching(TinyTeacher()), FrozenFeatures(Maps("list"))):
        term(inputs).backward()
        assert inputs.image.grad is None


@pytest.mark.parametrize("form", ["tensor", "list", "tuple", "dict"])
def test_frozen_features_of_every_form(form: str) -> None:
    inputs = loss_inputs()
    d = {n: EXPECTED["mse"](stages(inputs.recon)[n], stages(inputs.image)[n]) for n in ("shallow", "deep")}
    expected = d["shallow"] if form == "tensor" else (d["shallow"] + d["deep"]) / 2
    torch.testing.assert_close(FrozenFeatures(Maps(form))(inputs), expected, rtol=1e-4, atol=1e-5)
    if form != "tensor":
        names = ["deep"] if form == "dict" else ["1"]
        chosen = FrozenFeatures(Maps(form), names, [5.0])(inputs)
        torch.testing.assert_close(chosen, 5 * d["deep"], rtol=1e-4, atol=1e-5)


def test_frozen_features_normalise_their_input() -> None:
    class Seen(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            self.image = image
            return image

    network, inputs = Seen(), loss_inputs()
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.25, 0.1]
    FrozenFeatures(network, mean=mean, std=std)(inputs)
    expected = ((inputs.recon + 1) / 2 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(network.image, expected)
    FrozenFeatures(network)(inputs)
    torch.testing.assert_close(network.image, inputs.recon, rtol=0, atol=0)


def test_classification_is_bce_over_known_labels() -> None:
    inputs = loss_inputs()
    assert inputs.target is not None
    assert inputs.known is not None
    teacher = TinyTeacher()
    term = TeacherClassification(teacher)
    logits = teacher(inputs.recon)
    expected = F.binary_cross_entropy_with_logits(logits[inputs.known], inputs.target[inputs.known])
    torch.testing.assert_close(term(inputs), expected)
    # A label that nobody knows changes nothing.
    flipped = torch.where(inputs.known, inputs.target, 1 - inputs.target)
    torch.testing.assert_close(term(replace(inputs, target=flipped)), expected)
    assert float(term(replace(inputs, known=torch.zeros_like(inputs.known)))) == 0


def test_what_cannot_be_compared_is_refused() -> None:
    inputs = loss_inputs()
    with pytest.raises(ConfigurationError, match=r"looked for the feature maps stage9 .* shows shallow, deep"):
        FeatureMatching(TinyTeacher(), ["stage9"])(inputs)
    with pytest.raises(ConfigurationError, match="Linear shows none"):
        FeatureMatching(nn.Linear(1, 1))
    with pytest.raises(ConfigurationError, match=r"Linear is no layerscope\.protocols\.Teacher"):
        TeacherClassification(nn.Linear(1, 1))
    with pytest.raises(ConfigurationError, match="1 weights for 2 stages"):
        FeatureMatching(TinyTeacher(), ["shallow", "deep"], [1.0])
    with pytest.raises(ConfigurationError, match="2 weights for all stages"):
        FeatureMatching(TinyTeacher(), None, [1.0, 1.0])
    with pytest.raises(ConfigurationError, match="stages of feature_matching is"):
        FeatureMatching(TinyTeacher(), ["deep", "deep"])
    with pytest.raises(ConfigurationError, match="gives 3 logits and the data has 2 labels"):
        TeacherClassification(TinyTeacher())(replace(inputs, target=torch.zeros(2, 2)))
    with pytest.raises(ConfigurationError, match=r"gave \{'0': .*\}: expected a tensor, list or dict"):
        FrozenFeatures(nn.Flatten(0))(inputs)
    with pytest.raises(ConfigurationError, match="three numbers each, or neither"):
        FrozenFeatures(Maps("list"), mean=[0.5, 0.5, 0.5])

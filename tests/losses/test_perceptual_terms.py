"""LPIPS through torchmetrics: its value, its gradient, and weights that are missing."""

from __future__ import annotations

import urllib.error
from pathlib import Path
from typing import Any

import pytest
import torch
from loss_stand_ins import loss_inputs
from torch import Tensor, nn
from torchmetrics.functional.image import learned_perceptual_image_patch_similarity
from torchvision.models import SqueezeNet1_1_Weights, squeezenet1_1

from layerscope.errors import ConfigurationError, WeightsError
from layerscope.losses import LPIPS


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch.hub's folder of weights, empty, on a machine without network."""

    def no_network(*args: Any, **kwargs: Any) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)
    return tmp_path / "hub" / "checkpoints"


def test_equals_torchmetrics_and_moves_the_reconstruction(cache: Path) -> None:
    cache.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(squeezenet1_1(weights=None).state_dict(), cache / Path(SqueezeNet1_1_Weights.DEFAULT.url).name)
    inputs = loss_inputs(side=64)
    clamped = inputs.recon.detach().clamp(-1, 1)
    inputs.recon = clamped.clone().requires_grad_()
    term = LPIPS("squeeze").train()
    value = term(inputs)
    expected = learned_perceptual_image_patch_similarity(clamped, inputs.image, net_type="squeeze")
    torch.testing.assert_close(value, expected)
    value.backward()
    assert inputs.recon.grad is not None
    assert (inputs.recon.grad != 0).float().mean() > 0.5
    # Values outside the range, which torchmetrics' own function refuses, are what decoders give.
    inputs.recon = (3 * clamped).requires_grad_()
    assert float(term(inputs)) > 0


def test_missing_weights_say_where_they_belong(cache: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        LPIPS("squeeze")
    told = str(caught.value)
    name = Path(SqueezeNet1_1_Weights.DEFAULT.url).name
    assert f"{cache / name}, which is not there" in told
    assert SqueezeNet1_1_Weights.DEFAULT.url in told
    assert "no network" in told


def test_damaged_weights_are_told_apart(cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / Path(SqueezeNet1_1_Weights.DEFAULT.url).name).write_bytes(b"half a download")
    with pytest.raises(WeightsError, match="is there but cannot be loaded"):
        LPIPS("squeeze")


def test_a_network_of_the_users_own() -> None:
    class Distance(nn.Module):
        def __init__(self, per_image: bool) -> None:
            super().__init__()
            self.per_image = per_image

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            elements = (a - b).abs()
            return elements.mean(dim=(1, 2, 3), keepdim=True) if self.per_image else elements

    inputs = loss_inputs()
    torch.testing.assert_close(LPIPS(network=Distance(True))(inputs), (inputs.recon - inputs.image).abs().mean())
    with pytest.raises(ConfigurationError, match="expected one distance per image"):
        LPIPS(network=Distance(False))(inputs)
    with pytest.raises(ConfigurationError, match="net of lpips is 'resnet'"):
        LPIPS("resnet")  # type: ignore[arg-type]

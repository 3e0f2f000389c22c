"""The timm backbone: the numbers of the model inside, layers that run, positions where the picture has them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from tiny_vits import SIZE, pictures
from tiny_vits import TIMM_VIT as VIT
from torchvision.transforms.v2.functional import normalize, resize
from watched_layers import matched, seen

from layerscope.errors import ConfigurationError, WeightsError
from layerscope.models.timm_backbone import TimmBackbone
from layerscope.protocols import GridLayers, NamedLayers
from layerscope.types import PositionGrid


@dataclass(frozen=True)
class Family:
    """A tiny model, the size (H, W) it takes (None: any), its mean, and its layers with their grids for 64 × 96.

    layers: name to channel dimension, prefix, rows and columns of the first and the last default layer.
    """

    name: str
    takes: tuple[int, int] | None
    mean: float
    count: int
    layers: dict[str, tuple[int, int, int, int]]
    kwargs: dict[str, Any] = field(default_factory=dict)


FAMILIES = {
    "cnn": Family("test_resnet", None, 0.5, 5, {"act1": (1, 0, 32, 48), "layer4": (1, 0, 2, 3)}),
    "convnext": Family("test_convnext", None, 0.5, 4, {"stages.0": (1, 0, 16, 24), "stages.3": (1, 0, 2, 3)}),
    "vit": Family(
        "vit_tiny_patch16_224",
        (64, 64),
        0.5,
        2,
        {"blocks.0": (2, 1, 4, 4), "blocks.1": (2, 1, 4, 4)},
        VIT | {"img_size": 64},
    ),
    "vit_any_size": Family("test_vit", None, 0.5, 6, {"blocks.0": (2, 1, 4, 6), "blocks.5": (2, 1, 4, 6)}),
    "vit_wide": Family(
        "vit_tiny_patch16_224",
        (32, 64),
        0.5,
        2,
        {"blocks.0": (2, 1, 2, 4), "blocks.1": (2, 1, 2, 4)},
        VIT | {"img_size": [32, 64]},
    ),
    "distilled": Family(
        "deit_tiny_distilled_patch16_224",
        (64, 64),
        0.485,
        2,
        {"blocks.0": (2, 2, 4, 4), "blocks.1": (2, 2, 4, 4)},
        VIT | {"img_size": 64},
    ),
    "registers": Family(
        "vit_small_patch14_reg4_dinov2",
        (56, 56),
        0.485,
        2,
        {"blocks.0": (2, 5, 4, 4), "blocks.1": (2, 5, 4, 4)},
        VIT | {"img_size": 56},
    ),
    "swin": Family(
        "swin_tiny_patch4_window7_224",
        (56, 56),
        0.485,
        4,
        {"layers.0": (3, 0, 14, 14), "layers.3": (3, 0, 2, 2)},
        {"img_size": 56, "depths": [1, 1, 1, 1], "embed_dim": 16, "num_heads": [1, 1, 2, 2]},
    ),
    "mambaout": Family("test_mambaout", None, 0.485, 4, {"stages.0": (3, 0, 16, 24), "stages.3": (3, 0, 2, 3)}),
    "nested_lists": Family(
        "twins_pcpvt_small",
        (64, 64),
        0.485,
        4,
        {"blocks.0.0": (2, 0, 16, 16), "blocks.3.0": (2, 0, 2, 2)},
        {"img_size": 64, "depths": [1] * 4, "embed_dims": [8, 8, 16, 16], "num_heads": [1, 1, 2, 2]},
    ),
}


@pytest.fixture(scope="module")
def backbones() -> dict[str, TimmBackbone]:
    return {
        key: TimmBackbone(one.name, model_kwargs=one.kwargs, seed=1).eval() for key, one in sorted(FAMILIES.items())
    }


@pytest.fixture(params=list(FAMILIES))
def case(request, backbones) -> tuple[Family, TimmBackbone]:
    return FAMILIES[request.param], backbones[request.param]


class TestFamilies:
    def test_satisfies_the_protocols(self, case):
        assert isinstance(case[1], NamedLayers)
        assert isinstance(case[1], GridLayers)
        assert case[1].layer_root is case[1].model

    def test_default_layers_run_once_and_say_where_their_positions_are(self, case):
        family, backbone = case
        names = matched(backbone.layer_root, backbone.default_layers)
        calls = seen(backbone.layer_root, names, lambda: backbone(pictures()))
        assert len(names) == family.count
        assert [names[0], names[-1]] == list(family.layers)
        for name, outputs in calls.items():
            assert len(outputs) == 1
            shape = tuple(outputs[0].shape)
            grid = backbone.position_grid(shape, SIZE)
            if name in family.layers:
                assert grid == PositionGrid(*family.layers[name])
            positions = [side for dim, side in enumerate(shape) if dim not in (0, grid.channel_dim)]
            assert torch.tensor(positions).prod() == grid.prefix + grid.rows * grid.columns

    @torch.no_grad()
    def test_numbers_are_those_of_the_model(self, case):
        family, backbone = case
        mean, std = ([0.5] * 3, [0.5] * 3)
        if family.mean != 0.5:
            mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
        image = pictures() / 2 + 0.5
        if family.takes is not None:
            image = resize(image, list(family.takes), antialias=True)
        image = normalize(image, mean, std)
        plain = timm.create_model(family.name, num_classes=0, **family.kwargs).eval()
        plain.load_state_dict(backbone.model.state_dict())
        torch.testing.assert_close(backbone.normalise(pictures()), image, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(backbone(pictures()), plain(image), atol=1e-4, rtol=1e-4)

    @pytest.mark.parametrize(("row", "column"), [(0, 0), (1, 0), (0, 1), (1, 1)])
    def test_a_change_is_largest_at_its_position(self, case, row, column):
        """The middle of one quarter of the picture changes."""
        family, backbone = case
        image = pictures(count=1)
        other = image.clone()
        area = (slice(row * 32 + 12, row * 32 + 20), slice(column * 48 + 18, column * 48 + 30))
        other[..., area[0], area[1]] *= -1
        name = next(iter(family.layers))
        output = seen(backbone.layer_root, [name], lambda: backbone(torch.cat([image, other])))[name][0]
        grid = backbone.position_grid(tuple(output.shape), SIZE)
        difference = (output[0] - output[1]).norm(dim=grid.channel_dim - 1).flatten()[grid.prefix :]
        at = divmod(int(difference.argmax()), grid.columns)
        assert (at[0] * 2 // grid.rows, at[1] * 2 // grid.columns) == (row, column)


class TestPositions:
    def test_patches_before_the_prefix_is_added(self, backbones):
        vit = backbones["vit_any_size"]
        assert vit.position_grid((2, 24, 64), SIZE) == PositionGrid(2, 0, 4, 6)
        assert vit.position_grid((2, 64, 4, 6), SIZE) == PositionGrid(1, 0, 4, 6)

    def test_what_has_no_positions(self, backbones):
        vit = backbones["vit_any_size"]
        assert vit.position_grid((2, 26, 64), SIZE) is None
        assert vit.position_grid((2, 64), SIZE) is None
        assert vit.position_grid((2, 2, 25, 25), SIZE) is None  # attention weights
        swin = backbones["swin"]
        assert swin.position_grid((8, 49, 16), SIZE) is None  # windows
        assert swin.position_grid((2, 16, 14, 14), SIZE) == PositionGrid(1, 0, 14, 14)  # the first convolution

    def test_tokens_in_another_order(self):
        hiera = TimmBackbone(
            "hiera_tiny_224", model_kwargs={"img_size": 64, "embed_dim": 8, "num_heads": 1, "stages": [1, 1, 1, 1]}
        )
        assert hiera.position_grid((2, 256, 8), SIZE) is None

    def test_linear_layers_of_a_cnn(self, backbones):
        assert backbones["convnext"].position_grid((2, 16, 24, 96), SIZE) == PositionGrid(3, 0, 16, 24)

    def test_sizes_that_do_not_divide(self, backbones):
        """A ViT of any size gets the nearest multiple of its patches; a CNN gets the picture as it is."""
        odd = pictures(70, 90)
        assert backbones["vit_any_size"].normalise(odd).shape[-2:] == (64, 96)
        assert backbones["vit_any_size"].position_grid((2, 25, 64), (70, 90)) == PositionGrid(2, 1, 4, 6)
        assert backbones["cnn"].normalise(odd).shape[-2:] == (70, 90)
        assert backbones["vit_any_size"].normalise(pictures(5, 40)).shape[-2:] == (16, 48)


class TestImageSize:
    @torch.no_grad()
    def test_a_fixed_model_is_adapted_with_its_weights(self, tmp_path):
        plain = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32, **VIT).eval()
        save_file(plain.state_dict(), tmp_path / "vit.safetensors")
        backbone = TimmBackbone(
            "vit_tiny_patch16_224",
            checkpoint=str(tmp_path / "vit.safetensors"),
            model_kwargs=VIT | {"img_size": 32},
            image_size=64,
        ).eval()
        plain.set_input_size(img_size=(64, 64))
        torch.testing.assert_close(backbone(pictures(64, 64)), plain(pictures(64, 64)), atol=1e-5, rtol=0)
        assert backbone.position_grid((2, 17, 32), SIZE) == PositionGrid(2, 1, 4, 4)

    def test_any_other_resizes_to_it(self):
        backbone = TimmBackbone("test_resnet", image_size=32)
        assert backbone.normalise(pictures()).shape == (2, 3, 32, 32)
        assert backbone.position_grid((2, 32, 16, 16), SIZE) == PositionGrid(1, 0, 16, 16)

    def test_a_size_that_the_model_cannot_have(self):
        with pytest.raises(ConfigurationError, match=r"mixer_s32_224 cannot be adapted to an image_size of 64"):
            TimmBackbone("mixer_s32_224", image_size=64)
        with pytest.raises(
            ConfigurationError, match=r"60 is no multiple of the patches of timm's vit_tiny_patch16_224, 16 × 16"
        ):
            TimmBackbone("vit_tiny_patch16_224", model_kwargs=VIT, image_size=60)


class TestWeights:
    def test_random_weights_follow_the_seed(self):
        states = [TimmBackbone("test_resnet", seed=seed).model.state_dict() for seed in (3, 3, 4)]
        name = "layer1.0.conv1.weight"
        assert torch.equal(states[0][name], states[1][name])
        assert not torch.equal(states[0][name], states[2][name])

    @pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_vit"])
    @pytest.mark.parametrize("prefix", ["", "model."])
    def test_a_classifiers_checkpoint_leaves_its_head_out(self, tmp_path, name, prefix):
        trained = timm.create_model(name, num_classes=7).state_dict()
        save_file({prefix + key: value for key, value in trained.items()}, tmp_path / "w.safetensors")
        loaded = TimmBackbone(name, checkpoint=str(tmp_path / "w.safetensors")).model.state_dict()
        assert all(torch.equal(value, trained[key]) for key, value in loaded.items())

    def test_missing_unexpected_and_other_shapes(self, tmp_path):
        trained = timm.create_model("test_resnet", num_classes=7).state_dict()
        conv = "layer1.0.conv1.weight"
        for tensors, said in (
            ({key: value for key, value in trained.items() if key != conv}, f"Missing: {conv}"),
            (trained | {"layer1.stranger": torch.ones(1)}, "Unexpected: layer1.stranger"),
            (trained | {conv: torch.ones(2)}, f"Of another shape: {conv}"),
        ):
            torch.save(tensors, tmp_path / "w.pt")
            with pytest.raises(WeightsError, match=rf"backbone's checkpoint .*w\.pt does not fit.*{said}"):
                TimmBackbone("test_resnet", checkpoint=str(tmp_path / "w.pt"))

    def test_pretrained_without_network(self, monkeypatch):
        def offline(*_, **__):
            raise OSError("no route to host")

        monkeypatch.setattr(timm, "create_model", offline)
        with pytest.raises(WeightsError, match=r"no route to host.*give it as checkpoint"):
            TimmBackbone("test_resnet", pretrained=True)


def test_bad_arguments():
    for arguments, said in (
        ({"name": "test_resnot"}, "Did you mean test_resnet"),
        ({"image_size": 0}, "image_size is 0"),
        ({"model_kwargs": {"num_classes": 3}}, "a backbone has no classifier"),
        ({"model_kwargs": {"chanels": 3}}, "cannot build test_resnet"),
        ({"checkpoint": "a.pt", "pretrained": True}, "give one of them"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            TimmBackbone(**{"name": "test_resnet", **arguments})
    with pytest.raises(ConfigurationError, match=r"\(B, 3, H, W\) and was given \(1, 1, 8, 8\)"):
        TimmBackbone("test_resnet")(torch.zeros(1, 1, 8, 8))

"""Tokens of timm's vision transformers: the library's own numbers, what each token is, sizes, pooling, refusals."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file
from tiny_vits import TIMM_VIT, pictures
from token_stand_ins import changed, first_block_input, moved_tokens
from torch import nn
from torchvision.transforms.v2.functional import normalize
from watched_layers import seen

from layerscope.errors import ConfigurationError, WeightsError
from layerscope.models.timm_tokens import TimmTokens
from layerscope.models.token_encoding import check_tokens
from layerscope.protocols import PooledTokens, TextAligned, TokenEncoder
from layerscope.types import InputGeometry, PositionGrid, TokenLayout

CLS, REGISTERS = ("cls",), ("register",) * 4
MEAN, HEAD = "mean of the patches", "attention pooling head"
PARAMETERS = {"cls": "cls_token", "distillation": "dist_token", "register": "reg_token"}


@dataclass(frozen=True)
class Family:
    """A tiny model, the tokens before its patches, its patch, what norms its tokens and what pools them."""

    name: str
    prefix: tuple[str, ...]
    patch: int = 16
    norm: str | None = "norm"
    pooled_by: str | None = None
    kwargs: dict[str, Any] = field(default_factory=lambda: TIMM_VIT)
    any_size: bool = True
    convolutions: bool = False

    @property
    def sizes(self) -> list[tuple[int, int]]:
        return [(2 * self.patch, 2 * self.patch), (2 * self.patch, 5 * self.patch)]


ROPE = TIMM_VIT | {"embed_dim": 64}
FAMILIES = {
    "test_vit": Family("test_vit", CLS, kwargs={}),
    "vit": Family("vit_tiny_patch16_224", CLS),
    "distilled": Family("deit_tiny_distilled_patch16_224", (*CLS, "distillation")),
    "clip": Family("vit_base_patch16_clip_224", CLS),
    "siglip": Family("vit_base_patch16_siglip_224", (), pooled_by=HEAD),
    "siglip_gap": Family("vit_base_patch16_siglip_gap_224", (), pooled_by=MEAN),
    "dinov2": Family("vit_small_patch14_reg4_dinov2", CLS + REGISTERS, 14, kwargs=TIMM_VIT | {"img_size": 56}),
    "registers_alone": Family("vit_medium_patch16_reg4_gap_256", REGISTERS, norm=None, pooled_by=MEAN),
    "eva02": Family("eva02_tiny_patch14_224", CLS, 14, None, MEAN),
    "dinov3": Family("vit_small_patch16_dinov3", CLS + REGISTERS, pooled_by=MEAN, kwargs=ROPE),
    "rope_mixed": Family("vit_small_patch16_rope_mixed_224", CLS, kwargs=ROPE),
    "beit": Family("beit_base_patch16_224", CLS, norm=None, pooled_by=MEAN, any_size=False),
    "relative": Family("vit_relpos_base_patch16_224", (), norm=None, pooled_by=MEAN, any_size=False),
    "hybrid": Family("vit_tiny_r_s16_p8_224", CLS, 32, convolutions=True),
}


WAYS = [
    (name, way)
    for name, family in FAMILIES.items()
    for way in ("square", "wide", "whole")
    if family.any_size or way != "whole"
]


def built(family: Family, **arguments: Any) -> TimmTokens:
    return TimmTokens(family.name, model_kwargs=family.kwargs, seed=1, **arguments).eval()


@pytest.fixture(scope="module")
def encoders() -> dict[str, TimmTokens]:
    """At a size of their own that is small and not square."""
    return {key: built(one, image_size=list(one.sizes[1])) for key, one in FAMILIES.items()}


@pytest.fixture(params=list(FAMILIES))
def case(request, encoders) -> tuple[Family, TimmTokens]:
    return FAMILIES[request.param], encoders[request.param]


def expected_blocks(family: Family, encoder: TimmTokens, size: tuple[int, int]) -> tuple[list[torch.Tensor], Any]:
    """All tokens after each block of a plain timm model of the same seed, and the model, brought to a size by timm."""
    torch.manual_seed(1)
    plain = timm.create_model(family.name, num_classes=0, **family.kwargs).eval()
    if not getattr(plain, "dynamic_img_size", False):
        plain.set_input_size(img_size=size)
    config = timm.data.resolve_model_data_config(plain)
    pixels = normalize(pictures(*size) / 2 + 0.5, config["mean"], config["std"])
    outputs: list[torch.Tensor] = []
    for block in plain.blocks:
        block.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    return outputs, (plain, plain.forward_features(pixels), plain(pixels))


class TestFamilies:
    def test_satisfies_the_protocols(self, case):
        assert isinstance(case[1], TokenEncoder)
        assert isinstance(case[1], PooledTokens)
        assert isinstance(case[1], TextAligned)

    def test_layout_and_norm(self, case):
        family, encoder = case
        assert encoder.token_layout(family.sizes[1]) == TokenLayout(family.prefix, 2, 5)
        count = len(family.prefix)
        assert encoder.position_grid((1, count + 10, 8), family.sizes[1]) == PositionGrid(2, count, 2, 5)
        assert (encoder.final_norm_name, encoder.pooled_by) == (family.norm, family.pooled_by)

    @pytest.mark.parametrize(("name", "way"), WAYS)
    @torch.no_grad()
    def test_blocks_give_the_librarys_numbers(self, encoders, name, way):
        """Adapted to a size once, or at each image."""
        family, encoder = FAMILIES[name], encoders[name]
        size = family.sizes[way != "square"]
        if way == "square":
            encoder = built(family, image_size=size[0])
        elif way == "whole":
            encoder = built(family, fit="whole")
        blocks, (_, last, pooled) = expected_blocks(family, encoder, size)
        image = pictures(*size)
        calls = seen(encoder.layer_root, list(encoder.default_layers), lambda: encoder(image))
        assert list(calls) == [f"blocks.{i}" for i in range(len(encoder.model.blocks))]
        for outputs, block in zip(calls.values(), blocks, strict=False):
            torch.testing.assert_close(outputs[0], block, atol=1e-5, rtol=1e-5)
            check_tokens(tuple(outputs[0].shape), encoder.token_layout(size), "a block")
        normed = encoder.final_norm(calls[encoder.default_layers[-1]][0])
        torch.testing.assert_close(normed, last, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(encoder(image), last, atol=1e-5, rtol=1e-5)
        if family.pooled_by is not None:
            torch.testing.assert_close(encoder.pool(normed), pooled, atol=1e-5, rtol=1e-5)

    def test_the_prefix_is_where_its_parameters_go(self, case):
        family, encoder = case
        places = {
            kind: moved_tokens(encoder, getattr(encoder.model, PARAMETERS[kind]), pictures(*family.sizes[1]))
            for kind in set(family.prefix)
        }
        assert places == {kind: [i for i, one in enumerate(family.prefix) if one == kind] for kind in family.prefix}

    def test_patches_stand_row_by_row(self, case):
        family, encoder = case
        image = pictures(*family.sizes[1], count=1)
        other = image.clone()
        other[..., family.patch :, 3 * family.patch : 4 * family.patch] *= -1
        before, after = first_block_input(encoder, image), first_block_input(encoder, other)
        if family.convolutions:  # they see beyond the patch
            assert int((before - after).norm(dim=2).argmax()) == len(family.prefix) + 5 + 3
        else:
            assert changed(before, after) == [len(family.prefix) + 5 + 3]

    @torch.no_grad()
    def test_half_precision(self, case):
        family, encoder = case[0], copy.deepcopy(case[1]).to(torch.bfloat16)
        tokens = encoder(pictures(*family.sizes[1]))
        assert tokens.dtype == encoder.final_norm(tokens).dtype == torch.bfloat16


class TestSizes:
    def test_pictures_are_taken_as_timm_says(self):
        patch = {"smallest": (16, 16), "crop_rounding": "even"}
        assert built(FAMILIES["clip"]).input_geometry == InputGeometry(235, (224, 224), **patch)
        assert built(FAMILIES["clip"], image_size=336).input_geometry == InputGeometry(353, (336, 336), **patch)
        small = {"smallest": (14, 14), "crop_rounding": "even"}
        assert built(FAMILIES["dinov2"]).input_geometry == InputGeometry(56, (56, 56), **small)

    def test_other_fits(self):
        family = FAMILIES["vit"]
        assert built(family, image_size=[32, 64], fit="stretch").input_geometry.resize == (32, 64)
        assert built(family, image_size=32, fit="crop").input_geometry == InputGeometry(32, (32, 32), smallest=(16, 16))
        whole = InputGeometry(48, step=(16, 16), smallest=(16, 16))
        assert built(family, image_size=48, fit="whole").input_geometry == whole

    @torch.no_grad()
    def test_a_size_that_its_own_patches_do_not_fill(self):
        """384 pixels and patches of 14: timm leaves the last six out."""
        arguments = {"model_kwargs": TIMM_VIT, "seed": 1}
        encoder = TimmTokens("vit_so400m_patch14_siglip_384", **arguments).eval()
        assert encoder.token_layout((384, 384)) == TokenLayout((), 27, 27, (378, 378))
        assert encoder(pictures(384, 384, count=1)).shape == (1, 729, 32)
        whole = TimmTokens("vit_so400m_patch14_siglip_384", fit="whole", **arguments)
        assert whole.input_geometry == InputGeometry(378, step=(14, 14), smallest=(14, 14))

    def test_sizes_that_it_does_not_take(self, encoders):
        with pytest.raises(ConfigurationError, match=r"vit_tiny.* takes images of 32 × 80 pixels .* only .*32 × 32"):
            encoders["vit"](pictures(32, 32))
        with pytest.raises(ConfigurationError, match=r"no multiple of the model's patches of 16 × 16.*widths 32 or 48"):
            encoders["test_vit"](pictures(32, 40))
        with pytest.raises(ConfigurationError, match="smaller than a patch of the test_vit of timm, 16 × 16"):
            encoders["test_vit"].token_layout((8, 32))
        with pytest.raises(ConfigurationError, match="nearest heights are 96 or 112"):
            built(FAMILIES["vit"], image_size=100)
        with pytest.raises(ConfigurationError, match=r"beit.* takes images of one size only.*crop or stretch"):
            built(FAMILIES["beit"], fit="whole")

    @torch.no_grad()
    def test_weights_of_a_file_are_adapted_after_loading(self, tmp_path):
        family = FAMILIES["vit"]
        trained = timm.create_model(family.name, num_classes=3, **family.kwargs).eval()
        save_file(trained.state_dict(), tmp_path / "w.safetensors")
        encoder = TimmTokens(
            family.name, checkpoint=str(tmp_path / "w.safetensors"), model_kwargs=TIMM_VIT, image_size=[32, 48]
        ).eval()
        trained.set_input_size(img_size=(32, 48))
        expected = trained.forward_features(pictures(32, 48))
        torch.testing.assert_close(encoder(pictures(32, 48)), expected, atol=1e-6, rtol=0)
        assert encoder.source_name == f"{family.name}, {tmp_path / 'w.safetensors'}"


class TestRefusals:
    @pytest.mark.parametrize(
        "name", ["test_resnet", "test_convnext", "swin_tiny_patch4_window7_224", "pvt_v2_b0", "hiera_tiny_224"]
    )
    def test_models_that_are_no_plain_vision_transformer(self, name):
        with pytest.raises(ConfigurationError, match=rf"{name} is a \w+\. Token encoders .*`layerscope pair`"):
            TimmTokens(name)

    def test_nothing_to_pool_with(self, encoders):
        with pytest.raises(ConfigurationError, match="its CLS token stands for the image"):
            encoders["clip"].pool(torch.zeros(1, 11, 32))

    def test_no_text_tower(self, encoders):
        for call in (
            lambda: encoders["clip"].embed_text("cat"),
            lambda: encoders["clip"].project(torch.zeros(1, 1, 32)),
        ):
            with pytest.raises(ConfigurationError, match=r"no text tower .*TransformersTokens"):
                call()

    def test_a_hub_id_without_network(self, monkeypatch):
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        for arguments, said in (({"pretrained": True}, "give it as checkpoint"), ({}, r"as local-dir:PATH a folder")):
            with pytest.raises(WeightsError, match=rf"hf-hub:somebody/some-vit.*Without network, .*{said}"):
                TimmTokens("hf-hub:somebody/some-vit", **arguments)

    def test_a_prefix_that_contradicts_its_parameters(self, monkeypatch):
        created = timm.create_model

        def odd(*arguments, **keywords):
            model = created(*arguments, **keywords)
            model.reg_token = nn.Parameter(torch.zeros(1, 2, 64))
            return model

        monkeypatch.setattr(timm, "create_model", odd)
        with pytest.raises(ConfigurationError, match="states 1 tokens before its patches and has parameters for 3"):
            TimmTokens("test_vit")

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ({"name": "test_vot"}, "Did you mean test_vit"),
            ({"model_kwargs": {"dpth": 3}}, "cannot build test_vit"),
            ({"model_kwargs": {"dpth": 3}, "fit": "whole"}, "cannot build test_vit"),
            ({"fit": "fill"}, "fit is 'fill'"),
        ],
    )
    def test_bad_arguments(self, arguments, said):
        with pytest.raises(ConfigurationError, match=said):
            TimmTokens(**{"name": "test_vit", **arguments})

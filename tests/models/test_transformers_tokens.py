"""Tokens of transformers: the library's own numbers, what each token is, sizes, texts, refusals."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_vits import TOWER, VIT, WORDS, pictures, write_whole_clip
from token_stand_ins import changed, first_block_input, moved_tokens
from torchvision.transforms.v2.functional import normalize
from watched_layers import seen

from layerscope.errors import ConfigurationError, WeightsError
from layerscope.models.token_encoding import check_tokens
from layerscope.models.transformers_tokens import TransformersTokens
from layerscope.protocols import PooledTokens, TextAligned, TokenEncoder
from layerscope.types import InputGeometry, PositionGrid, TokenLayout

CLS, REGISTERS = ("cls",), ("register",) * 4
SIZES = [(32, 32), (64, 32), (40, 72)]
CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
HALF = ([0.5] * 3, [0.5] * 3)


@dataclass(frozen=True)
class Family:
    """A tiny model: its config, the tokens before its patches, how it takes pictures, its mean and std.

    normed: whether transformers norms its last_hidden_state. asked: whether interpolation has to be asked for.
    parameters: of its prefix, in the embeddings.
    """

    config: dict[str, Any]
    prefix: tuple[str, ...]
    geometry: InputGeometry
    values: tuple[list[float], list[float]]
    normed: bool = True
    asked: bool = True
    parameters: tuple[str, ...] = ("cls_token",)
    kind: dict[str, Any] = field(default_factory=dict)


def cropped(resize: Any = 32) -> InputGeometry:
    return InputGeometry(resize, (32, 32), smallest=(8, 8))


def stretched(resize_filter: Any) -> InputGeometry:
    return InputGeometry((32, 32), resize_filter=resize_filter, smallest=(8, 8))


def clip(model_type: str, **more: Any) -> Family:
    return Family(
        {"model_type": model_type} | VIT, CLS, cropped(), CLIP, False, parameters=("class_embedding",), **more
    )


DINO = TOWER | {"image_size": 32}
FAMILIES = {
    "clip": clip("clip_vision_model"),
    "chinese_clip": clip("chinese_clip_vision_model"),
    "altclip": clip("altclip_vision_model", kind={"model_class": "AltCLIPVisionModel"}),
    "metaclip_2": clip("metaclip_2_vision_model", kind={"model_class": "MetaClip2VisionModel"}),
    "siglip": Family({"model_type": "siglip_vision_model"} | VIT, (), stretched("bicubic"), HALF, parameters=()),
    "vit": Family({"model_type": "vit"} | VIT, CLS, stretched("bilinear"), HALF),
    "vit_msn": Family({"model_type": "vit_msn"} | VIT, CLS, stretched("bilinear"), HALF),
    "ijepa": Family({"model_type": "ijepa"} | VIT, (), stretched("bilinear"), IMAGENET, parameters=()),
    "deit": Family(
        {"model_type": "deit"} | VIT,
        ("cls", "distillation"),
        cropped((36, 36)),
        IMAGENET,
        parameters=("cls_token", "distillation_token"),
    ),
    "dinov2": Family({"model_type": "dinov2"} | DINO, CLS, cropped(), IMAGENET, asked=False),
    "dinov2_with_registers": Family(
        {"model_type": "dinov2_with_registers", "num_register_tokens": 4} | DINO,
        CLS + REGISTERS,
        cropped(),
        IMAGENET,
        asked=False,
        parameters=("cls_token", "register_tokens"),
    ),
    "dinov3": Family(
        {"model_type": "dinov3_vit", "num_register_tokens": 4, "intermediate_size": 64} | DINO,
        CLS + REGISTERS,
        stretched("bilinear"),
        IMAGENET,
        asked=False,
        parameters=("cls_token", "register_tokens"),
    ),
}


@pytest.fixture(scope="module")
def encoders() -> dict[str, TransformersTokens]:
    return {key: TransformersTokens(config=one.config, seed=1, **one.kind).eval() for key, one in FAMILIES.items()}


@pytest.fixture(params=list(FAMILIES))
def case(request, encoders) -> tuple[Family, TransformersTokens]:
    return FAMILIES[request.param], encoders[request.param]


class TestFamilies:
    def test_satisfies_the_protocols(self, case):
        assert isinstance(case[1], TokenEncoder)
        assert isinstance(case[1], PooledTokens)
        assert isinstance(case[1], TextAligned)

    def test_pictures_are_taken_as_by_the_familys_processor(self, case):
        assert case[1].input_geometry == case[0].geometry

    def test_layout(self, case):
        family, encoder = case
        assert encoder.token_layout((40, 72)) == TokenLayout(family.prefix, 5, 9)
        count = len(family.prefix)
        assert encoder.position_grid((1, count + 45, 32), (40, 72)) == PositionGrid(2, count, 5, 9)

    @pytest.mark.parametrize("size", SIZES)
    @torch.no_grad()
    def test_blocks_give_the_librarys_hidden_states(self, case, size):
        family, encoder = case
        image = pictures(*size)
        plain = type(encoder.model)(encoder.model.config).eval()
        plain.load_state_dict(encoder.model.state_dict(), strict=False)  # a pooler that nothing here depends on
        asked = {"interpolate_pos_encoding": True} if family.asked and size != (32, 32) else {}
        pixels = normalize(image / 2 + 0.5, *family.values)
        expected = plain(pixel_values=pixels, output_hidden_states=True, **asked)
        calls = seen(encoder.layer_root, list(encoder.default_layers), lambda: encoder(image))
        assert len(calls) == 2
        for outputs, hidden in zip(calls.values(), expected.hidden_states[1:], strict=True):
            torch.testing.assert_close(outputs[0], hidden, atol=1e-5, rtol=1e-5)
            check_tokens(tuple(outputs[0].shape), encoder.token_layout(size), "a block")
        last = calls[encoder.default_layers[-1]][0]
        normed = encoder.final_norm(last)
        torch.testing.assert_close(normed if family.normed else last, expected.last_hidden_state, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(encoder(image), expected.last_hidden_state, atol=1e-5, rtol=1e-5)
        if not family.normed:
            torch.testing.assert_close(normed[:, 0], expected.pooler_output, atol=1e-5, rtol=1e-5)
            assert not torch.allclose(normed, last, atol=1e-2)

    def test_the_prefix_is_where_its_parameters_go(self, case):
        family, encoder = case
        places = {}
        for name in family.parameters:
            kind = {"class_embedding": "cls"}.get(name, name.removesuffix("s").removesuffix("_token"))
            (parameter,) = (value for key, value in encoder.model.named_parameters() if key.split(".")[-1] == name)
            places[kind] = moved_tokens(encoder, parameter, pictures(32, 32))
        expected = {kind: [i for i, one in enumerate(family.prefix) if one == kind] for kind in family.prefix}
        assert places == expected

    def test_patches_stand_row_by_row(self, case):
        family, encoder = case
        image = pictures(40, 72, count=1)
        other = image.clone()
        other[..., 16:24, 48:56] *= -1
        at = changed(first_block_input(encoder, image), first_block_input(encoder, other))
        assert at == [len(family.prefix) + 2 * 9 + 6]

    @torch.no_grad()
    def test_half_precision(self, case):
        encoder = copy.deepcopy(case[1]).to(torch.bfloat16)
        tokens = encoder(pictures(40, 72))
        assert tokens.dtype == encoder.final_norm(tokens).dtype == torch.bfloat16


class TestSizes:
    def test_sizes_that_are_asked_for(self):
        config = FAMILIES["clip"].config
        for arguments, geometry in (
            ({"image_size": 64}, InputGeometry(64, (64, 64), smallest=(8, 8))),
            ({"image_size": [32, 64]}, InputGeometry(64, (32, 64), smallest=(8, 8))),
            ({"image_size": [32, 64], "fit": "stretch"}, InputGeometry((32, 64), smallest=(8, 8))),
            ({"image_size": 48, "fit": "whole"}, InputGeometry(48, step=(8, 8), smallest=(8, 8))),
        ):
            assert TransformersTokens(config=config, **arguments).input_geometry == geometry

    def test_images_that_the_model_does_not_take(self, encoders):
        vit = encoders["vit"]
        for size, said in (
            ((40, 33), "no multiple of the model's patches of 8 × 8.*widths 32 or 40"),
            ((4, 32), "4 × 32 pixels .* smaller than a patch of the ViTModel"),
        ):
            for call in (lambda size=size: vit(pictures(*size)), lambda size=size: vit.token_layout(size)):
                with pytest.raises(ConfigurationError, match=said):
                    call()
        with pytest.raises(ConfigurationError, match=r"\(B, 3, H, W\) and was given \(3, 32, 32\)"):
            vit(pictures(32, 32)[0])
        with pytest.raises(ConfigurationError, match="image_size of 33 × 33 pixels"):
            TransformersTokens(config=FAMILIES["vit"].config, image_size=33)

    def test_positions_that_transformers_does_not_interpolate(self):
        wide = FAMILIES["vit"].config | {"image_size": [32, 64]}
        encoder = TransformersTokens(config=wide, seed=1)
        assert encoder.input_geometry.resize == (32, 64)
        assert encoder(pictures(32, 64)).shape == (2, 33, 32)
        with pytest.raises(ConfigurationError, match=r"takes images of 32 × 64 pixels .* only .* 64 × 64"):
            encoder(pictures(64, 64))
        with pytest.raises(ConfigurationError, match=r"takes images of 32 × 64 pixels .* only .* 64 × 64"):
            TransformersTokens(config=wide, image_size=64)
        with pytest.raises(ConfigurationError, match="gives every picture a size of its own"):
            TransformersTokens(config=wide, fit="whole")

    @torch.no_grad()
    def test_a_size_that_its_own_patches_do_not_fill(self):
        """As SigLIP's 384 with patches of 14: the last pixels are not seen."""
        encoder = TransformersTokens(config=FAMILIES["siglip"].config | {"image_size": 36}, seed=1).eval()
        assert encoder.input_geometry.resize == (36, 36)
        assert encoder.token_layout((36, 36)) == TokenLayout((), 4, 4, (32, 32))
        assert encoder(pictures(36, 36)).shape == (2, 16, 32)
        with pytest.raises(ConfigurationError, match="no multiple"):
            encoder(pictures(36, 32))


class TestPooling:
    @torch.no_grad()
    def test_siglip_pools_as_transformers_does(self, encoders):
        siglip = encoders["siglip"]
        expected = siglip.model(siglip.normalise(pictures(32, 32))).pooler_output
        assert siglip.pooled_by == "attention pooling head"
        torch.testing.assert_close(siglip.pool(siglip(pictures(32, 32))), expected, atol=1e-6, rtol=0)

    @pytest.mark.parametrize(("name", "said"), [("clip", "its CLS token stands"), ("ijepa", "ends with its patch")])
    def test_others_say_that_they_have_nothing_to_pool_with(self, encoders, name, said):
        assert encoders[name].pooled_by is None
        with pytest.raises(ConfigurationError, match=said):
            encoders[name].pool(torch.zeros(1, 17, 32))

    def test_siglip_without_head(self):
        config = FAMILIES["siglip"].config | {"vision_use_head": False}
        assert TransformersTokens(config=config).pooled_by is None


@pytest.fixture(scope="module")
def whole_clip(tmp_path_factory) -> Path:
    """A CLIP with text tower, tokenizer and processor, as their folders look."""
    return write_whole_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def spoilt(whole_clip, tmp_path) -> Path:
    """A copy that tests may spoil."""
    for file in whole_clip.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


class TestFolders:
    @torch.no_grad()
    def test_the_vision_tower_of_a_whole_clip(self, whole_clip):
        encoder = TransformersTokens(source=str(whole_clip)).eval()
        whole = transformers.CLIPModel.from_pretrained(whole_clip).eval()
        assert encoder.input_geometry == InputGeometry(36, (32, 32), smallest=(8, 8))
        assert encoder.source_name == str(whole_clip)
        x = encoder.normalise(pictures(64, 32))
        expected = whole.vision_model(pixel_values=x, interpolate_pos_encoding=True).last_hidden_state
        torch.testing.assert_close(encoder(pictures(64, 32)), expected, atol=1e-6, rtol=0)

    @pytest.mark.parametrize(
        ("name", "processor"),
        [
            ("siglip", transformers.SiglipImageProcessor(size={"height": 40, "width": 40})),
            ("deit", transformers.DeiTImageProcessor(size={"height": 46, "width": 46}, crop_size=40)),
            ("dinov2_with_registers", transformers.BitImageProcessor(size={"shortest_edge": 46}, crop_size=40)),
            ("dinov3", transformers.DINOv3ViTImageProcessor(size={"height": 40, "width": 40})),
        ],
    )
    @torch.no_grad()
    def test_models_and_processors_as_transformers_saves_them(self, encoders, tmp_path, name, processor):
        encoders[name].model.save_pretrained(tmp_path)
        processor.save_pretrained(tmp_path)
        loaded = TransformersTokens(source=str(tmp_path)).eval()
        pixels = processor(pictures(50, 70, 1)[0] / 2 + 0.5, do_rescale=False, do_normalize=False, return_tensors="pt")
        image = pixels.pixel_values * 2 - 1
        assert (loaded.input_geometry.crop or loaded.input_geometry.resize) == image.shape[-2:] == (40, 40)
        assert loaded.normalisation == "processor"
        expected = normalize(pixels.pixel_values, processor.image_mean, processor.image_std)
        torch.testing.assert_close(loaded.normalise(image), expected, atol=1e-5, rtol=0)
        extra = {"interpolate_pos_encoding": True} if FAMILIES[name].asked else {}
        last = encoders[name].model(pixel_values=expected, **extra).last_hidden_state
        torch.testing.assert_close(loaded(image), last, atol=1e-5, rtol=1e-5)

    def test_without_a_processor_it_says_how_pictures_are_taken(self, spoilt):
        (spoilt / "preprocessor_config.json").unlink()
        with (
            pytest.warns(UserWarning, match="mean and std are those of the family"),
            pytest.warns(UserWarning, match="resized and cropped as the CLIPImageProcessor does"),
        ):
            encoder = TransformersTokens(source=str(spoilt))
        assert encoder.input_geometry == cropped()

    def test_hub_id_without_network(self, monkeypatch):
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(WeightsError, match=r"somebody/some-clip is no folder.*copy the folder here and set source"):
            TransformersTokens(source="somebody/some-clip")


class TestTexts:
    @torch.no_grad()
    def test_a_text_is_clips_text_features(self, whole_clip):
        encoder = TransformersTokens(source=str(whole_clip)).eval()
        whole = transformers.CLIPModel.from_pretrained(whole_clip).eval()
        # <|startoftext|> a cat <|endoftext|>
        expected = whole.get_text_features(input_ids=torch.tensor([[6, 0, 1, 7]])).pooler_output[0]
        assert torch.equal(encoder.embed_text("A cat"), expected)
        assert encoder.embed_text("cat").shape == (12,)

    @torch.no_grad()
    def test_tokens_are_projected_as_clip_does_with_its_cls(self, whole_clip):
        encoder = TransformersTokens(source=str(whole_clip)).eval()
        whole = transformers.CLIPModel.from_pretrained(whole_clip).eval()
        pixels = encoder.normalise(pictures(32, 32))
        projected = encoder.project(encoder.final_norm(encoder(pictures(32, 32))))
        assert projected.shape == (2, 17, 12)
        expected = whole.get_image_features(pixel_values=pixels).pooler_output
        torch.testing.assert_close(projected[:, 0], expected, atol=1e-6, rtol=1e-6)
        assert encoder.project(torch.zeros(1, 3, 32, dtype=torch.bfloat16)).dtype == torch.bfloat16

    def test_a_text_leaves_the_encoders_weights_alone(self, whole_clip):
        encoder = TransformersTokens(source=str(whole_clip))
        before = set(encoder.state_dict())
        encoder.embed_text("cat")
        assert set(encoder.state_dict()) == before

    def test_a_tokenizer_in_one_file(self, spoilt):
        expected = TransformersTokens(source=str(spoilt)).embed_text("a cat")
        transformers.CLIPTokenizer.from_pretrained(spoilt).save_pretrained(spoilt)
        (spoilt / "vocab.json").unlink()
        (spoilt / "merges.txt").unlink()
        assert torch.equal(TransformersTokens(source=str(spoilt)).embed_text("a cat"), expected)

    def test_texts_that_it_does_not_take(self, whole_clip):
        encoder = TransformersTokens(source=str(whole_clip))
        with pytest.raises(ConfigurationError, match="is empty"):
            encoder.embed_text(" ")
        with pytest.raises(ConfigurationError, match=r"'a a a a'… is 6 tokens long and .* takes 5"):
            encoder.embed_text("a a a a")

    def test_without_tokenizer(self, spoilt):
        (spoilt / "merges.txt").unlink()
        encoder = TransformersTokens(source=str(spoilt))
        with pytest.raises(WeightsError, match=r"tokenizer\.json, or vocab\.json and merges\.txt, beside the weights"):
            encoder.embed_text("cat")

    def test_a_tokenizer_of_another_model(self, spoilt):
        more = {word: index for index, word in enumerate([*WORDS, "dog</w>", "do"])}
        (spoilt / "vocab.json").write_text(json.dumps(more))
        with pytest.raises(WeightsError, match="has 10 words and the text tower 8"):
            TransformersTokens(source=str(spoilt)).embed_text("cat")

    def test_an_incomplete_text_tower_is_an_error_only_when_it_is_needed(self, spoilt):
        stored = load_file(spoilt / "model.safetensors")
        key = "text_model.encoder.layers.0.mlp.fc1.weight"
        save_file({name: value for name, value in stored.items() if name != key}, spoilt / "model.safetensors")
        encoder = TransformersTokens(source=str(spoilt))
        with pytest.raises(WeightsError, match=rf"do not fit the CLIPModel.*Missing: {key}"):
            encoder.embed_text("cat")

    def test_models_without_text_tower(self, encoders, tmp_path):
        transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**VIT)).save_pretrained(tmp_path / "tower")
        transformers.ViTModel(transformers.ViTConfig(**VIT)).save_pretrained(tmp_path / "vit")
        for name in ("tower", "vit"):
            (tmp_path / name / "preprocessor_config.json").write_text(
                json.dumps({"image_mean": [0] * 3, "image_std": [1] * 3})
            )
        for encoder, said in (
            (encoders["clip"], "no text tower that its tokens can be compared with: random weights"),
            (encoders["siglip"], "no text tower"),
            (TransformersTokens(source=str(tmp_path / "vit")), "no text tower .*: it is no CLIP of transformers"),
            (TransformersTokens(source=str(tmp_path / "tower")), "clip_vision_model without text tower"),
        ):
            with pytest.raises(ConfigurationError, match=said):
                encoder.embed_text("cat")
            with pytest.raises(ConfigurationError, match=said):
                encoder.project(torch.zeros(1, 17, 32))


class TestRefusals:
    @pytest.mark.parametrize(
        ("config", "said"),
        [
            (
                {"model_type": "swin", "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 1]},
                r"swin\. .*layerscope pair",
            ),
            (
                {"model_type": "convnext", "hidden_sizes": [8] * 4, "depths": [1] * 4},
                r"convnext\. .*one grid of tokens",
            ),
            ({"model_type": "resnet", "hidden_sizes": [8] * 4, "depths": [1] * 4}, r"resnet\. .*one grid of tokens"),
            ({"model_type": "siglip2_vision_model"} | TOWER, "Siglip2VisionModel.*mask.*siglip2-base-patch16-224"),
            ({"model_type": "vit_mae"} | VIT, "hides patches at random"),
        ],
    )
    def test_models_that_are_no_plain_vision_transformer(self, config, said):
        with pytest.raises(ConfigurationError, match=said):
            TransformersTokens(config=config)

    def test_tokens_that_are_not_those_of_the_layout(self):
        layout = TokenLayout(("cls", "register"), 2, 3)
        check_tokens((1, 8, 4), layout, "blocks.0")
        for shape in ((1, 9, 4), (1, 4, 2, 4), (8, 4)):
            with pytest.raises(ConfigurationError, match=r"blocks\.0 gives .* 8 tokens.*cls, register.* 2 × 3 patches"):
                check_tokens(shape, layout, "blocks.0")

    def test_a_model_that_drops_tokens(self, encoders):
        encoder = copy.deepcopy(encoders["vit"])
        encoder.model.layers[0].register_forward_hook(lambda _module, _inputs, output: output[:, :-1])
        with pytest.raises(ConfigurationError, match=r"ViTModel gives \(2, 16, 32\): expected \(images, 17 tokens"):
            encoder(pictures(32, 32))

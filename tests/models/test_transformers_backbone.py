"""The transformers backbone: the numbers of the model inside, layers that run, positions, and strict weights."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_vits import SIZE, TEXT, TOWER, VIT, pictures
from torchvision.transforms.v2.functional import normalize, resize
from watched_layers import matched, seen

from layerscope.errors import ConfigurationError, WeightsError
from layerscope.models.transformers_backbone import TransformersBackbone
from layerscope.protocols import GridLayers, NamedLayers
from layerscope.types import PositionGrid

CNN = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
HALF = ([0.5] * 3, [0.5] * 3)
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Family:
    """A tiny model, the class it is of, the size (H, W) it takes (None: any), its mean and std, and for 64 × 96 the
    grid (channel dimension, prefix, rows, columns) of its first and last default layer, of so many."""

    config: dict[str, Any]
    kind: str
    takes: tuple[int, int] | None
    values: tuple[list[float], list[float]]
    first: tuple[int, int, int, int]
    last: tuple[int, int, int, int]
    count: int = 2
    without: dict[str, Any] = field(default_factory=dict)


def vit(model_type: str, kind: str, values: Any, prefix: int, **more: Any) -> Family:
    grid = (2, prefix, 4, 4)
    return Family({"model_type": model_type} | VIT, kind, (32, 32), values, grid, grid, **more)


POOLED = {"without": {"add_pooling_layer": False}}
FAMILIES = {
    "clip": vit("clip_vision_model", "CLIPVisionModel", CLIP, 1),
    "siglip": vit("siglip_vision_model", "SiglipVisionModel", HALF, 0),
    "vit": vit("vit", "ViTModel", HALF, 1, **POOLED),
    "deit": vit("deit", "DeiTModel", IMAGENET, 2, **POOLED),
    "dinov2": Family({"model_type": "dinov2"} | TOWER, "Dinov2Model", None, IMAGENET, (2, 1, 8, 12), (2, 1, 8, 12)),
    "dinov2_with_registers": Family(
        {"model_type": "dinov2_with_registers", "num_register_tokens": 4} | TOWER,
        "Dinov2WithRegistersModel",
        None,
        IMAGENET,
        (2, 5, 8, 12),
        (2, 5, 8, 12),
    ),
    "dinov3": Family(
        {"model_type": "dinov3_vit", "num_register_tokens": 3, "intermediate_size": 64} | TOWER,
        "DINOv3ViTModel",
        None,
        IMAGENET,
        (2, 4, 8, 12),
        (2, 4, 8, 12),
    ),
    "swin": Family(
        {"model_type": "swin", "image_size": 56, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 1]},
        "SwinModel",
        (56, 56),
        IMAGENET,
        (2, 0, 14, 14),
        (2, 0, 7, 7),
    ),
    "convnext": Family(
        {"model_type": "convnext"} | CNN, "ConvNextModel", None, IMAGENET, (1, 0, 16, 24), (1, 0, 2, 3), 4
    ),
    "resnet": Family(
        {"model_type": "resnet", "embedding_size": 8} | CNN,
        "ResNetModel",
        None,
        IMAGENET,
        (1, 0, 16, 24),
        (1, 0, 2, 3),
        4,
    ),
}


@pytest.fixture(scope="module")
def backbones() -> dict[str, TransformersBackbone]:
    return {key: TransformersBackbone(config=one.config, seed=1).eval() for key, one in FAMILIES.items()}


@pytest.fixture(params=list(FAMILIES))
def case(request, backbones) -> tuple[Family, TransformersBackbone]:
    return FAMILIES[request.param], backbones[request.param]


class TestFamilies:
    def test_satisfies_the_protocols(self, case):
        assert isinstance(case[1], NamedLayers)
        assert isinstance(case[1], GridLayers)
        assert type(case[1].layer_root).__name__ == case[0].kind

    def test_default_layers_run_once_and_say_where_their_positions_are(self, case):
        family, backbone = case
        names = matched(backbone.layer_root, backbone.default_layers)
        calls = seen(backbone.layer_root, names, lambda: backbone(pictures()))
        assert [len(outputs) for outputs in calls.values()] == [1] * family.count
        grids = [backbone.position_grid(tuple(outputs[0].shape), SIZE) for outputs in calls.values()]
        assert (grids[0], grids[-1]) == (PositionGrid(*family.first), PositionGrid(*family.last))

    @torch.no_grad()
    def test_numbers_are_those_of_the_model(self, case):
        family, backbone = case
        image = pictures() / 2 + 0.5
        if family.takes is not None:
            image = resize(image, list(family.takes), antialias=True)
        image = normalize(image, *family.values)
        kind = getattr(transformers, family.kind)
        plain = kind(backbone.model.config, **family.without).eval()
        plain.load_state_dict(backbone.model.state_dict())
        torch.testing.assert_close(backbone.normalise(pictures()), image, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            backbone(pictures()), plain(pixel_values=image).last_hidden_state, atol=1e-4, rtol=1e-4
        )

    @pytest.mark.parametrize(("row", "column"), [(0, 0), (1, 0), (0, 1), (1, 1)])
    def test_a_change_is_largest_at_its_position(self, case, row, column):
        """The middle of one quarter of the picture changes."""
        _, backbone = case
        image = pictures(count=1)
        other = image.clone()
        area = (slice(row * 32 + 12, row * 32 + 20), slice(column * 48 + 18, column * 48 + 30))
        other[..., area[0], area[1]] *= -1
        name = matched(backbone.layer_root, backbone.default_layers)[0]
        output = seen(backbone.layer_root, [name], lambda: backbone(torch.cat([image, other])))[name][0]
        grid = backbone.position_grid(tuple(output.shape), SIZE)
        difference = (output[0] - output[1]).norm(dim=grid.channel_dim - 1).flatten()[grid.prefix :]
        at = divmod(int(difference.argmax()), grid.columns)
        assert (at[0] * 2 // grid.rows, at[1] * 2 // grid.columns) == (row, column)


class TestPositions:
    def test_patches_before_the_prefix_is_added(self, backbones):
        dino = backbones["dinov2_with_registers"]
        assert dino.position_grid((2, 96, 32), SIZE) == PositionGrid(2, 0, 8, 12)
        assert dino.position_grid((2, 32, 8, 12), SIZE) == PositionGrid(1, 0, 8, 12)

    def test_what_has_no_positions(self, backbones):
        dino = backbones["dinov2_with_registers"]
        assert dino.position_grid((2, 100, 32), SIZE) is None
        assert dino.position_grid((2, 32), SIZE) is None
        assert dino.position_grid((2, 2, 101, 101), SIZE) is None

    def test_sizes_that_do_not_divide(self, backbones):
        dino = backbones["dinov2_with_registers"]
        assert dino.normalise(pictures(67, 93)).shape[-2:] == SIZE
        assert dino.position_grid((2, 101, 32), (67, 93)) == PositionGrid(2, 5, 8, 12)

    def test_tokens_in_another_order(self):
        config = {"model_type": "hiera", "image_size": [64, 64], "embed_dim": 8, "depths": [1] * 4}
        hiera = TransformersBackbone(config=config | {"num_heads": [1] * 4})
        assert hiera.position_grid((2, 256, 8), SIZE) is None


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Checkpoints as transformers writes them: two with a text tower, one with a classifier, one plain."""
    root = tmp_path_factory.mktemp("transformers")
    torch.manual_seed(5)
    models = {
        "clip": transformers.CLIPModel(transformers.CLIPConfig(vision_config=VIT, text_config=TEXT)),
        "siglip": transformers.SiglipModel(transformers.SiglipConfig(vision_config=VIT, text_config=TEXT)),
        "vit": transformers.ViTForImageClassification(transformers.ViTConfig(**VIT)),
        "dinov2_with_registers": transformers.Dinov2WithRegistersModel(
            transformers.Dinov2WithRegistersConfig(**TOWER | {"image_size": 32})
        ),
    }
    for name, model in models.items():
        model.save_pretrained(root / name)
        mean, std = FAMILIES[name].values
        (root / name / "preprocessor_config.json").write_text(json.dumps({"image_mean": mean, "image_std": std}))
    return {name: root / name for name in models}


@pytest.fixture
def clip(folders, tmp_path) -> Path:
    """A copy that tests may spoil."""
    for file in folders["clip"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


class TestWeights:
    @pytest.mark.parametrize(
        ("name", "kind", "tower"),
        [
            ("clip", "CLIPModel", "vision_model"),
            ("siglip", "SiglipModel", "vision_model"),
            ("vit", "ViTForImageClassification", "vit"),
            ("dinov2_with_registers", "Dinov2WithRegistersModel", None),
        ],
    )
    @torch.no_grad()
    def test_folders_give_the_whole_models_vision_tower(self, folders, name, kind, tower):
        backbone = TransformersBackbone(source=str(folders[name])).eval()
        assert type(backbone.model).__name__ == FAMILIES[name].kind
        whole = getattr(transformers, kind).from_pretrained(folders[name]).eval()
        inner = whole if tower is None else getattr(whole, tower)
        x = backbone.normalise(pictures())
        torch.testing.assert_close(backbone(pictures()), inner(pixel_values=x).last_hidden_state, atol=1e-6, rtol=0)

    def test_half_precision_becomes_float32(self, clip):
        stored = {key: value.half() for key, value in load_file(clip / WEIGHTS).items()}
        save_file(stored, clip / WEIGHTS, metadata={"format": "pt"})
        weights = TransformersBackbone(source=str(clip)).model.state_dict()
        name = "encoder.layers.1.mlp.fc1.weight"
        assert torch.equal(weights[name], stored[f"vision_model.{name}"].float())

    def test_missing_unexpected_and_other_shapes(self, clip):
        stored = load_file(clip / WEIGHTS)
        key = "encoder.layers.1.mlp.fc1.weight"
        for tensors, said in (
            ({name: value for name, value in stored.items() if name != f"vision_model.{key}"}, f"Missing: {key}"),
            (stored | {"vision_model.stranger": torch.ones(1)}, "Unexpected: (vision_model.)?stranger"),
            (stored | {f"vision_model.{key}": torch.ones(2)}, rf"Of another shape: {key} \(2,\)"),
        ):
            save_file(tensors, clip / WEIGHTS, metadata={"format": "pt"})
            with pytest.raises(WeightsError, match=rf"do not fit the CLIPVisionModel.*{said}"):
                TransformersBackbone(source=str(clip))

    def test_positions_that_old_files_store(self, clip):
        stored = load_file(clip / WEIGHTS) | {"vision_model.embeddings.position_ids": torch.arange(17)[None]}
        save_file(stored, clip / WEIGHTS, metadata={"format": "pt"})
        TransformersBackbone(source=str(clip))

    def test_pickled_weights_are_not_read(self, clip):
        torch.save(load_file(clip / WEIGHTS), clip / "pytorch_model.bin")
        (clip / WEIGHTS).unlink()
        with pytest.raises(WeightsError, match=r"backbone in .* cannot be loaded: .*model\.safetensors"):
            TransformersBackbone(source=str(clip))

    def test_code_of_a_folder_is_not_run(self, clip):
        (clip / "config.json").write_text(
            json.dumps({"model_type": "their_own", "auto_map": {"AutoConfig": "theirs.Theirs"}})
        )
        (clip / "theirs.py").write_text("raise SystemExit('it ran')")
        with pytest.raises(WeightsError, match="cannot be loaded"):
            TransformersBackbone(source=str(clip))

    def test_subfolder(self, folders):
        backbone = TransformersBackbone(source=str(folders["clip"].parent), subfolder="clip")
        assert type(backbone.model).__name__ == "CLIPVisionModel"
        assert backbone.normalisation == "processor"

    def test_paths_that_do_not_exist(self, folders, tmp_path):
        with pytest.raises(ConfigurationError, match=r"source .*none does not exist"):
            TransformersBackbone(source=str(tmp_path / "none"))
        with pytest.raises(ConfigurationError, match=r"no config\.json in"):
            TransformersBackbone(source=str(folders["clip"].parent))

    def test_hub_id_without_network(self, monkeypatch):
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(
            WeightsError,
            match=r"somebody/some-vit is no folder.*hf download .*model\.safetensors preprocessor_config\.json.*checkp",
        ):
            TransformersBackbone(source="somebody/some-vit")

    def test_random_weights_follow_the_seed(self):
        states = [TransformersBackbone(config=FAMILIES["clip"].config, seed=s).model.state_dict() for s in (3, 3, 4)]
        name = "encoder.layers.1.mlp.fc1.weight"
        assert torch.equal(states[0][name], states[1][name])
        assert not torch.equal(states[0][name], states[2][name])


class TestNormalisation:
    def test_is_the_processors(self, clip):
        processor = {"image_mean": [0.5, 0.25, 0.75], "image_std": [0.5, 0.25, 1.0]}
        (clip / "preprocessor_config.json").write_text(json.dumps(processor))
        backbone = TransformersBackbone(source=str(clip))
        assert backbone.normalisation == "processor"
        assert backbone.normalise(torch.zeros(1, 3, 32, 32))[0, :, 0, 0].tolist() == [0.0, 1.0, -0.25]

    def test_of_a_processor_that_leaves_pixels_alone(self, clip):
        (clip / "preprocessor_config.json").write_text(json.dumps({"do_normalize": False}))
        grey = TransformersBackbone(source=str(clip)).normalise(torch.zeros(1, 3, 32, 32))
        assert grey[0, :, 0, 0].tolist() == [0.5, 0.5, 0.5]

    def test_of_a_processor_that_does_not_say(self, clip):
        (clip / "preprocessor_config.json").write_text(json.dumps({"size": 32}))
        with pytest.raises(ConfigurationError, match="image_mean and image_std"):
            TransformersBackbone(source=str(clip))

    def test_of_a_processor_that_is_broken(self, clip):
        (clip / "preprocessor_config.json").write_text("{")
        with pytest.raises(ConfigurationError, match=r"preprocessor_config\.json cannot be read"):
            TransformersBackbone(source=str(clip))

    def test_without_a_processor_it_is_the_familys_and_says_so(self, clip):
        (clip / "preprocessor_config.json").unlink()
        with pytest.warns(UserWarning, match=r"no preprocessor_config\.json.*clip_vision_model.*0\.48145466"):
            backbone = TransformersBackbone(source=str(clip))
        assert backbone.normalisation == "family"


class TestConfig:
    def test_a_file_a_folder_and_a_mapping_are_the_same(self, folders):
        content = json.loads((folders["siglip"] / "config.json").read_text())
        tower = {"model_type": "siglip_vision_model"} | VIT
        shapes = [
            {name: value.shape for name, value in TransformersBackbone(config=one).model.state_dict().items()}
            for one in (str(folders["siglip"]), str(folders["siglip"] / "config.json"), content, tower)
        ]
        assert shapes[0] == shapes[1] == shapes[2] == shapes[3]

    def test_a_class_by_name(self):
        backbone = TransformersBackbone(
            config=FAMILIES["clip"].config, model_class="CLIPVisionModelWithProjection"
        ).eval()
        assert len(matched(backbone.layer_root, backbone.default_layers)) == 2
        assert backbone.position_grid((2, 17, 32), SIZE) == PositionGrid(2, 1, 4, 4)

    def test_bad_arguments(self, tmp_path):
        base = FAMILIES["clip"].config
        for arguments, said in (
            ({}, "given: none"),
            ({"source": "a", "config": base}, "given: source, config"),
            ({"config": base, "subfolder": "x"}, "without a source"),
            ({"config": {"hidden_size": 8}}, "has no model_type"),
            ({"config": {"model_type": "clip_vison_model"}}, "Did you mean clip_vision_model"),
            ({"config": base | {"hiden_size": 8}}, "does not know: hiden_size"),
            ({"config": base | {"hidden_size": "x"}}, "does not describe a clip_vision_model"),
            ({"config": {"model_type": "bert"}}, "does not take images alone"),
            ({"config": {"model_type": "vit_mae"} | VIT}, "hides patches at random"),
            ({"config": base, "model_class": "CLIPConfig"}, "no model class 'CLIPConfig'"),
            ({"config": str(tmp_path / "none.json")}, r"none\.json does not exist"),
        ):
            with pytest.raises(ConfigurationError, match=said):
                TransformersBackbone(**arguments)

"""The teacher answers as the timm model inside, shows its stages, and loads weights strictly."""

from __future__ import annotations

import pytest
import timm
import torch
from safetensors.torch import save_file

from layerscope.data.hashing import teacher_hash
from layerscope.errors import ConfigurationError, WeightsError
from layerscope.models.teachers import TimmTeacher
from layerscope.protocols import FeatureTeacher

FAMILIES = {
    "resnet": ("resnet10t", {"channels": [8, 8, 16, 16]}, 64),
    "convnext": ("convnext_atto", {"dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}, 64),
    "vit": ("vit_tiny_patch16_224", {"img_size": 64, "depth": 2, "embed_dim": 32, "num_heads": 2}, 64),
    "distilled": ("deit_tiny_distilled_patch16_224", {"img_size": 64, "depth": 2, "embed_dim": 32, "num_heads": 2}, 64),
    "efficientnet": ("test_efficientnet", {}, 64),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"img_size": 56, "depths": [1, 1, 1, 1], "embed_dim": 16, "num_heads": [1, 1, 2, 2]},
        56,
    ),
    "densenet": ("densenet121", {"growth_rate": 4, "block_config": [1, 1, 1, 1]}, 64),
    "mobilenet": ("mobilenetv3_small_050", {}, 64),
}
RESNET = {"channels": [8, 8, 16, 16]}


def pictures(size: int = 64, count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def resnet(**arguments) -> TimmTeacher:
    return TimmTeacher("resnet10t", num_labels=5, model_kwargs=RESNET, **arguments).eval()


@pytest.fixture
def trained() -> dict[str, torch.Tensor]:
    """Weights of another instance."""
    torch.manual_seed(11)
    return timm.create_model("resnet10t", num_classes=5, **RESNET).state_dict()


class TestFamilies:
    @pytest.fixture(scope="class", params=list(FAMILIES))
    def teacher(self, request) -> tuple[TimmTeacher, int]:
        name, kwargs, size = FAMILIES[request.param]
        torch.manual_seed(1)
        return TimmTeacher(name, num_labels=5, model_kwargs=kwargs).eval(), size

    def test_satisfies_the_protocol(self, teacher):
        assert isinstance(teacher[0], FeatureTeacher)
        assert teacher[0].num_labels == 5

    @torch.no_grad()
    def test_logits_are_the_models(self, teacher):
        teacher, size = teacher
        image = pictures(size)
        mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
        std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
        expected = teacher.model((image * 0.5 + 0.5 - mean) / std)
        logits = teacher(image)
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(teacher.features(image).logits, logits, atol=1e-6, rtol=0)

    @torch.no_grad()
    def test_stages_are_named_maps_from_shallow_to_deep(self, teacher):
        teacher, size = teacher
        seen = teacher.features(pictures(size))
        assert tuple(seen.stages) == teacher.stage_names
        assert len(seen.stages) >= 2
        sides = [value.shape[-1] for value in seen.stages.values()]
        assert sides == sorted(sides, reverse=True)
        assert all(value.ndim == 4 and len(value) == 2 for value in seen.stages.values())
        expected = teacher.model.forward_intermediates(teacher.normalise(pictures(size)), intermediates_only=True)
        for ours, theirs in zip(seen.stages.values(), expected, strict=True):
            torch.testing.assert_close(ours, theirs)

    @torch.no_grad()
    def test_embedding_is_what_the_last_layer_reads(self, teacher):
        teacher, size = teacher
        seen = teacher.features(pictures(size))
        assert seen.embedding.ndim == 2
        head = teacher.model.get_classifier()
        if isinstance(head, torch.nn.Linear):
            torch.testing.assert_close(head(seen.embedding), seen.logits, atol=1e-6, rtol=0)

    def test_gradients_reach_the_first_layer(self, teacher):
        teacher, size = teacher
        teacher.zero_grad()
        teacher(pictures(size)).square().sum().backward()
        assert float(next(teacher.parameters()).grad.abs().sum()) > 0


class TestInput:
    @torch.no_grad()
    def test_resizes_bicubic_and_antialiased(self):
        from torchvision.transforms.v2 import InterpolationMode
        from torchvision.transforms.v2.functional import resize

        teacher = resnet(input_size=48, mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5])
        image = pictures(64)
        expected = resize(image, [48, 48], InterpolationMode.BICUBIC, antialias=True)
        torch.testing.assert_close(teacher.normalise(image), expected, atol=1e-5, rtol=0)
        assert teacher.normalise(pictures(48)).shape == (2, 3, 48, 48)

    def test_constant_image_becomes_the_standardised_constant(self):
        grey = resnet(mean=[0.5, 0.25, 0.75], std=[0.5, 0.25, 1.0]).normalise(torch.zeros(1, 3, 8, 8))
        assert grey[0, :, 0, 0].tolist() == [0.0, 1.0, -0.25]

    def test_image_is_left_as_it_was(self):
        image = pictures()
        before = image.clone()
        resnet(input_size=32)(image)
        assert torch.equal(image, before)

    def test_size_that_a_fixed_model_refuses(self):
        teacher = TimmTeacher("vit_tiny_patch16_224", 5, model_kwargs={"img_size": 32, "depth": 1}).eval()
        with pytest.raises(ConfigurationError, match=r"does not take images of 64 × 64.*input_size"):
            teacher(pictures(64))
        assert TimmTeacher("vit_tiny_patch16_224", 5, input_size=32, model_kwargs={"img_size": 32, "depth": 1})(
            pictures(64)
        ).shape == (2, 5)

    def test_bad_arguments(self):
        for arguments, said in (
            ({"num_labels": 0}, "at least one label"),
            ({"name": "resnet10"}, "Did you mean resnet10t"),
            ({"name": "no such thing at all"}, r"timm\.list_models"),
            ({"model_kwargs": {"chanels": [1]}}, "cannot build resnet10t"),
            ({"model_kwargs": {"num_classes": 3}}, "use num_labels"),
            ({"mean": [0.5]}, "three numbers"),
            ({"std": [1.0, 0.0, 1.0]}, "positive"),
            ({"input_size": 0}, "input_size is 0"),
            ({"resize_filter": "nearest"}, "nearest"),
            ({"stages": -1}, "stages is -1"),
            ({"dtype": "int8"}, "int8"),
            ({"checkpoint": "a.pt", "pretrained": True}, "give one of them"),
        ):
            with pytest.raises(ConfigurationError, match=said):
                TimmTeacher(**{"name": "resnet10t", "num_labels": 5, **arguments})
        with pytest.raises(ConfigurationError, match=r"\(B, 3, H, W\) and was given \(1, 1, 8, 8\)"):
            resnet()(torch.zeros(1, 1, 8, 8))


class TestStages:
    @torch.no_grad()
    def test_the_deepest_ones_on_request(self):
        assert list(resnet(stages=2).features(pictures()).stages) == ["layer3", "layer4"]
        assert resnet(stages=0).features(pictures()).stages == {}
        assert list(resnet(stages=99).features(pictures()).stages) == ["act1", "layer1", "layer2", "layer3", "layer4"]


class TestPrecision:
    @torch.no_grad()
    def test_last_layer_stays_in_float32(self):
        teacher = resnet(dtype="bfloat16")
        assert teacher.model.fc.weight.dtype == torch.float32
        assert teacher.model.conv1[0].weight.dtype == torch.bfloat16
        seen = teacher.features(pictures())
        assert seen.logits.dtype == torch.float32
        assert torch.equal(seen.logits, torch.nn.functional.linear(seen.embedding, *teacher.model.fc.parameters()))

    @torch.no_grad()
    def test_under_autocast_and_after_conversion(self):
        teacher = resnet()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            seen = teacher.features(pictures())
        assert torch.equal(seen.logits, torch.nn.functional.linear(seen.embedding, *teacher.model.fc.parameters()))
        assert teacher.to(torch.bfloat16)(pictures()).dtype == torch.float32


class TestCheckpoints:
    @pytest.mark.parametrize("prefix", ["", "model.", "teacher.model.", "module.", "net.backbone."])
    @torch.no_grad()
    def test_plain_lightning_and_safetensors(self, trained, tmp_path, prefix):
        prefixed = {prefix + key: value for key, value in trained.items()}
        if prefix:
            prefixed["criterion.pos_weight"] = torch.ones(5)
        torch.save(prefixed, tmp_path / "best.pt")
        torch.save({"state_dict": prefixed, "epoch": 2, "hyper_parameters": {"lr": 1e-3}}, tmp_path / "best.ckpt")
        save_file(prefixed, tmp_path / "best.safetensors")
        for name in ("best.pt", "best.ckpt", "best.safetensors"):
            loaded = resnet(checkpoint=str(tmp_path / name)).model.state_dict()
            assert all(torch.equal(loaded[key], value) for key, value in trained.items())

    def test_saved_and_loaded_again(self, tmp_path):
        teacher = resnet()
        teacher.save(tmp_path / "new" / "teacher.safetensors")
        again = resnet(checkpoint=str(tmp_path / "new" / "teacher.safetensors"))
        assert torch.equal(again(pictures()), teacher(pictures()))

    def test_half_precision_files(self, trained, tmp_path):
        save_file({k: v.half() if v.is_floating_point() else v for k, v in trained.items()}, tmp_path / "h.safetensors")
        teacher = resnet(checkpoint=str(tmp_path / "h.safetensors"))
        assert torch.equal(teacher.model.fc.weight, trained["fc.weight"].half().float())

    def test_without_batch_counters(self, trained, tmp_path):
        kept = {key: value for key, value in trained.items() if not key.endswith("num_batches_tracked")}
        torch.save(kept, tmp_path / "best.pt")
        assert torch.equal(resnet(checkpoint=str(tmp_path / "best.pt")).model.fc.weight, trained["fc.weight"])

    def refused(self, tmp_path, tensors) -> str:
        path = tmp_path / "best.pt"
        torch.save(tensors, path)
        with pytest.raises(WeightsError) as caught:
            resnet(checkpoint=str(path))
        assert str(path) in str(caught.value)
        return str(caught.value)

    def test_number_of_labels(self, tmp_path):
        other = timm.create_model("resnet10t", num_classes=14, **RESNET).state_dict()
        said = self.refused(tmp_path, {f"teacher.model.{key}": value for key, value in other.items()})
        assert "has 14 outputs (fc.weight) and the configuration asks for 5 labels" in said
        assert "Set num_labels to 14" in said

    def test_missing_unexpected_and_other_shapes(self, trained, tmp_path):
        conv = "layer1.0.conv1.weight"
        assert f"Missing: {conv}." in self.refused(tmp_path, {k: v for k, v in trained.items() if k != conv})
        assert "Unexpected: stranger." in self.refused(tmp_path, {**trained, "stranger": torch.ones(1)})
        assert f"Of another shape: {conv} (2,)" in self.refused(tmp_path, {**trained, conv: torch.ones(2)})

    def test_another_model(self, tmp_path):
        said = self.refused(tmp_path, timm.create_model("test_vit", num_classes=5).state_dict())
        assert "Check the teacher's name" in said

    def test_two_models_in_one_file(self, trained, tmp_path):
        both = {f"{name}.{key}": value for name in ("student", "teacher") for key, value in trained.items()}
        assert "several such models, under 'student.', 'teacher.'" in self.refused(tmp_path, both)

    def test_pretrained_without_network(self, monkeypatch):
        def offline(*_, **__):
            raise OSError("no route to host")

        monkeypatch.setattr(timm, "create_model", offline)
        with pytest.raises(WeightsError, match=r"no route to host.*give it as checkpoint"):
            TimmTeacher("resnet10t", 5, pretrained=True)


def test_the_hash_tells_how_images_reach_the_teacher(trained: dict[str, torch.Tensor], tmp_path) -> None:
    save_file(trained, tmp_path / "teacher.safetensors")
    weights = str(tmp_path / "teacher.safetensors")
    same = [teacher_hash(resnet(checkpoint=weights), None) for _ in range(2)]
    assert same[0] == same[1]
    for other in ({"mean": [0.3] * 3}, {"std": [0.4] * 3}, {"input_size": 32}, {"resize_filter": "bilinear"}):
        assert teacher_hash(resnet(checkpoint=weights, **other), None) != same[0]

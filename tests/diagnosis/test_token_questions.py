"""What a token diagnosis can be asked besides neighbours and CLS: layers, texts, models of one's own, comparisons."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from image_files import write_mask, write_noise
from pair_runs import SDXL
from tiny_vits import pictures, write_whole_clip
from token_batches import batch_of
from token_families import TINY_CLIP, token_encoder
from torch import Tensor, nn

from layerscope.artifacts import read_csv, read_summary
from layerscope.artifacts.token_maps import read_image_tokens
from layerscope.cli import main
from layerscope.data.image_paths import ImagePaths
from layerscope.errors import ConfigurationError
from layerscope.models.autoencoders import DiffusersAutoencoder
from layerscope.models.transformers_tokens import TransformersTokens
from layerscope.tasks.diagnosis.tokens import TokenSimilarity, chosen_layers
from layerscope.types import InputGeometry, TokenLayout


class Blocks(nn.Module):
    """An encoder of a user's own without CLS: patches of 8 px, two blocks, no final norm."""

    default_layers = ("blocks.0", "blocks.1")
    input_geometry = InputGeometry(resize=(32, 48), smallest=(8, 8))

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Conv2d(3, width, 8, stride=8)
        self.blocks = nn.Sequential(nn.Linear(width, width), nn.Linear(width, width))

    @property
    def layer_root(self) -> nn.Module:
        return self

    def token_layout(self, image_size: tuple[int, int]) -> TokenLayout:
        return TokenLayout((), image_size[0] // 8, image_size[1] // 8)

    def final_norm(self, tokens: Tensor) -> Tensor:
        return tokens

    def forward(self, image: Tensor) -> Tensor:
        tokens: Tensor = self.blocks(self.embed(image).flatten(2).transpose(1, 2))
        return tokens


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("last", ["blocks.1"]),
        ("all", ["blocks.0", "blocks.1"]),
        (0, ["blocks.0"]),
        ("-1", ["blocks.1"]),
        ([-1, 0], ["blocks.0", "blocks.1"]),
        ("blocks.*", ["blocks.0", "blocks.1"]),
        (["blocks.0", "last"], ["blocks.0", "blocks.1"]),
    ],
    ids=str,
)
def test_layers_by_number_name_and_pattern(layers: Any, expected: list[str]) -> None:
    assert chosen_layers(Blocks(), layers) == expected


@pytest.mark.parametrize(
    ("layers", "told"),
    [
        ("block.1", r"Did you mean blocks\.1"),
        (2, "0 to 1"),
        (-3, "−1 to −2"),
        ("lst", "Did you mean last"),
        ([], "none"),
    ],
    ids=str,
)
def test_layers_that_do_not_exist(layers: Any, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        TokenSimilarity(Blocks(), layers)


def test_an_encoder_of_ones_own_by_class_path(tmp_path: Path) -> None:
    write_noise(tmp_path / "one.png", size=(40, 60))
    arguments = ["--allow-import=test_token_questions", "--model.encoder=test_token_questions.Blocks"]
    config = tmp_path / "own.yaml"
    config.write_text(
        "trainer: {callbacks: [{class_path: layerscope.callbacks.token_report.TokenReport}]}\n"
        "model: {class_path: layerscope.tasks.diagnosis.tokens.TokenSimilarity}\n"
        f"data: {{class_path: layerscope.data.image_paths.ImagePaths, init_args: {{path: {tmp_path / 'one.png'}}}}}\n"
    )
    places = [f"--output_root={tmp_path}", "--experiment_name=own", "--trainer.accelerator=cpu"]
    assert main(["test", "--debug", "--config", str(config), *arguments, *places]) == 0
    tokens = read_image_tokens(tmp_path / "own/similarities.npz")
    assert (tokens.grid_size, tokens.prefix, tokens.cls_source) == ((4, 6), (), "")
    assert "cls_similarity" not in tokens.maps
    missing = read_summary(tmp_path / "own")["not_measured"]
    [reason] = [entry["reason"] for entry in missing if "CLS" in entry["what"] + entry["reason"]]
    assert "pooled" in reason
    assert not any(row["figure"] == "cls_similarity" for row in read_csv(tmp_path / "own/aggregate.csv"))


def test_a_text_is_compared_as_clip_does(tmp_path: Path) -> None:
    folder, image = write_whole_clip(tmp_path), pictures(32, 32, count=1)
    encoder = TransformersTokens(source=str(folder))
    layer = next(iter(TokenSimilarity(encoder, text="a cat").eval().measure(batch_of(image))[0].layers.values()))
    whole = transformers.CLIPModel.from_pretrained(folder).eval()
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    with torch.no_grad():
        tower = whole.vision_model
        hidden = tower(pixel_values=encoder.normalise(image)).last_hidden_state
        patches = whole.visual_projection(tower.post_layernorm(hidden))[0, 1:].unflatten(0, (4, 4))
        text = whole.get_text_features(**tokenizer(["a cat"], return_tensors="pt")).pooler_output[0]
    expected = torch.nn.functional.cosine_similarity(patches, text.expand_as(patches), dim=-1)
    torch.testing.assert_close(layer.maps["text_similarity"][0], expected, rtol=0, atol=1e-6)


def test_each_model_has_its_own_part_of_the_picture_and_of_the_mask(tmp_path: Path) -> None:
    """A picture twice as wide as high: one model sees the central square, the other all of it, stretched."""
    write_noise(tmp_path / "one.png", size=(96, 48))
    write_mask(tmp_path / "masks/one.png", (12, 0, 48, 24), size=(96, 48))
    encoder = TransformersTokens(config=TINY_CLIP, seed=0)
    other = TransformersTokens(config=TINY_CLIP, seed=1, fit="stretch")
    task = TokenSimilarity(encoder, other_encoder=other).eval()
    data = ImagePaths(str(tmp_path / "one.png"), masks=str(tmp_path / "masks/one.png"))
    data.trainer = SimpleNamespace(lightning_module=task)  # type: ignore[assignment]
    data.setup("test")
    first, second = task.measure(next(iter(data.test_dataloader())))
    assert (first.shown.tolist(), second.shown.tolist()) == ([[24, 0, 72, 48]], [[0, 0, 96, 48]])
    # Of columns 12 to 48 in the file the first sees 24 to 48, at 32 / 48 of their size, the second all, at 32 / 96.
    assert mask_box(first.mask[0]) == (0, 0, 16, 16)
    assert mask_box(second.mask[0]) == (4, 0, 16, 16)


def mask_box(mask: Tensor) -> tuple[int, ...]:
    """Left, top, right and bottom of what is True."""
    rows, columns = mask.nonzero().T
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def test_patches_cover_less_than_an_image_that_they_do_not_divide() -> None:
    """48 px hold three patches of 14 px: six pixels, more than there are patches, are seen by none."""
    encoder = TransformersTokens(config=TINY_CLIP | {"image_size": 48, "patch_size": 14}, seed=0)
    mask = torch.zeros(1, 48, 48, dtype=torch.bool)
    mask[:, 14:28, 28:42] = True
    task = TokenSimilarity(encoder, box=[28, 14, 42, 28]).eval()
    view = task.measure(batch_of(pictures(48, 48, count=1), mask=mask))[0]
    assert tuple(view.image.shape[-2:]) == (42, 42)
    assert view.shown.tolist() == [[0, 0, 42, 42]]
    layer = next(iter(view.layers.values()))
    assert layer.maps["box_patches"][0].nonzero().tolist() == [[1, 2]]
    similarity = layer.maps["horizontal_right"][0, 1, 1], *layer.maps["vertical_down"][0, :, 2]
    assert float(layer.figures["border_similarity"][0]) == pytest.approx(float(sum(similarity)) / 3, rel=1e-6)


def test_a_reconstruction_of_images_that_the_vae_does_not_divide() -> None:
    """Patches of 14 px make 70 px, which a downsampling of 4 does not divide."""
    encoder = token_encoder("dinov2", (70, 70))
    vae = DiffusersAutoencoder(architecture=SDXL, seed=0)
    assert 70 % vae.downsampling
    task = TokenSimilarity(encoder, autoencoder=vae, controls=["jpeg_q75", "roundtrip8"]).eval()
    views = {view.name: view for view in task.measure(batch_of(pictures(70, 70)))}
    assert list(views) == ["image", "reconstruction", "jpeg_q75", "roundtrip8"]
    for view in views.values():
        assert tuple(view.image.shape) == (2, 3, 70, 70)
    layers = {name: next(iter(view.layers.values())) for name, view in list(views.items())[1:]}
    change = {name: float(layer.figures["token_change"].mean()) for name, layer in layers.items()}
    assert change["roundtrip8"] < change["jpeg_q75"] < change["reconstruction"]

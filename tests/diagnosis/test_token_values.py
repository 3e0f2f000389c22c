"""The maps of every family of encoders equal a plain loop over its tokens, whatever the size and the precision."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from token_batches import batch_of
from token_families import FAMILIES, token_encoder
from torch import Tensor

from layerscope.tasks.diagnosis.tokens import TokenSimilarity
from layerscope.types import LayerTokens

SIZES = [(224, 224), (336, 336), (224, 336), (336, 224)]


def random_images(size: tuple[int, int], images: int = 2) -> Tensor:
    return torch.rand(images, 3, *size, generator=torch.Generator().manual_seed(3)) * 2 - 1


def measured(encoder: Any, image: Tensor, **questions: Any) -> dict[str, LayerTokens]:
    view = TokenSimilarity(encoder, **questions).eval().measure(batch_of(image))[0]
    return view.layers


def block_outputs(encoder: Any, image: Tensor) -> dict[str, Tensor]:
    """Every block's output, by hooks of this test's own."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda module, inputs, output: seen.update({name: output[0] if isinstance(output, tuple) else output})

    handles = [
        encoder.layer_root.get_submodule(name).register_forward_hook(keep(name)) for name in encoder.default_layers
    ]
    with torch.no_grad():
        encoder(image)
    for handle in handles:
        handle.remove()
    return seen


def cosine(a: list[float], b: list[float]) -> float:
    dot = math.fsum(x * y for x, y in zip(a, b))
    return dot / math.sqrt(math.fsum(x * x for x in a) * math.fsum(y * y for y in b))


def looped(tokens: Tensor, prefix: int, rows: int, columns: int) -> Iterator[tuple[str, int, int, float]]:
    """Name of the map, row, column and value of one image's tokens (T, D), by Python's own arithmetic."""
    listed = tokens.double().tolist()
    grid = [[listed[prefix + row * columns + column] for column in range(columns)] for row in range(rows)]
    for row in range(rows):
        for column in range(columns):
            if column + 1 < columns:
                yield "horizontal_right", row, column, cosine(grid[row][column], grid[row][column + 1])
            if row + 1 < rows:
                yield "vertical_down", row, column, cosine(grid[row][column], grid[row + 1][column])
            if prefix:
                yield "cls_similarity", row, column, cosine(grid[row][column], listed[0])


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_maps_equal_a_loop_over_tokens(family: str, size: tuple[int, int]) -> None:
    encoder, registers = token_encoder(family, size), FAMILIES[family].registers
    image = random_images(size, images=1)
    layers, outputs = measured(encoder, image, layers="all"), block_outputs(encoder, image)
    assert list(layers) == list(outputs)
    patch = FAMILIES[family].patch
    rows, columns = size[0] // patch, size[1] // patch
    name, tokens = list(outputs.items())[-1]
    prefix = FAMILIES[family].cls + registers
    assert tokens.shape[1] == prefix + rows * columns
    maps = layers[name].maps
    assert tuple(maps["horizontal_right"].shape) == (1, rows, columns - 1)
    assert tuple(maps["vertical_down"].shape) == (1, rows - 1, columns)
    assert ("cls_similarity" in maps) == bool(FAMILIES[family].cls)
    found = {
        key: value
        for key, value in ((one[:3], one[3]) for one in looped(tokens[0], prefix, rows, columns))
        if FAMILIES[family].cls or key[0] != "cls_similarity"
    }
    assert len(found) == sum(values.numel() for key, values in maps.items() if key not in ("norms", "high_norm"))
    worst = max(abs(float(maps[key][0, row, column]) - value) for (key, row, column), value in found.items())
    assert worst < 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_a_constant_image_gives_defined_values(family: str) -> None:
    encoder = token_encoder(family, (224, 224))
    for layer in measured(encoder, torch.zeros(1, 3, 224, 224), layers="all").values():
        for name, values in layer.maps.items():
            assert bool(values.float().isfinite().all()), name
        assert float(layer.maps["horizontal_right"].max()) <= 1


@pytest.mark.parametrize("family", ["clip", "siglip", "dinov2 registers", "timm vit"])
def test_half_precision_stays_near(family: str) -> None:
    """Within .02 of a cosine in bfloat16 (eight bits of mantissa), .002 in float16; docs/tokens.md states it."""
    image = random_images((224, 224))
    exact = measured(token_encoder(family, (224, 224)), image)
    for dtype, bound in ((torch.bfloat16, 0.02), (torch.float16, 0.002)):
        half = measured(token_encoder(family, (224, 224)).to(dtype), image)
        for name, layer in exact.items():
            for key in ("horizontal_right", "vertical_down", "cls_similarity"):
                if key in layer.maps:
                    assert half[name].maps[key].dtype == torch.float32
                    assert float((half[name].maps[key] - layer.maps[key]).abs().max()) < bound, (key, dtype)


def test_dot_product_and_diagonals() -> None:
    encoder, image = token_encoder("clip", (224, 224)), random_images((224, 224), images=1)
    maps = next(iter(measured(encoder, image, similarity_metric="dot_product", diagonals=True).values())).maps
    tokens = list(block_outputs(encoder, image).values())[-1][0, 1:].double().unflatten(0, (14, 14))
    expected = {
        "horizontal_right": (tokens[:, :-1], tokens[:, 1:]),
        "vertical_down": (tokens[:-1], tokens[1:]),
        "diagonal_down_right": (tokens[:-1, :-1], tokens[1:, 1:]),
        "diagonal_down_left": (tokens[:-1, 1:], tokens[1:, :-1]),
    }
    for name, (one, other) in expected.items():
        torch.testing.assert_close(maps[name][0].double(), (one * other).sum(-1), rtol=1e-6, atol=1e-5, msg=name)


def test_after_the_final_norm_the_last_layer_is_what_the_model_hands_out() -> None:
    encoder, image = token_encoder("dinov2", (224, 224)), random_images((224, 224), images=1)
    maps = next(iter(measured(encoder, image, norm="after").values())).maps
    with torch.no_grad():
        last = encoder(image)[0].double()
    patches = last[1:].unflatten(0, (16, 16))
    expected = torch.nn.functional.cosine_similarity(patches, last[0].expand_as(patches), dim=-1)
    torch.testing.assert_close(maps["cls_similarity"][0].double(), expected, rtol=0, atol=1e-6)


def test_seed_patch_and_box() -> None:
    encoder, image = token_encoder("clip", (224, 224)), random_images((224, 224), images=1)
    tokens = list(block_outputs(encoder, image).values())[-1][0, 1:].double().unflatten(0, (14, 14))
    # Patches of 16 px: rows 2 and 3, columns 4 to 6.
    maps = next(iter(measured(encoder, image, seed_patch=[3, 5], box=[64, 32, 112, 64]).values())).maps
    assert maps["box_patches"][0].nonzero().tolist() == [[row, column] for row in (2, 3) for column in (4, 5, 6)]
    assert maps["seed_patches"][0].nonzero().tolist() == [[3, 5]]
    for name, reference in (("seed_similarity", tokens[3, 5]), ("box_similarity", tokens[2:4, 4:7].mean(dim=(0, 1)))):
        expected = torch.nn.functional.cosine_similarity(tokens, reference.expand_as(tokens), dim=-1)
        torch.testing.assert_close(maps[name][0].double(), expected, rtol=0, atol=1e-6, msg=name)


def test_the_pooled_token_stands_in_for_cls() -> None:
    encoder, image = token_encoder("siglip", (224, 224)), random_images((224, 224), images=1)
    view = TokenSimilarity(encoder, pooled=True).eval().measure(batch_of(image))[0]
    assert view.cls_source == "pooled"
    with torch.no_grad():
        output = encoder.model(pixel_values=encoder.normalise(image))
    tokens = list(block_outputs(encoder, image).values())[-1][0].double().unflatten(0, (14, 14))
    expected = torch.nn.functional.cosine_similarity(tokens, output.pooler_output[0].expand_as(tokens), dim=-1)
    found = next(iter(view.layers.values())).maps["cls_similarity"][0].double()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_an_image_does_not_depend_on_its_batch() -> None:
    """In float64; in float32 the model itself rounds otherwise for another batch."""
    encoder, image = token_encoder("clip", (224, 224)).double(), random_images((224, 224), images=3)
    together = next(iter(measured(encoder, image).values()))
    alone = next(iter(measured(encoder, image[1:2]).values()))
    for name, values in together.maps.items():
        torch.testing.assert_close(values[1:2].double(), alone.maps[name].double(), rtol=1e-12, atol=1e-12)
    for name, values in together.figures.items():
        torch.testing.assert_close(values[1:2], alone.figures[name], rtol=1e-9, atol=1e-9, equal_nan=True)


def test_the_same_image_twice_has_not_changed() -> None:
    image = random_images((224, 224))
    first, second = TokenSimilarity(token_encoder("clip", (224, 224))).eval().measure(batch_of(image, image))
    assert (first.name, second.name) == ("image", "other")
    layer = next(iter(second.layers.values()))
    assert bool((layer.maps["token_change"] == 0).all())
    assert layer.figures["map_correlation"].tolist() == pytest.approx([1, 1])


def test_a_change_is_found_where_it_is() -> None:
    """The first block's tokens of patches that differ in their pixels alone change most; the AUROC says so."""
    image = random_images((224, 224))
    other, mask = image.clone(), torch.zeros(2, 224, 224, dtype=torch.bool)
    mask[:, 64:96, 32:64] = True
    other[:, :, 64:96, 32:64] *= -1
    task = TokenSimilarity(token_encoder("clip", (224, 224)), layers=[0]).eval()
    layer = next(iter(task.measure(batch_of(image, other, mask))[1].layers.values()))
    assert (layer.figures["token_change_auroc"] > 0.95).all()
    assert (layer.figures["shifted_token_change_auroc"] < 0.7).all()
    change = layer.maps["token_change"]
    assert (change[:, 4:6, 2:4].mean(dim=(1, 2)) > 3 * change.mean(dim=(1, 2))).all()

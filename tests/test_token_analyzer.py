"""Token similarity from Python: the same figures as the command's, from any kind of picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from token_families import TINY_CLIP

from layerscope import TokenSimilarityAnalyzer
from layerscope.artifacts.token_maps import read_image_tokens
from layerscope.cli import main
from layerscope.models.transformers_tokens import TransformersTokens

PHOTOGRAPH = skimage.data.chelsea()  # 300 × 451


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP vision tower as a folder of transformers, and a photograph."""
    path = tmp_path_factory.mktemp("analyzer")
    TransformersTokens(config=TINY_CLIP, seed=0).model.save_pretrained(path / "clip")  # type: ignore[operator]
    Image.fromarray(PHOTOGRAPH).save(path / "cat.png")
    return path


@pytest.fixture(scope="module")
def analyzer(folder: Path) -> TokenSimilarityAnalyzer:
    with pytest.warns(UserWarning, match="has no preprocessor_config.json"):
        return TokenSimilarityAnalyzer(str(folder / "clip"), device="cpu", layers="all")


def test_three_lines(analyzer: TokenSimilarityAnalyzer, folder: Path) -> None:
    result = analyzer.analyze(folder / "cat.png")
    result.plot(folder / "out.png")
    assert result.grid_size == (4, 4)
    assert result.horizontal_right.shape == (4, 3)
    assert result.vertical_down.shape == (3, 4)
    assert result.cls_similarity is not None
    assert result.cls_similarity.shape == (4, 4)
    with Image.open(folder / "out.png") as picture:
        assert picture.width > 500
    told = str(result).splitlines()
    assert told[0].startswith("cat: ")
    assert "encoder.layers.1, before the final norm, cosine" in told[0]
    assert f"mean {result.cls_similarity.mean():.4f}" in str(result)


def test_the_command_writes_the_same(
    analyzer: TokenSimilarityAnalyzer, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--config=configs/tokens/clip_vit_large_patch14.yaml", f"--data.path={folder / 'cat.png'}"]
    arguments += [f"--model.encoder.source={folder / 'clip'}", "--model.layers=all", "--data.num_workers=0"]
    arguments += ["--trainer.accelerator=cpu", "--trainer.logger=false", "--trainer.callbacks.visualization.limit=0"]
    assert main(["test", *arguments]) == 0
    run = tmp_path / "outputs/tokens/clip_vit_large_patch14"
    written, result = read_image_tokens(run / "similarities.npz"), analyzer.analyze(folder / "cat.png")
    assert written.layers == result.tokens.layers == ("encoder.layers.0", "encoder.layers.1")
    for name, values in result.tokens.maps.items():
        np.testing.assert_array_equal(written.maps[name], values, err_msg=name)
    with np.load(run / "similarities.npz", allow_pickle=False) as plain:
        np.testing.assert_array_equal(plain["cls_similarity"], result.cls_similarity)
        assert plain["grid_size"].tolist() == [4, 4]
        assert str(plain["similarity_metric"]) == "cosine"


@pytest.mark.parametrize("kind", ["path", "pillow", "array", "float array", "tensor", "16 bit"])
def test_any_kind_of_picture(kind: str, analyzer: TokenSimilarityAnalyzer, folder: Path) -> None:
    picture = {
        "path": str(folder / "cat.png"),
        "pillow": Image.fromarray(PHOTOGRAPH),
        "array": PHOTOGRAPH,
        "float array": PHOTOGRAPH / 255,
        "tensor": torch.from_numpy(PHOTOGRAPH).permute(2, 0, 1),
        "16 bit": PHOTOGRAPH.astype(np.uint16) * 257,
    }[kind]
    expected = analyzer.analyze(folder / "cat.png")
    found = analyzer.analyze(picture)
    np.testing.assert_allclose(found.horizontal_right, expected.horizontal_right, atol=1e-6)
    np.testing.assert_array_equal(found.picture, expected.picture)


def test_grey_transparent_and_turned_pictures(analyzer: TokenSimilarityAnalyzer) -> None:
    grey = PHOTOGRAPH[..., 0]
    as_colour = analyzer.analyze(np.stack([grey] * 3, axis=2)).picture
    np.testing.assert_array_equal(analyzer.analyze(grey).picture, as_colour)
    np.testing.assert_array_equal(analyzer.analyze(Image.fromarray(grey)).picture, as_colour)
    alpha = np.full((*grey.shape, 1), 255, np.uint8)
    alpha[:, :200] = 0
    hidden = analyzer.analyze(np.concatenate([PHOTOGRAPH, alpha], axis=2)).picture
    np.testing.assert_array_equal(hidden, analyzer.analyze(PHOTOGRAPH * (alpha > 0)).picture)
    turned = Image.fromarray(np.rot90(PHOTOGRAPH).copy())
    turned.getexif()[0x0112] = 6  # to be turned by 90° clockwise
    np.testing.assert_array_equal(analyzer.analyze(turned).picture, analyzer.analyze(PHOTOGRAPH).picture)


def test_a_list_gives_a_list(analyzer: TokenSimilarityAnalyzer, folder: Path) -> None:
    first, second = analyzer.analyze([folder / "cat.png", PHOTOGRAPH[::-1].copy()])
    assert (first.tokens.id, second.tokens.id) == ("cat", "picture 1")
    assert not np.array_equal(first.vertical_down, second.vertical_down)


def test_two_pictures_are_compared(analyzer: TokenSimilarityAnalyzer, tmp_path: Path) -> None:
    darker = (PHOTOGRAPH * 0.7).astype(np.uint8)
    compared = analyzer.compare(PHOTOGRAPH, darker)
    change = compared.second.maps["token_change"]
    assert change.shape == (4, 4)
    assert float(change.min()) > 0
    assert "token_change" not in compared.first.maps
    compared.plot(tmp_path / "both.svg")
    assert "<svg" in (tmp_path / "both.svg").read_text()


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_the_suffix_is_the_format(suffix: str, start: bytes, analyzer: TokenSimilarityAnalyzer, tmp_path: Path) -> None:
    analyzer.analyze(PHOTOGRAPH).plot(tmp_path / f"out.{suffix}", cmap="magma", dpi=60)
    assert (tmp_path / f"out.{suffix}").read_bytes().startswith(start)


def test_saved_arrays_come_back(analyzer: TokenSimilarityAnalyzer, tmp_path: Path) -> None:
    result = analyzer.analyze(PHOTOGRAPH)
    result.save(tmp_path / "similarities.npz")
    back = read_image_tokens(tmp_path / "similarities.npz")
    assert (back.id, back.model, back.layers) == (result.tokens.id, result.tokens.model, result.tokens.layers)
    assert (back.prefix, back.grid_size, back.cls_source) == (("cls",), (4, 4), "cls")
    assert back.maps.keys() == result.tokens.maps.keys()
    for name, values in result.tokens.figures.items():
        np.testing.assert_array_equal(back.figures[name], values)


@pytest.mark.parametrize("mode", ["CMYK", "P", "LA", "1"])
def test_a_picture_in_memory_is_what_its_file_is(mode: str, analyzer: TokenSimilarityAnalyzer, tmp_path: Path) -> None:
    """Whatever Pillow's mode; CMYK and others become RGB by one rule."""
    path = tmp_path / f"cat.{'tif' if mode == 'CMYK' else 'png'}"
    Image.fromarray(PHOTOGRAPH).convert("L" if mode == "LA" else "RGB").convert(mode).save(path)
    with Image.open(path) as picture:
        assert picture.mode == mode
        np.testing.assert_array_equal(analyzer.analyze(picture).picture, analyzer.analyze(path).picture)

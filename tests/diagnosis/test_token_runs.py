"""The tables of a token diagnosis: whatever the batches, of some images, of patients, with masks, in any precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_files import write_mask, write_noise
from numpy.typing import NDArray
from pair_runs import run
from PIL import Image
from small_architectures import SMALL_KL
from token_runs import clip, settings, write_images

from layerscope.artifacts import read_csv, read_summary
from layerscope.artifacts.token_scores import MASK_FIGURES
from layerscope.token_similarity import TokenSimilarityAnalyzer

DOUBLE = "--trainer.precision=64-true"
Key = tuple[str, str, str, str]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "images", 5)


def values(folder: Path) -> dict[Key, Any]:
    """images.csv: (view, id, layer, figure) to value."""
    rows = read_csv(folder / "images.csv")
    return {(row["view"], row["id"], row["layer"], row["figure"]): row["value"] for row in rows}


def aggregate(folder: Path, view: str = "image") -> dict[tuple[str, str], dict[str, Any]]:
    """aggregate.csv of a view: (layer, figure) to the row."""
    rows = read_csv(folder / "aggregate.csv")
    return {(row["layer"], row["figure"]): row for row in rows if row["view"] == view}


def arrays(folder: Path, name: str = "similarities.npz") -> dict[str, NDArray[Any]]:
    with np.load(folder / name) as content:
        return {key: content[key] for key in content.files}


def assert_same(one: dict[Key, Any], other: dict[Key, Any], atol: float = 1e-9) -> None:
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert other[key] == pytest.approx(value, rel=0, abs=atol, nan_ok=True), key


def test_order_batches_and_workers_change_nothing(images: Path, tmp_path: Path) -> None:
    config = settings(images)
    one = values(run(tmp_path, "one", config, DOUBLE, "--data.batch_size=1"))
    assert len({key[1] for key in one}) == 5
    config["data"]["init_args"]["path"] = [str(path) for path in sorted(images.iterdir(), reverse=True)]
    assert_same(one, values(run(tmp_path, "all", config, DOUBLE, "--data.batch_size=8")))
    assert_same(one, values(run(tmp_path, "workers", config, DOUBLE, "--data.num_workers=2")))
    some = values(run(tmp_path, "some", config, DOUBLE, "--data.limit=2"))
    assert_same({key: value for key, value in one.items() if key[1] in ("a0", "a4")}, some)


def test_an_aggregate_is_that_of_its_images(images: Path, tmp_path: Path) -> None:
    folder = run(tmp_path, "run", settings(images))
    found, rows = values(folder), aggregate(folder)
    for (layer, figure), row in rows.items():
        of_images = [value for key, value in found.items() if key[2:] == (layer, figure)]
        assert row["n"] == len(of_images) == 5
        assert row["mean"] == pytest.approx(np.mean(of_images))
        assert row["std"] == pytest.approx(np.std(of_images, ddof=1))
    for name in ("a0", "a3"):
        saved = arrays(folder / "images" / name)
        mean = (saved["horizontal_right"].sum() + saved["vertical_down"].sum()) / 24
        assert found["image", name, "encoder.layers.1", "neighbour_similarity"] == pytest.approx(mean, abs=1e-6)


def test_images_of_a_patient_are_no_independent_images(tmp_path: Path) -> None:
    """Ten patients with three times the same image: intervals as wide as those of the ten images."""
    for patient in range(10):
        for number in range(3):
            write_noise(tmp_path / "three" / f"p{patient}_{number}.png", seed=patient)
        write_noise(tmp_path / "once" / f"p{patient}.png", seed=patient)
    grouped = run(tmp_path, "grouped", settings(tmp_path / "three"), r"--data.patient=(p\d)_")
    once, apart = (run(tmp_path, f"run_{name}", settings(tmp_path / name)) for name in ("once", "three"))
    assert read_summary(grouped)["counts"]["patients"] == 10
    key = ("encoder.layers.1", "neighbour_similarity")
    widths = [row["ci_hi"] - row["ci_lo"] for row in (aggregate(folder)[key] for folder in (grouped, once, apart))]
    assert widths[0] == pytest.approx(widths[1], rel=1e-6)
    assert widths[2] < 0.7 * widths[0]


def test_masks_of_some_images(images: Path, tmp_path: Path) -> None:
    for name in ("a0", "a2", "a3"):
        write_mask(tmp_path / "masks" / f"{name}.png", (10, 9, 31, 27), size=(40, 36))
    vae = {
        "class_path": "layerscope.models.autoencoders.DiffusersAutoencoder",
        "init_args": {"architecture": SMALL_KL, "seed": 0},
    }
    config = settings(images, autoencoder=vae)
    folder = run(tmp_path, "with_masks", config, f"--data.masks={tmp_path / 'masks'}")
    rows, lesion = aggregate(folder), aggregate(folder, "reconstruction")
    for layer in ("encoder.layers.0", "encoder.layers.1"):
        assert rows[layer, "border_drop"]["n"] == lesion[layer, "token_change_auroc"]["n"] == 3
        assert "2 images left out: no mask" in rows[layer, "border_drop"]["flag"]
        assert rows[layer, "border_drop"]["difference_from"] == "shifted_border_drop"
        assert rows[layer, "neighbour_similarity"]["n"] == 5
    for name, has_mask in (("a0", True), ("a1", False)):
        for kind in ("", "_reconstruction"):
            keys = arrays(folder / "images" / name, f"similarities{kind}.npz").keys()
            assert ("figure_border_drop" in keys) == has_mask
    # The same image with and without the others' masks.
    without = run(tmp_path, "without", config)
    found = {key: value for key, value in values(folder).items() if key[3] not in MASK_FIGURES}
    assert_same(found, values(without), atol=1e-5)
    said = str(read_summary(without)["not_measured"])
    assert "no image has a mask" in said
    assert not any(figure in MASK_FIGURES for _, figure in aggregate(without))
    assert not any("border" in key for key in arrays(without / "images" / "a0"))


@pytest.mark.parametrize(("precision", "bound"), [("bf16-mixed", 0.02), ("bf16-true", 0.02), ("16-true", 0.002)])
def test_precisions_stay_near(precision: str, bound: float, images: Path, tmp_path: Path) -> None:
    config = settings(images)
    exact, near = (
        arrays(run(tmp_path, name, config, f"--trainer.precision={name}", "--data.limit=1"))
        for name in ("32-true", precision)
    )
    for name in ("horizontal_right", "vertical_down", "cls_similarity"):
        assert near[name].dtype == np.float32
        np.testing.assert_allclose(near[name], exact[name], rtol=0, atol=bound)
        assert not np.array_equal(near[name], exact[name])


def test_a_box_is_in_pixels_of_the_file_in_any_precision(tmp_path: Path) -> None:
    """In bfloat16 the picture would have 2,064 × 1,512 pixels, and this one lie in the patch before."""
    write_noise(tmp_path / "large.png", size=(2057, 1509))
    # 32 × 32 patches: column 30 begins at 1,928.4 and row 30 at 1,414.7.
    config = settings(tmp_path / "large.png", encoder=clip(fit="stretch", image_size=256), box=[1929, 1415, 1930, 1416])
    for precision in ("32-true", "bf16-true"):
        found = arrays(run(tmp_path, precision, config, f"--trainer.precision={precision}"))["box_similarity"]
        assert divmod(int(found.argmax()), 32) == (30, 30)


def test_an_image_is_seen_upright_with_its_colours(tmp_path: Path) -> None:
    """EXIF's orientation, 16-bit grey and transparency give what plain files of the same pixels give."""
    generator = np.random.default_rng(0)
    levels = generator.integers(0, 256, (36, 40, 3), dtype=np.uint8)
    grey = generator.integers(0, 256, (36, 40), dtype=np.uint8)
    folder = tmp_path / "images"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    Image.fromarray(np.rot90(levels, 1)).save(folder / "turned.png", exif=exif)
    Image.fromarray(levels).save(folder / "upright.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "grey16.png")
    Image.fromarray(grey).save(folder / "grey8.png")
    alpha = np.full((36, 40, 1), 255, np.uint8)
    Image.fromarray(np.concatenate([levels, alpha], axis=-1)).save(folder / "opaque.png")
    found = run(tmp_path, "run", settings(folder), DOUBLE) / "images"
    maps = {path.name: arrays(path)["horizontal_right"] for path in found.iterdir()}
    np.testing.assert_allclose(maps["turned"], maps["upright"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(maps["opaque"], maps["upright"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(maps["grey16"], maps["grey8"], rtol=0, atol=1e-6)
    assert np.abs(maps["grey8"] - maps["upright"]).max() > 0.01


def test_two_models_of_different_grids(images: Path, tmp_path: Path) -> None:
    """Each as it is alone, and their difference between views of the same image."""
    other = clip(seed=1, image_size=48)
    both = run(tmp_path, "both", settings(images, other_encoder=other), DOUBLE)
    alone = [
        run(tmp_path, f"alone{number}", settings(images, encoder=one), DOUBLE)
        for number, one in enumerate((clip(), other))
    ]
    found = values(both)
    for view, expected in zip(("image", "other_model"), map(values, alone)):
        mine = {("image", *key[1:]): value for key, value in found.items() if key[0] == view}
        assert_same(expected, mine)
    assert arrays(both / "images" / "a0", "similarities_other_model.npz")["horizontal_right"].shape == (6, 5)
    first, second = (
        np.array([found[view, f"a{n}", "encoder.layers.1", "neighbour_similarity"] for n in range(5)])
        for view in ("image", "other_model")
    )
    row = aggregate(both, "other_model")["encoder.layers.1", "neighbour_similarity"]
    assert row["difference"] == pytest.approx((second - first).mean())
    assert row["difference_ci_lo"] < row["difference"] < row["difference_ci_hi"]


def test_the_command_gives_what_python_gives(images: Path, tmp_path: Path) -> None:
    others = tmp_path / "others"
    for number in range(5):
        write_noise(others / f"a{number}.jpg", seed=10 + number, size=(40, 36))
    folder = run(tmp_path, "run", settings(images), f"--data.other={others}") / "images" / "a1"
    from layerscope.models.transformers_tokens import TransformersTokens

    analyzer = TokenSimilarityAnalyzer(TransformersTokens(**clip()["init_args"]), device="cpu", layers="all")
    compared = analyzer.compare(images / "a1.png", others / "a1.jpg")
    for name, result in (("similarities", compared.first), ("similarities_other", compared.second)):
        saved = arrays(folder, f"{name}.npz")
        for key, expected in result.maps.items():
            np.testing.assert_allclose(saved[key], expected, rtol=0, atol=1e-5, err_msg=key)
    assert "token_change" in compared.second.maps

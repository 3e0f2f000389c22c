"""Layer differences through the command line: right values, whatever the batches, and the lesion found."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pair_runs import FLUX, SD, SDXL, read_json, run, settings, values
from PIL import Image
from torch import Tensor

from layerscope.artifacts import read_csv, read_summary
from layerscope.cli import main
from layerscope.data.hashing import rows_by_hash
from layerscope.data.images import read_image
from layerscope.data.phantom.write import write_phantom
from layerscope.models.autoencoders import DiffusersAutoencoder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pairs of 32 px."""
    return write_phantom(tmp_path_factory.mktemp("pairs") / "data", "pairs", n=12, size=32, seed=5)


def stored(architecture: dict[str, Any], layers: list[str], image: Tensor) -> dict[str, Tensor]:
    """The straightforward script: every activation of an image, kept."""
    # Frozen, as under diagnosis: with weights that could learn, attention takes another kernel and rounds otherwise.
    model = DiffusersAutoencoder(architecture=architecture, seed=0).eval().requires_grad_(False).model
    kept: dict[str, Tensor] = {}
    for name in layers:
        model.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: kept.__setitem__(name, output.clone())
        )
    with torch.no_grad():
        kept["latent"] = model.encode(image).latent_dist.mode()
        kept["reconstruction"] = model.decode(kept["latent"]).sample
    return kept


@pytest.mark.parametrize("architecture", [SD, SDXL, FLUX], ids=["sd", "sdxl", "flux"])
def test_values_equal_a_script_that_stores_everything(
    architecture: dict[str, Any], pairs: Path, tmp_path: Path
) -> None:
    layers = '["encoder.**.resnets.*", "encoder.conv_out", "decoder.**.resnets.*", "decoder.conv_*"]'
    # One pair a batch, as the script has it: batches of other sizes round otherwise.
    config = settings(pairs, architecture, batch_size=1)
    found = values(run(tmp_path, "run", config, f"--model.init_args.layers={layers}"))
    names = list(dict.fromkeys(layer for _, _, layer, _ in found))
    assert names.index("encoder.conv_out") < names.index("latent") < names.index("decoder.conv_in")
    modules = [name for name in names if name not in ("input", "latent", "reconstruction")]
    assert {"decoder.conv_out", "decoder.up_blocks.1.resnets.1", "encoder.mid_block.resnets.0"} <= set(modules)
    for path in sorted((pairs / "positive").iterdir())[:3]:
        images = torch.stack([read_image(path), read_image(pairs / "negative" / path.name)])
        kept = stored(architecture, modules, images) | {"input": images}
        for layer in names:
            a, b = kept[layer].double()
            distance = (a - b).norm()
            reference = {
                "l2": distance,
                "rms": distance / a.numel() ** 0.5,
                "relative_l2": distance / ((a.norm() ** 2 + b.norm() ** 2) / 2).sqrt(),
                "cosine_dissimilarity": 1 - torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0),
                "sqnr_db": 10 * torch.log10(a.norm() ** 2 / distance**2),
            }
            for metric, value in reference.items():
                assert found["pair", path.stem, layer, metric] == pytest.approx(float(value), rel=1e-5), (layer, metric)


def test_identical_images_differ_by_exactly_nothing(pairs: Path, tmp_path: Path) -> None:
    root = tmp_path / "same"
    shutil.copytree(pairs / "positive", root / "positive")
    shutil.copytree(pairs / "positive", root / "negative")
    directory = run(tmp_path, "run", settings(root))
    rows = [row for row in read_csv(directory / "pairs.csv") if row["role"] == "pair"]
    assert {row["value"] for row in rows if row["metric"] != "sqnr_db"} == {0.0}
    assert all(row["flag"] for row in rows if row["metric"] == "sqnr_db")
    aggregated = read_json(directory / "aggregated_results.json")["decoder.conv_out"]["relative_l2"]
    assert (aggregated["mean"], aggregated["std"]) == (0.0, 0.0)


def test_batches_and_order_do_not_matter(pairs: Path, tmp_path: Path) -> None:
    """In double precision, because another batch rounds differently."""
    double = "--trainer.precision=64-true"
    first = run(tmp_path, "first", settings(pairs), double)
    second = run(tmp_path, "second", settings(pairs, batch_size=8, num_workers=2), double)
    for name in ("aggregated_results.json", "summary.json"):
        one, other = read_json(first / name), read_json(second / name)
        if name == "summary.json":
            assert one["ranking"] == other["ranking"]
        else:
            assert one.keys() == other.keys()
            found, again = (result["decoder.conv_in"]["linear_cka"] for result in (one, other))
            assert found["groups"] == again["groups"] > 1
            for figure in ("value", "ci_lo", "ci_hi"):
                assert found[figure] == pytest.approx(again[figure], abs=1e-9)
    one, other = values(first), values(second)
    assert list(one) == list(other)
    np.testing.assert_allclose(list(one.values()), list(other.values()), rtol=1e-6, equal_nan=True)
    localised = [read_csv(folder / "localisation.csv") for folder in (first, second)]
    assert [row["auroc"] for row in localised[0]] == pytest.approx([row["auroc"] for row in localised[1]], nan_ok=True)


def test_linear_cka_needs_whole_groups_and_says_so(pairs: Path, tmp_path: Path) -> None:
    directory = run(tmp_path, "run", settings(pairs, batch_size=3))
    assert read_json(directory / "aggregated_results.json")["decoder.conv_in"]["linear_cka"]["value"] is None
    [reason] = [row["reason"] for row in read_summary(directory)["not_measured"] if "CKA" in row["what"]]
    assert "batch_size" in reason


def test_a_skipped_pair_breaks_its_group_and_no_other_and_is_told(pairs: Path, tmp_path: Path) -> None:
    root = tmp_path / "broken"
    shutil.copytree(pairs, root)
    names = [file.stem for file in sorted((root / "positive").iterdir())]
    (root / "positive" / f"{names[rows_by_hash(names)[5]]}.png").write_bytes(b"no image")
    whole = run(tmp_path, "whole", settings(pairs))
    directory = run(tmp_path, "run", settings(root, on_bad_image="skip", batch_size=8))
    summary = read_summary(directory)
    assert (summary["counts"]["cka_groups"], summary["counts"]["cka_groups_lost"]) == (2, 1)
    assert read_summary(whole)["counts"]["cka_groups"] == 3
    reasons = {row["what"]: row["reason"] for row in summary["not_measured"]}
    assert reasons["part of linear CKA"].startswith("1 of 3 groups of 4 pairs is broken by skipped pairs")
    found, before = (
        read_json(folder / "aggregated_results.json")["decoder.conv_in"]["linear_cka"] for folder in (directory, whole)
    )
    assert (found["groups"], before["groups"]) == (2, 3)
    assert found["value"] != before["value"]


def test_a_large_lesion_is_found_and_its_shifted_mask_is_not(tmp_path: Path) -> None:
    """At conv_out of the small VAE that ships, on planted lesions of 32 of 128 pixels."""
    root = write_phantom(tmp_path / "data", "pairs", n=12, size=128, lesions=("atrophy",), seed=1)
    config = settings(root, noise_floor="none")
    config["model"]["init_args"]["subject"]["init_args"] = {"source": "checkpoints/demo_vae"}
    config["data"]["init_args"]["image_size"] = None
    directory = run(tmp_path, "run", config)
    rows = [row for row in read_csv(directory / "localisation.csv") if row["layer"] == "decoder.conv_out"]
    assert len(rows) == 12
    assert np.mean([row["auroc"] for row in rows]) > 0.9
    assert np.mean([row["shifted_auroc"] for row in rows]) == pytest.approx(0.5, abs=0.15)
    assert np.mean([row["pointing"] for row in rows]) > 0.8


def test_a_difference_in_one_corner_peaks_there(pairs: Path, tmp_path: Path) -> None:
    image = np.asarray(Image.open(sorted((pairs / "negative").iterdir())[0])).copy()
    changed, mask = image.copy(), np.zeros(image.shape[:2], np.uint8)
    changed[:8, -8:] = 255 - changed[:8, -8:]
    mask[:8, -8:] = 255
    for name, pixels in (("a", changed), ("b", image), ("mask", mask)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    arguments = ["--img1", f"{tmp_path}/a.png", "--img2", f"{tmp_path}/b.png", "--mask", f"{tmp_path}/mask.png"]
    arguments += ["--vae", "checkpoints/demo_vae", "--image_size", "32", "--device", "cpu", "--output", str(tmp_path)]
    assert main(["pair", "--debug", *arguments]) == 0
    rows = {row["layer"]: row for row in read_csv(tmp_path / "single" / "a" / "localisation.csv")}
    assert rows["input"]["pointing"] == rows["decoder.conv_out"]["pointing"] == 1
    assert rows["input"]["auroc"] == 1
    assert rows["decoder.conv_out"]["auroc"] > 0.9


def test_a_layer_metric_of_a_users_own(pairs: Path, tmp_path: Path) -> None:
    config = settings(pairs, limit=4)
    metrics = [{"class_path": "pair_stand_ins.LargestChange"}]
    config["trainer"]["callbacks"][0]["init_args"] = {"metrics": metrics}
    directory = run(tmp_path, "run", config, "--allow-import=pair_stand_ins")
    found = {key[1]: value for key, value in values(directory).items() if key[2:] == ("input", "largest_change")}
    changes = {
        path.stem: float((read_image(path) - read_image(pairs / "negative" / path.name)).abs().max())
        for path in (pairs / "positive").iterdir()
        if path.stem in found
    }
    assert found == pytest.approx(changes, rel=1e-6)
    assert len(found) == 4
    aggregated = read_json(directory / "aggregated_results.json")["input"]["largest_change"]
    assert aggregated["mean"] == pytest.approx(np.mean(list(changes.values())), rel=1e-6)

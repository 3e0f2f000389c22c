"""Pair diagnoses of other subjects and settings: tiles, sizes, precision, sampled latents, models that are no VAE."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pair_runs import SD, read_json, run, settings, values, write
from pair_stand_ins import OneLayer, SmallNet
from PIL import Image
from torch import Tensor, nn

from layerscope.artifacts import read_csv, read_summary
from layerscope.cli import main
from layerscope.data.images import read_image
from layerscope.data.phantom.write import write_phantom
from layerscope.models.autoencoders import DiffusersAutoencoder

ALLOWED = "--allow-import=pair_stand_ins"
DOUBLE = "--trainer.precision=64-true"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pairs of 32 px."""
    return write_phantom(tmp_path_factory.mktemp("pairs") / "data", "pairs", n=6, size=32, seed=5)


@pytest.fixture
def two_sizes(pairs: Path, tmp_path: Path) -> Path:
    """The same, one of them 48 px wide."""
    root = shutil.copytree(pairs, tmp_path / "two_sizes")
    for folder in ("positive", "negative", "masks"):
        path = sorted((root / folder).iterdir())[2]
        Image.open(path).resize((48, 32), Image.Resampling.NEAREST).save(path)
    return root


def subject(name: str, root: Path, **data: Any) -> dict[str, Any]:
    config = settings(root, **data)
    config["model"]["init_args"]["subject"] = {"class_path": f"pair_stand_ins.{name}"}
    return config


def tiled(root: Path, **data: Any) -> dict[str, Any]:
    config = settings(root, **data)
    config["model"]["init_args"]["subject"]["init_args"] |= {"tiling": True, "tile_size": 16}
    return config


def images_of(root: Path, name: str) -> Tensor:
    return torch.stack([read_image(root / side / f"{name}.png") for side in ("positive", "negative")])


def relative_l2(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / ((a.norm() ** 2 + b.norm() ** 2) / 2).sqrt())


def test_reductions_of_bf16_activations_are_exact(pairs: Path, tmp_path: Path) -> None:
    name = sorted((pairs / "positive").iterdir())[0].stem
    layers = ["decoder.conv_in", "decoder.mid_block.resnets.0", "decoder.conv_out"]
    config = settings(pairs, batch_size=1, noise_floor="none")
    config["model"]["init_args"]["layers"] = layers
    found = values(run(tmp_path, "run", config, "--trainer.precision=bf16-mixed"))
    model = DiffusersAutoencoder(architecture=SD, seed=0).eval()
    kept: dict[str, Tensor] = {}
    for layer in layers:
        model.model.get_submodule(layer).register_forward_hook(
            lambda module, inputs, output, layer=layer: kept.__setitem__(layer, output)
        )
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model.decode(model.encode(images_of(pairs, name)).mean)
    for layer in layers:
        assert kept[layer].dtype == torch.bfloat16
        a, b = kept[layer].double()
        assert found["pair", name, layer, "relative_l2"] == pytest.approx(relative_l2(a, b), rel=1e-6)


def test_a_sampled_latent_has_one_noise_for_both_images(pairs: Path, tmp_path: Path) -> None:
    root = tmp_path / "same"
    for side in ("positive", "negative"):
        shutil.copytree(pairs / "positive", root / side)
    config = settings(root, noise_floor="same_image", limit=4)
    config["model"]["init_args"]["posterior"] = "sample"
    once = values(run(tmp_path, "once", config))
    latent = {
        role: [x for k, x in once.items() if k[0] == role and k[2:] == ("latent", "l2")] for role in ("pair", "floor")
    }
    assert latent["pair"] == [0.0] * 4
    assert len(latent["floor"]) == 4
    assert min(latent["floor"]) > 0
    assert {x for k, x in once.items() if k[0] == "pair" and k[3] != "sqnr_db"} == {0.0}
    again = values(run(tmp_path, "again", config))
    other = values(run(tmp_path, "other", config, "--model.init_args.noise_seed=1"))
    np.testing.assert_array_equal(list(once.values()), list(again.values()))
    changed = [key for key in once if key[0] == "floor" and key[2:] == ("latent", "l2") and once[key] != other[key]]
    assert len(changed) == 4


def test_the_order_of_rows_changes_no_pair(pairs: Path, tmp_path: Path) -> None:
    """Rows stand in the order of a hash of the names, so other names are another order."""
    root, names = tmp_path / "renamed", {}
    for side in ("positive", "negative", "masks"):
        (root / side).mkdir(parents=True)
        for number, path in enumerate(sorted((pairs / side).iterdir())):
            names[f"other{number}"] = path.stem
            shutil.copy(path, root / side / f"other{number}.png")
    options = {"noise_floor": "none", "batch_size": 4}
    first = values(run(tmp_path, "first", settings(pairs, **options), DOUBLE))
    second = values(run(tmp_path, "second", settings(root, **options), DOUBLE))
    renamed = {(role, names[name], layer, metric): value for (role, name, layer, metric), value in second.items()}
    assert first.keys() == renamed.keys()
    for key, value in first.items():
        assert renamed[key] == pytest.approx(value, rel=1e-6, nan_ok=True), key


def test_tiles_are_calls_of_their_own_without_a_place_in_the_image(pairs: Path, tmp_path: Path) -> None:
    directory = run(tmp_path, "run", tiled(pairs, noise_floor="none", limit=2))
    layers = list(read_json(directory / "aggregated_results.json"))
    # Tiles of 16 pixels with a quarter of overlap: three along each side of 32.
    assert {f"decoder.conv_in{number}" for number in ["", *(f":{k}" for k in range(2, 10))]} <= set(layers)
    assert "decoder.conv_in:10" not in layers
    localised = {row["layer"]: row for row in read_csv(directory / "localisation.csv")}
    assert localised["decoder.conv_in:2"]["flag"] == localised["decoder.conv_in"]["flag"] == "no image positions"
    assert np.isnan(localised["decoder.conv_out:9"]["auroc"])
    assert np.isfinite(localised["reconstruction"]["auroc"])
    summary = read_summary(directory)
    steps = [(step["stage"], step["from_layer"], step["to_layer"]) for step in summary["attribution"]["steps"]]
    assert steps == [("encoder", "input", "latent"), ("decoder", "latent", "reconstruction")]
    reasons = {row["what"]: row["reason"] for row in summary["not_measured"]}
    assert any(what.startswith("stages and thirds of ") and "decoder.conv_in" in what for what in reasons)
    [reason] = [reason for what, reason in reasons.items() if what.startswith("localisation in decoder.conv_in,")]
    assert "no known positions" in reason


def test_tiles_of_images_of_different_sizes(
    two_sizes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, "config", tiled(two_sizes, batch_size=1, image_size=None))
    assert main(["test", "--config", str(path), f"--output_root={tmp_path / 'outputs'}"]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "The layers that were called changed" in message
    assert "decoder.conv_in:10" in message
    assert "set data.init_args.image_size" in message


def test_images_of_different_sizes_one_at_a_time(two_sizes: Path, tmp_path: Path) -> None:
    directory = run(tmp_path, "run", settings(two_sizes, batch_size=1, image_size=None), DOUBLE)
    found = values(directory)
    layer = read_json(directory / "aggregated_results.json")["decoder.conv_in"]
    assert layer["shape"] == [1, 8, 16, None]
    model = DiffusersAutoencoder(architecture=SD, seed=0).eval().double()
    energies, elements = torch.zeros(3, dtype=torch.float64), 0
    for path in sorted((two_sizes / "positive").iterdir()):
        with torch.no_grad():
            a, b = model.model.decoder.conv_in(
                model.model.post_quant_conv(model.encode(images_of(two_sizes, path.stem).double()).mean.double())
            )
        energies += torch.stack([a.square().sum(), b.square().sum(), (a - b).square().sum()])
        elements += a.numel()
        l2 = found["pair", path.stem, "decoder.conv_in", "l2"]
        assert l2 == pytest.approx(float((a - b).norm()), rel=1e-5)
        rms = found["pair", path.stem, "decoder.conv_in", "rms"]
        assert rms == pytest.approx(float((a - b).norm()) / a.numel() ** 0.5, rel=1e-5)
    pooled = layer["pooled"]
    assert pooled["l2"] == pytest.approx(float(energies[2]) ** 0.5, rel=1e-5)
    assert pooled["rms"] == pytest.approx(float(energies[2] / elements) ** 0.5, rel=1e-5)
    relative = float(energies[2] / ((energies[0] + energies[1]) / 2)) ** 0.5
    assert pooled["relative_l2"] == pytest.approx(relative, rel=1e-5)
    assert pooled["sqnr_db"] == pytest.approx(float(10 * torch.log10(energies[0] / energies[2])), rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_model_that_is_no_autoencoder(pairs: Path, tmp_path: Path, batch_size: int) -> None:
    """A batch of 4 pairs has the 8 rows that its table has too; the last batch has fewer."""
    config = subject("SmallNet", pairs, batch_size=batch_size)
    config["trainer"]["callbacks"][1]["init_args"] = {"first": 1, "top": 0}
    directory = run(tmp_path, "run", config, ALLOWED)
    assert list(read_json(directory / "aggregated_results.json")) == ["input", "conv", "act", "head"]
    reasons = {row["what"]: row["reason"] for row in read_summary(directory)["not_measured"]}
    assert reasons["layer spare"] == "it was not called"
    assert "(8, 4) is not that of images" in reasons["layer bias"]
    assert "no known positions" in reasons["localisation in head"]
    [pictures] = (directory / "pairs").iterdir()
    assert (pictures / "heatmaps" / "all_layers.png").exists()
    assert not (pictures / "reconstructed_images.png").exists()
    found, net = values(directory), SmallNet()
    for path in sorted((pairs / "positive").iterdir())[:2]:
        with torch.no_grad():
            a, b = net(images_of(pairs, path.stem)).double()
            before = nn.functional.conv2d(images_of(pairs, path.stem), net.conv.weight, net.conv.bias, 2, 1).double()
        assert found["pair", path.stem, "head", "relative_l2"] == pytest.approx(relative_l2(a, b), rel=1e-4)
        # The activation behind it works in place.
        assert found["pair", path.stem, "conv", "relative_l2"] == pytest.approx(relative_l2(*before), rel=1e-5)


def test_a_model_of_a_single_layer(pairs: Path, tmp_path: Path) -> None:
    directory = run(tmp_path, "run", subject("OneLayer", pairs), ALLOWED)
    assert list(read_json(directory / "aggregated_results.json")) == ["input", "conv"]
    assert read_summary(directory)["counts"]["layers"] == 1
    [name, *_] = [path.stem for path in sorted((pairs / "positive").iterdir())]
    with torch.no_grad():
        a, b = OneLayer()(images_of(pairs, name)).double()
    assert values(directory)["pair", name, "conv", "l2"] == pytest.approx(float((a - b).norm()), rel=1e-5)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("pair_stand_ins.AllSilent", "None of the watched layers can be measured (conv: it was not called)"),
        ("torch.nn.Identity", "There are no modules inside the Identity"),
    ],
)
def test_a_model_without_a_layer_to_measure(
    model: str, told: str, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = settings(pairs)
    config["model"]["init_args"]["subject"] = {"class_path": model}
    path = write(tmp_path, "config", config)
    assert main(["test", "--config", str(path), f"--output_root={tmp_path / 'outputs'}", ALLOWED]) == 2
    assert told in " ".join(capsys.readouterr().err.split())

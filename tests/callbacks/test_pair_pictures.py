"""Which pairs get pictures, the mean heat maps, and what a folder of pairs writes for TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pair_runs import read_json, run, settings, values
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from layerscope.artifacts.layer_scores import POINTS
from layerscope.callbacks.pair_pictures import PairPictures
from layerscope.data.images import read_image
from layerscope.data.phantom.write import write_phantom
from layerscope.errors import ConfigurationError

FIRST, TOP, SIDE = 2, 3, 8


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pairs of 32 px, one of which is identical."""
    root = write_phantom(tmp_path_factory.mktemp("pairs") / "data", "pairs", n=10, size=32, seed=5)
    same = sorted((root / "positive").iterdir())[5]
    same.write_bytes((root / "negative" / same.name).read_bytes())
    return root


@pytest.fixture(scope="module")
def directory(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with pictures of some pairs, mean heat maps, and the logger that is used when none is configured."""
    config = pictured(settings(pairs), FIRST, TOP)
    del config["trainer"]["logger"]
    maps = {"class_path": "layerscope.callbacks.mean_heat_maps.MeanHeatMaps", "init_args": {"side": SIDE}}
    config["trainer"]["callbacks"].insert(1, maps)
    return run(tmp_path_factory.mktemp("runs"), "run", config)


def pictured(config: dict[str, Any], first: int, top: int) -> dict[str, Any]:
    config["trainer"]["callbacks"][1]["init_args"] = {"first": first, "top": top}
    return config


def by_difference(directory: Path) -> list[str]:
    """Ids by the mean of relative L2 over the watched layers in pairs.csv, the most different first."""
    rows: dict[str, list[float]] = {}
    for (role, name, layer, metric), value in values(directory).items():
        if role == "pair" and metric == "relative_l2" and layer not in POINTS:
            rows.setdefault(name, []).append(value)
    return sorted(rows, key=lambda name: -np.mean(rows[name]))


def test_the_first_and_the_most_different_pairs_have_pictures(directory: Path) -> None:
    ranked = by_difference(directory)
    wanted = {*sorted(ranked)[:FIRST], *ranked[:TOP]}
    folders = {path.name: path for path in (directory / "pairs").iterdir()}
    assert folders.keys() == wanted
    assert len(wanted) > TOP
    found = values(directory)
    for name, folder in folders.items():
        assert (folder / "reconstructed_images.png").exists()
        record = read_json(folder / "layer_differences.json")
        assert record["decoder.conv_out"]["l2_value"] == pytest.approx(found["pair", name, "decoder.conv_out", "l2"])
        assert record["decoder.conv_out"]["shape"] == [1, 3, 32, 32]
        maps = sorted(path.name for path in (folder / "heatmaps").iterdir())
        assert maps == ["00_input.png", *maps[1:-1], "all_layers.png"]
        assert len(maps) == len(record) + 1
    assert list(directory.glob(".*")) == []


def test_no_pictures_when_none_are_asked_for(pairs: Path, tmp_path: Path) -> None:
    directory = run(tmp_path, "run", pictured(settings(pairs, limit=3), 0, 0))
    assert not (directory / "pairs").exists()
    with pytest.raises(ConfigurationError, match="first is -1"):
        PairPictures(first=-1)


def test_mean_heat_maps_are_means_of_densities(directory: Path, pairs: Path) -> None:
    densities, positives = [], []
    for path in sorted((pairs / "positive").iterdir()):
        a, b = read_image(path).double(), read_image(pairs / "negative" / path.name).double()
        distance = (a - b).norm(dim=0)
        positives.append(blocks(a))
        if distance.any():
            densities.append(blocks(distance / distance.mean()))
    assert len(densities) == 9
    with np.load(directory / "mean_heat_maps.npz") as maps:
        np.testing.assert_allclose(maps["mean input"], np.mean(densities, axis=0), rtol=1e-5)
        np.testing.assert_allclose(maps["std input"], np.std(densities, axis=0, ddof=1), rtol=1e-5)
        np.testing.assert_allclose(maps["mean positive"], np.mean(positives, axis=0), rtol=1e-5, atol=1e-7)
        assert (maps["n input"] == 9).all()
        assert (maps["n positive"] == 10).all()
        assert maps["mean decoder.conv_in"].mean() == pytest.approx(1, rel=1e-6)
    assert (directory / "figures" / "mean_heat_maps.png").exists()


def blocks(image: torch.Tensor) -> np.ndarray:
    """(..., 32, 32) to means over squares of 4 pixels."""
    return image.unflatten(-1, (SIDE, 4)).unflatten(-3, (SIDE, 4)).mean(dim=(-1, -3)).numpy()


def test_mean_heat_maps_of_images_of_different_sizes(pairs: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    for number, width in enumerate((32, 32, 48)):
        for side in ("positive", "negative"):
            (root / side).mkdir(parents=True, exist_ok=True)
            source = Image.open(sorted((pairs / side).iterdir())[number])
            source.resize((width, 32)).save(root / side / f"{number}.png")
    config = settings(root, image_size=None, batch_size=1)
    config["trainer"]["callbacks"].insert(1, {"class_path": "layerscope.callbacks.mean_heat_maps.MeanHeatMaps"})
    directory = run(tmp_path, "run", config)
    assert not (directory / "mean_heat_maps.npz").exists()
    reasons = {row["what"]: row["reason"] for row in read_json(directory / "summary.json")["not_measured"]}
    assert "different sizes" in reasons["mean heat maps"]


def test_figures_and_hyperparameters_are_in_tensorboard(directory: Path) -> None:
    events = EventAccumulator(str(directory / "tensorboard"), size_guidance={"images": 0, "scalars": 0}).Reload()
    assert {"aggregated_differences", "figures/localisation"} <= set(events.Tags()["images"])
    aggregated = read_json(directory / "aggregated_results.json")
    for layer in ("decoder.conv_in", "reconstruction"):
        [scalar] = events.Scalars(f"relative_l2/{layer}")
        assert scalar.value == pytest.approx(aggregated[layer]["relative_l2"]["mean"], rel=1e-6)
        [scalar] = events.Scalars(f"effect/{layer}")
        assert scalar.value == pytest.approx(aggregated[layer]["relative_l2"]["effect"], rel=1e-6)
    content = HParamsPluginData.FromString(events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content)
    hparams = content.session_start_info.hparams
    assert hparams["subject"].string_value == "DiffusersAutoencoder"
    assert hparams["posterior"].string_value == "mode"

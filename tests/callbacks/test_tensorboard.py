"""What a diagnosis writes for TensorBoard, read back with TensorBoard's own reader."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from stand_ins import diagnosis
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from layerscope.artifacts import read_summary
from layerscope.cli import main


@pytest.fixture(scope="module")
def run(fundus_phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small diagnosis with a sweep of noise levels and the logger that is used when none is configured."""
    folder = tmp_path_factory.mktemp("tensorboard")
    path = diagnosis(fundus_phantom, folder / "config.yaml", timesteps=[0, 200, 600])
    config = yaml.safe_load(path.read_text())
    del config["trainer"]["logger"]
    path.write_text(yaml.safe_dump(config))
    allowed = ["--allow-import=oracles", "--allow-import=stand_ins"]
    places = [f"--output_root={folder / 'outputs'}", "--experiment_name=run"]
    assert main(["test", "--debug", "--config", str(path), *places, *allowed]) == 0
    return folder / "outputs" / "run"


@pytest.fixture(scope="module")
def events(run: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0, "scalars": 0})
    return accumulator.Reload()


def picture(events: EventAccumulator, tag: str) -> np.ndarray:
    (image,) = events.Images(tag)
    return np.asarray(Image.open(io.BytesIO(image.encoded_image_string)).convert("RGB"))


def test_headline_figures_are_scalars(run: Path, events: EventAccumulator) -> None:
    overall = read_summary(run)["verdict"]["overall"]
    finite = {key: value for key, value in overall.items() if isinstance(value, float) and math.isfinite(value)}
    assert len(finite) > 2
    assert {f"bottleneck/{key}" for key in finite} <= set(events.Tags()["scalars"])
    for key, value in finite.items():
        (scalar,) = events.Scalars(f"bottleneck/{key}")
        assert scalar.value == pytest.approx(value, rel=1e-6)


def test_every_figure_is_there(run: Path, events: EventAccumulator) -> None:
    written = {path.stem for path in (run / "figures").glob("*.png")}
    assert {"t_curve", "label_t_heatmap"} <= written
    assert written <= set(events.Tags()["images"])
    for name in written:
        assert np.ptp(picture(events, name)) > 50, f"{name} is blank"


def test_worst_samples_are_pictures(run: Path, events: EventAccumulator) -> None:
    with (run / "worst_samples.csv").open(newline="") as file:
        ids = {row["id"] for row in csv.DictReader(file)}
    tags = {tag for tag in events.Tags()["images"] if tag.startswith("worst_samples/")}
    assert tags
    assert tags <= {f"worst_samples/{name}" for name in ids}
    for tag in tags:
        assert np.ptp(picture(events, tag)) > 0


def test_hyperparameters_name_the_models(events: EventAccumulator) -> None:
    metadata = events.SummaryMetadata("_hparams_/session_start_info")
    assert metadata.plugin_data.plugin_name == "hparams"
    content = HParamsPluginData.FromString(metadata.plugin_data.content)
    hparams = content.session_start_info.hparams
    assert hparams["autoencoder"].string_value == "BlockMean"
    assert hparams["teacher"].string_value == "Pooled"

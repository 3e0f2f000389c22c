"""Curves and picture sheets of a training: complete, uncut, and honest about scale."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from layerscope.artifacts import HISTORY_JSON, open_run_directory, read_csv, read_history, write_history
from layerscope.errors import ArtifactError
from layerscope.report.figure_style import DPI, png
from layerscope.report.figures_reconstruction import PicturedSample, latent_figure, reconstruction_figure
from layerscope.report.figures_training import training_curves_figure


def history(epochs: int, every: int = 1) -> list[dict[str, Any]]:
    rows = []
    for epoch in range(1, epochs + 1):
        decay = math.exp(-epoch / 15) + 0.02
        row = {"epoch": epoch, "batches": 9 * epoch, "seconds": 3.0, "train_seconds": 2.0, "images_per_second": 36.0}
        row |= {"lr": 1e-4, "train/loss_step": decay, "train/loss_epoch": decay, "train/rec_mean": decay / 2}
        if epoch % every == 0:
            row |= {
                "val/psnr": 20 - decay,
                "val/ssim": 1 - decay / 2,
                "val/kl_per_image": 1000 * decay,
                "val/loss": decay,
            }
            row |= {f"val/band_{name}": decay / 100 for name in ("16_32", "2_4", "64_up")}
            row |= {"val/latent_mean_0": 0.1, "val/kl_channel_12": 3.0, "val/$odd_name$": -decay}
        rows.append(row)
    return rows


def pixels_of(figure: Figure) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return np.asarray(Image.open(io.BytesIO(png(figure))).convert("RGB"))


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def test_figures_load_no_torch() -> None:
    statement = "import layerscope.report.figures_training, layerscope.report.figures_reconstruction"
    code = f"import sys; {statement}; sys.exit('torch' in sys.modules or 'lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("epochs", "every"), [(1, 1), (1, 2), (2, 1), (100, 3)])
def test_curves_draw_uncut_for_few_and_many_epochs(epochs: int, every: int) -> None:
    figure = training_curves_figure(history(epochs, every))
    assert figure is not None
    grey = pixels_of(figure).mean(axis=2)
    assert grey.std() > 5
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    assert (border > 250).mean() > 0.99
    parts = [*(axes.get_tightbbox() for axes in figure.axes), *(one.get_window_extent() for one in figure.legends)]
    assert not [1 for i, a in enumerate(parts) for b in parts[:i] if a.overlaps(b)]
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    if epochs >= every:
        assert titles == [
            *(
                "loss",
                "mean absolute error, of [−1, 1]",
                "PSNR (dB)",
                "SSIM",
                "error by wavelength",
                "KL (nats per image)",
            ),
            *(r"\$odd_name\$", "learning rate"),
        ]
    else:
        assert titles == ["loss", "mean absolute error, of [−1, 1]", "learning rate"]


def test_curves_show_every_finite_value_and_scale_where_it_helps() -> None:
    rows = history(100, 3)
    rows[5]["val/psnr"] = math.nan
    figure = training_curves_figure(rows)
    assert figure is not None
    axes = {one.get_title(loc="left"): one for one in figure.axes}
    loss = [line.get_xydata() for line in axes["loss"].lines]
    np.testing.assert_array_equal(loss[0], [(row["epoch"], row["train/loss_epoch"]) for row in rows])
    np.testing.assert_array_equal(loss[1], [(row["epoch"], row["val/loss"]) for row in rows if "val/loss" in row])
    assert len(axes["PSNR (dB)"].lines[0].get_xdata()) == 32
    bands = [text.get_text() for legend in figure.legends for text in legend.get_texts() if "px" in text.get_text()]
    assert bands == ["2–4 px", "16–32 px", "64 and more px"]
    assert len(axes["error by wavelength"].lines) == 3
    scales = {title: one.get_yscale() for title, one in axes.items()}
    assert {title for title, scale in scales.items() if scale == "log"} == {
        *("loss", "mean absolute error, of [−1, 1]", "error by wavelength", "KL (nats per image)")
    }
    assert training_curves_figure([]) is None


def test_curves_from_the_file_equal_those_from_memory(tmp_path: Path) -> None:
    rows = history(12, 2)
    rows[3]["val/psnr"] = math.nan
    with open_run_directory(tmp_path / "run").staged() as stage:
        write_history(stage, rows)
    fresh = training_curves_figure(rows)
    assert fresh is not None
    for stored in (read_history(tmp_path / "run"), read_csv(tmp_path / "run" / "training_history.csv")):
        figure = training_curves_figure(stored)
        assert figure is not None
        assert png(figure) == png(fresh)


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"schema_version": 1, "rows": 3}', '{"schema_version": 99, "rows": []}']
)
def test_a_history_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    with pytest.raises(ArtifactError, match="could not be read"):
        read_history(tmp_path)
    (tmp_path / HISTORY_JSON).write_text(text)
    with pytest.raises(ArtifactError, match="history"):
        read_history(tmp_path)


def test_a_history_is_json_without_nan(tmp_path: Path) -> None:
    with open_run_directory(tmp_path / "run").staged() as stage:
        write_history(stage, [{"epoch": 1, "val/psnr": math.inf, "train/loss": math.nan}])
    stored = json.loads((tmp_path / "run" / HISTORY_JSON).read_text())
    assert stored["rows"] == [{"epoch": 1, "val/psnr": None, "train/loss": None}]


def samples(n: int, height: int, width: int, channels: int = 4) -> list[PicturedSample]:
    rng = np.random.default_rng(0)
    found = []
    for k in range(n):
        original = rng.integers(30, 200, (height, width, 3), dtype=np.uint8)
        latent = rng.normal(size=(channels, max(1, height // 8), max(1, width // 8)))
        latent[0] = 0.25
        found.append(PicturedSample(f"a long $name of image {k}", original, original + np.uint8(8), latent, 30.1))
    return found


@pytest.mark.parametrize(("n", "height", "width"), [(1, 1024, 700), (8, 64, 64), (3, 40, 96), (1, 16, 16)])
def test_sheets_draw_uncut_at_any_number_and_size(n: int, height: int, width: int) -> None:
    for figure in (
        reconstruction_figure(samples(n, height, width), 10, 8.0),
        latent_figure(samples(n, height, width), 0),
    ):
        sheet = pixels_of(figure)
        border = np.concatenate([sheet[0], sheet[-1], sheet[:, 0], sheet[:, -1]])
        assert (border > 250).all()
        figure.canvas.draw()
        size = figure.get_size_inches() * DPI
        for text in figure.texts:
            box = text.get_window_extent()
            assert box.x0 >= 0
            assert box.x1 <= size[0]
            assert box.y0 >= 0
            assert box.y1 <= size[1]
        boxes = [text.get_window_extent() for text in figure.texts]
        assert not [1 for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]


def test_a_sheet_holds_the_pixels_of_its_images_whole() -> None:
    (one,) = samples(1, 64, 80)
    sheet = pixels_of(reconstruction_figure([one], 10, 8.0))
    factor = 7  # the smallest whole factor that fills the sheet's least width
    for picture in (one.original, one.reconstruction):
        large = picture.repeat(factor, axis=0).repeat(factor, axis=1)
        corner = np.argwhere((sheet[:, :, :] == large[0, 0]).all(axis=2))
        found = any(np.array_equal(sheet[y:, x:][: large.shape[0], : large.shape[1]], large) for y, x in corner)
        assert found


def test_the_scale_of_the_difference_is_named_and_kept() -> None:
    pictured = samples(2, 64, 64)
    figure = reconstruction_figure(pictured, 10, 8.0)
    assert "difference\n× 8" in texts(figure)
    _, bar = figure.axes
    assert [tick.get_text() for tick in bar.get_xticklabels()] == ["−32", "0", "+32"]
    assert any("Validation images after epoch 10" in text for text in texts(figure))
    assert any("30.1 dB" in text for text in texts(figure))
    assert "Latent channels before training" in texts(latent_figure(pictured, 0))
    assert "channel 0\nconstant 0.25" in texts(latent_figure(pictured, 0))

"""The notebooks run from top to bottom on a real run directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def test_the_bottleneck_tour_runs_and_shows_the_verdict(
    diagnose: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = diagnose(
        "--model.init_args.autoencoder=oracles.BlockMean",
        "--model.init_args.autoencoder.init_args.k=8",
        "--model.init_args.noise.timesteps=[0, 153, 538]",
    )
    monkeypatch.setenv("LAYERSCOPE_RUN", str(run))
    notebook = nbformat.read(NOTEBOOKS / "01_bottleneck.ipynb", as_version=4)
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "The VAE is a bottleneck" in printed
    assert "as in per_label.csv" in printed

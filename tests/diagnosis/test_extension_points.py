"""An autoencoder, a teacher, a schedule, a denoiser and a callback from outside the package, by class_path alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from layerscope.artifacts import read_csv, read_summary


def test_everything_can_come_from_a_module_of_the_users_own(diagnose: Callable[..., Path], tmp_path: Path) -> None:
    run = diagnose(
        "--allow-import=outside",
        "--model.init_args.autoencoder=oracles.BlockMean",
        "--model.init_args.autoencoder.init_args.k=4",
        "--model.init_args.teacher=outside.MeanColourTeacher",
        "--model.init_args.noise.scheduler=outside.CosineSchedule",
        "--model.init_args.noise.scheduler.init_args.length=10",
        "--model.init_args.noise.timesteps=[0, 2, 5]",
        "--model.init_args.noise.denoiser=outside.PosteriorMean",
        "--trainer.callbacks+=outside.BatchCounter",
        f"--trainer.callbacks.init_args.path={tmp_path / 'batches'}",
        "--data.init_args.limit=70",
    )
    summary = read_summary(run)
    assert summary["noise"]["schedule"] == "cosine"
    assert summary["noise"]["denoiser"] == "PosteriorMean"
    assert (tmp_path / "batches").read_text() == "2"
    rows = {row["condition"]: row["log_snr"] for row in read_csv(run / "t_curve.csv") if row["condition"] != "real"}
    assert rows["t5"] == pytest.approx(0, abs=1e-9)
    assert rows["t2"] == pytest.approx(2 * math.log(1 / math.tan(math.pi / 10)))
    [reason] = [entry["reason"] for entry in summary["not_measured"] if "cosines" in entry["what"]]
    assert "MeanColourTeacher" in reason

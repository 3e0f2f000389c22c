"""An autoencoder, a teacher, a schedule, a denoiser and a callback from outside the package, by class_path alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from layerscope.artifacts import UNREPORTED_SCORES, BottleneckScores, read_csv, read_summary
from layerscope.cli import main


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


def test_models_of_the_users_own_get_plain_tensors(diagnose: Callable[..., Path]) -> None:
    run = diagnose(
        "--allow-import=outside",
        "--model.init_args.autoencoder=outside.ChannelsLast",
        "--model.init_args.teacher=outside.ViewTeacher",
        "--model.init_args.noise.timesteps=[0, 300]",
        "--model.init_args.controls=[roundtrip8, down4, jpeg_q75, blur3, shift1]",
        "--data.init_args.limit=20",
    )
    assert read_summary(run)["counts"]["images"] == 20


def test_a_denoiser_is_judged_in_evaluation_mode(diagnose: Callable[..., Path]) -> None:
    noisy = [
        "--model.init_args.autoencoder=oracles.BlockMean",
        "--model.init_args.autoencoder.init_args.k=4",
        "--model.init_args.noise.timesteps=[0, 330]",
        "--data.init_args.limit=40",
    ]
    without = diagnose(*noisy, name="without")
    careless = diagnose(
        *noisy, "--allow-import=outside", "--model.init_args.noise.denoiser=outside.CarelessDenoiser", name="careless"
    )
    a, b = (BottleneckScores.load(run / "scores.npz").logits for run in (without, careless))
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_an_autoencoder_that_changes_the_size_is_refused(
    oracle_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--config", str(oracle_config), "--allow-import=outside"]
    assert main(["test", *arguments, "--model.init_args.autoencoder=outside.ShrinkingAutoencoder"]) == 2
    assert "decodes to (3, 32, 32), but the images are (3, 64, 64)" in " ".join(capsys.readouterr().err.split())


def test_latent_statistics_and_null_do_not_depend_on_the_order_of_the_table(
    diagnose: Callable[..., Path], exact_phantom: Path, tmp_path: Path
) -> None:
    header, *rows = (exact_phantom / "labels.csv").read_text().splitlines()
    backwards = tmp_path / "backwards.csv"
    backwards.write_text("\n".join([header, *reversed(rows)]) + "\n")
    measured = ["--model.init_args.noise.latent_statistics_images=20", "--data.init_args.split_file=splits.yaml"]
    forth = read_summary(diagnose(*measured, name="forth"))["noise"]["latent_std"]
    back = read_summary(diagnose(*measured, f"--data.init_args.table={backwards}", name="back"))["noise"]["latent_std"]
    assert forth == pytest.approx(back, rel=1e-9)


def test_scores_survive_a_report_that_fails(
    oracle_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from layerscope.callbacks import bottleneck_report

    def fail(*args: object) -> None:
        raise RuntimeError("a figure went wrong")

    monkeypatch.setattr(bottleneck_report, "bottleneck_figures", fail)
    monkeypatch.chdir(tmp_path)
    arguments = ["--config", str(oracle_config), "--experiment_name=lost", "--allow-import=oracles"]
    assert main(["test", *arguments, "--data.init_args.limit=30"]) == 1
    kept = BottleneckScores.load(tmp_path / "outputs" / "lost" / UNREPORTED_SCORES)
    assert len(kept.id) == 30
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert main(["test", *arguments, "--data.init_args.limit=30"]) == 0  # the unfinished directory is taken again

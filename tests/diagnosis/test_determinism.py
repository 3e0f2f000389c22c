"""What must not matter does not: batch size, workers, chunks, where thresholds come from. And settings that run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from result_tables import assert_equal_results
from small_architectures import SMALL_KL
from stand_ins import CountingBlockMean, diagnosis

from layerscope.artifacts import BottleneckScores, Thresholds, read_csv, read_summary
from layerscope.cli import main
from layerscope.data.multilabel import MultilabelImages
from layerscope.data.phantom.write import write_phantom
from layerscope.models.autoencoders import DiffusersAutoencoder
from layerscope.models.teachers import TimmTeacher

ALLOWED = ("--allow-import=oracles", "--allow-import=stand_ins")
ARCHITECTURE = SMALL_KL | {"latent_channels": 4, "scaling_factor": 0.5}
TEACHER: dict[str, Any] = {
    "name": "resnet10t",
    "num_labels": 5,
    "model_kwargs": {"channels": [8, 8, 16, 16], "stem_width": 8},
}


@pytest.fixture(autouse=True, scope="module")
def no_figures() -> Iterator[None]:
    """Nothing here looks at figures, which take half of the time of such a small run."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("layerscope.callbacks.bottleneck_report.bottleneck_figures", lambda *_: {})
        yield


def lively_teacher(root: Path) -> TimmTeacher:
    """Random weights, and batch norms that know the images: a fresh network hardly tells any two apart."""
    teacher = TimmTeacher(**TEACHER).train()
    for module in teacher.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.1, 0.3)
            module.momentum = None
    data = MultilabelImages(str(root), "schema.yaml", "labels.csv", batch_size=32, eval_split="train")
    with torch.no_grad():
        for batch in data.test_dataloader():
            teacher(batch["image"])
    return teacher


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real AutoencoderKL and a real timm teacher, small and random, on 13 fundus images of 32 px."""
    folder = tmp_path_factory.mktemp("determinism")
    root = write_phantom(folder / "fundus", "fundus", n=60, size=32, seed=2)
    torch.manual_seed(4)
    DiffusersAutoencoder(architecture=ARCHITECTURE).save(folder / "vae")
    lively_teacher(root).save(folder / "teacher.safetensors")
    path = diagnosis(root, folder / "config.yaml", timesteps=[0, 200, 600], draws=2, latent_statistics_images=10)
    content = yaml.safe_load(path.read_text())
    arguments = content["model"]["init_args"]
    arguments["autoencoder"] = {
        "class_path": "layerscope.models.autoencoders.DiffusersAutoencoder",
        "init_args": {"source": str(folder / "vae")},
    }
    arguments["teacher"] = {
        "class_path": "layerscope.models.teachers.TimmTeacher",
        "init_args": {**TEACHER, "checkpoint": str(folder / "teacher.safetensors")},
    }
    arguments["controls"] = ["jpeg_q75"]
    content["data"]["init_args"]["limit"] = 13
    # In double precision: single precision rounds otherwise for every batch size and processor, and random networks
    # amplify that, so that a real dependence on the batch could hide in the tolerance it would need.
    content["trainer"]["precision"] = "64-true"
    path.write_text(yaml.safe_dump(content))
    return path


def diagnose(config: Path, name: str, *overrides: str) -> Path:
    folder = config.parent / "runs"
    where = [f"--output_root={folder}", f"--experiment_name={name}"]
    assert main(["test", "--debug", "--config", str(config), *where, *ALLOWED, *overrides]) == 0
    return folder / name


@pytest.fixture(scope="module")
def reference(config: Path) -> Path:
    return diagnose(config, "reference")


BATCH, WORKERS = "--data.init_args.batch_size", "--data.init_args.num_workers"
CHUNK, NOISE = "--model.init_args.decode_batch_size", "--model.init_args.noise"


@pytest.mark.parametrize(("batch", "workers", "chunk"), [(1, 0, 8), (3, 0, 1), (8, 0, 8), (3, 2, 5)])
def test_batches_workers_and_chunks_change_nothing(
    config: Path, reference: Path, batch: int, workers: int, chunk: int
) -> None:
    name = f"b{batch}w{workers}c{chunk}"
    other = diagnose(config, name, f"{BATCH}={batch}", f"{WORKERS}={workers}", f"{CHUNK}={chunk}")
    assert_equal_results(reference, other)
    mine, theirs = (read_summary(run)["cost"] for run in (reference, other))
    assert theirs["rate_bits"] == pytest.approx(mine["rate_bits"], rel=1e-5)
    assert mine["rate_bits"] > 0


def test_each_image_is_encoded_once(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Latents behind the statistics are used again; where there is no room to keep them, the result is the same."""
    counting = ["--model.init_args.autoencoder=stand_ins.CountingBlockMean", "--model.init_args.autoencoder.k=4"]
    monkeypatch.setattr(CountingBlockMean, "encoded", 0)
    once = diagnose(config, "once", *counting)
    assert CountingBlockMean.encoded == 13
    monkeypatch.setattr("layerscope.tasks.diagnosis.bottleneck._KEPT_LATENT_BYTES", 0)
    monkeypatch.setattr(CountingBlockMean, "encoded", 0)
    again = diagnose(config, "again", *counting)
    assert CountingBlockMean.encoded == 13 + 10
    assert_equal_results(once, again)


VARIANTS = {
    "wiener": [f"{NOISE}.denoiser=wiener"],
    "sample": ["--model.init_args.posterior=sample"],
    "config_units": [f"{NOISE}.latent_normalisation=config"],
}


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_variants_do_not_depend_on_batches_either(config: Path, reference: Path, variant: str) -> None:
    one = diagnose(config, variant, *VARIANTS[variant])
    other = diagnose(config, f"{variant}_b3", *VARIANTS[variant], f"{BATCH}=3", f"{CHUNK}=3")
    assert_equal_results(one, other)
    mine, theirs = (BottleneckScores.load(run / "scores.npz").logits for run in (one, reference))
    np.testing.assert_allclose(mine[0], theirs[0], atol=1e-5)  # the originals are the same
    noisy = BottleneckScores.load(one / "scores.npz").kind == "noise"
    assert np.abs(mine[noisy] - theirs[noisy]).max() > 1e-4


SCHEDULES = {
    "flow_match": ([f"{NOISE}.scheduler=flow_match", f"{NOISE}.timesteps=log_snr(3)"], None),
    "alpha_sigma": (
        [f"{NOISE}.scheduler=custom", f"{NOISE}.alpha_sigma=[[0.9,0.1],[0.6,0.8]]", f"{NOISE}.timesteps=[1,2]"],
        [2 * np.log(0.9 / 0.1), 2 * np.log(0.6 / 0.8)],
    ),
    "betas": (
        [f"{NOISE}.scheduler=custom", f"{NOISE}.betas=[0.1,0.2,0.4]", f"{NOISE}.timesteps=[1,2]"],
        [np.log(0.72 / 0.28), np.log(0.432 / 0.568)],
    ),
}


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_other_schedules_run(config: Path, name: str) -> None:
    overrides, expected = SCHEDULES[name]
    run = diagnose(config, name, *overrides, "--data.init_args.limit=6")
    scores = BottleneckScores.load(run / "scores.npz")
    found = scores.log_snr[(scores.kind == "noise") & (scores.draw == 0)]
    assert (np.diff(found) < 0).all()
    if expected is None:
        assert len(found) == 3
        np.testing.assert_allclose(np.diff(found), np.diff(found).mean(), rtol=0.05)
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_thresholds_from_the_file_and_from_the_search_give_the_same_f1(config: Path, reference: Path) -> None:
    content = yaml.safe_load(config.read_text())
    content["model"] = {
        "class_path": "layerscope.tasks.teacher.TeacherTraining",
        "init_args": {"teacher": content["model"]["init_args"]["teacher"]},
    }
    content["trainer"]["callbacks"] = [
        {"class_path": "layerscope.callbacks.classifier_report.ClassifierReport", "init_args": {"n_bootstrap": 20}}
    ]
    classifier = config.parent / "classifier.yaml"
    classifier.write_text(yaml.safe_dump(content))
    evaluation = diagnose(classifier, "classifier")
    file = evaluation / "threshold.json"
    thresholds = Thresholds.load(file)
    settings = "--model.init_args.thresholds"
    run = diagnose(config, "from_file", f"{settings}.mode=global_from_real_val", f"{settings}.file={file}")
    assert read_summary(run)["thresholds"]["data_hash_matches"] is True
    assert BottleneckScores.load(run / "scores.npz").threshold_global == pytest.approx(thresholds.global_logit)

    def f1(folder: Path) -> dict[tuple[str, str, str], float]:
        return {
            (row["condition"], row["label"], row["metric"]): row["value"]
            for row in read_csv(folder / "per_label.csv")
            if row["metric"] in ("f1_fixed", "f1_fixed_label") and row["condition"] in ("real", "recon")
        }

    assert f1(run) == pytest.approx(f1(reference), abs=1e-9, nan_ok=True)
    real = {
        (row["label"], row["metric"]): row["value"]
        for row in read_csv(evaluation / "per_label.csv")
        if row["metric"] in ("f1_fixed", "f1_fixed_label")
    }
    for (condition, label, metric), value in f1(run).items():
        if condition == "real":
            assert value == pytest.approx(real[label, metric], abs=1e-9, nan_ok=True)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        (["--model.init_args.controls=[jpeg_q75,jpeg_q11]"], ["jpeg_q11", "jpeg_q50"]),
        ([f"{NOISE}.timesteps=[0,1500]"], ["1500", "0 to 999"]),
        ([f"{NOISE}.timesteps=log_snr(0)"], ["log_snr"]),
        ([f"{NOISE}.timesteps=every(3)"], ["every(3)", "log_snr"]),
        ([f"{NOISE}.scheduler=custom"], ["alpha_sigma", "betas"]),
        (["--model.init_args.picture_timesteps=[300]"], ["[300]", "[200, 600]"]),
        (["--model.init_args.decode_batch_size=0"], ["decode_batch_size is 0"]),
        ([f"{NOISE}.draws=0"], ["draws is 0"]),
        (["--model.init_args.thresholds.mode=global_from_real_val"], ["thresholds.file"]),
    ],
)
def test_impossible_settings_are_refused(
    config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, override: list[str], told: list[str]
) -> None:
    assert main(["test", "--config", str(config), f"--output_root={tmp_path}", *ALLOWED, *override]) == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    for part in told:
        assert part in message
    assert not (tmp_path / "default").exists()

"""The short diagnosis within validation says what a full diagnosis of the same weights says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from small_architectures import SMALL_KL
from stand_ins import diagnosis
from torch import nn

from layerscope.artifacts import read_csv
from layerscope.cli import main
from layerscope.data.phantom.write import write_phantom
from layerscope.errors import ConfigurationError
from layerscope.losses import L1
from layerscope.losses.frozen import Frozen
from layerscope.metrics.teacher_agreement import TeacherAgreement
from layerscope.models.autoencoders import DiffusersAutoencoder
from layerscope.tasks.diagnosis.latent_space import NoiseProcess
from layerscope.tasks.diagnosis.validation import ShortDiagnosis, ShortDiagnosisRun

ALLOW = ("--allow-import=stand_ins", "--allow-import=oracles")


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantom(tmp_path_factory.mktemp("short") / "fundus", "fundus", n=80, size=32, seed=5)


def training(root: Path, **changes: Any) -> dict[str, Any]:
    callbacks = ("training_history.TrainingHistory", "training.TrainingSummary")
    return {
        "seed_everything": 3,
        "trainer": {
            "accelerator": "cpu",
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "max_epochs": 2,
            "callbacks": [
                *({"class_path": f"layerscope.callbacks.{name}"} for name in callbacks),
                {
                    "class_path": "layerscope.callbacks.final_export.FinalExport",
                    "init_args": {"images": 4},
                },
                {
                    "class_path": "lightning.pytorch.callbacks.EarlyStopping",
                    "init_args": {"monitor": "val/mean_abs_delta_p", "mode": "min", "patience": 5},
                },
                {
                    "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                    "init_args": {"monitor": "val/mean_abs_delta_p_t52", "mode": "min", "filename": "best"},
                },
            ],
        },
        "model": {
            "class_path": "layerscope.tasks.vae.AutoencoderTraining",
            "init_args": {
                "autoencoder": {
                    "class_path": "layerscope.models.autoencoders.DiffusersAutoencoder",
                    "init_args": {"architecture": SMALL_KL, "initial_logvar": -6.0},
                },
                "diagnosis": {"teacher": {"class_path": "stand_ins.Pooled"}},
                "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.005}},
                **changes,
            },
        },
        "data": {
            "class_path": "layerscope.data.multilabel.MultilabelImages",
            "init_args": {"root": str(root), "table": "labels.csv", "schema": "schema.yaml", "batch_size": 5},
        },
    }


def fit(folder: Path, config: dict[str, Any]) -> dict[str, float]:
    """The last epoch's figures."""
    path = folder / "fit.yaml"
    path.write_text(yaml.safe_dump(config))
    places = [f"--output_root={folder}", "--experiment_name=run"]
    assert main(["fit", "--debug", "--config", str(path), *places, *ALLOW]) == 0
    rows: list[dict[str, float]] = json.loads((folder / "run" / "training_history.json").read_text())["rows"]
    return rows[-1]


def test_it_equals_the_diagnosis_of_the_trained_weights(
    phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = fit(tmp_path, training(phantom))
    config = diagnosis(phantom, tmp_path / "test.yaml", timesteps=[52], draws=1)
    vae = {"source": str(tmp_path / "run" / "vae_final")}
    autoencoder = {"class_path": "layerscope.models.autoencoders.DiffusersAutoencoder", "init_args": vae}
    places = ["--experiment_name=full", "--data.init_args.eval_split=val", "--model.init_args.noise.timesteps=[0,52]"]
    arguments = [f"--model.init_args.autoencoder={json.dumps(autoencoder)}", *places, *ALLOW]
    assert main(["test", "--debug", "--config", str(config), *arguments]) == 0
    full = tmp_path / "outputs" / "full"

    def of(table: str, condition: str, metric: str, column: str) -> float:
        rows = [row for row in read_csv(full / table) if (row["condition"], row["metric"]) == (condition, metric)]
        [row] = [row for row in rows if row["label"] == "macro" and row["draw"] in (None, "", "mean")]
        return float(row[column])

    for condition, suffix in (("recon", ""), ("t52", "_t52")):
        agreement = of("agreement.csv", condition, "mean_abs_delta_p", "value")
        assert found[f"val/mean_abs_delta_p{suffix}"] == pytest.approx(agreement, rel=1e-4)
        drop = of("t_curve.csv", condition, "auroc", "delta")
        assert found[f"val/delta_auroc{suffix}"] == pytest.approx(drop, abs=1e-4)
    assert found["val/mean_abs_delta_p"] > 0
    assert (tmp_path / "run" / "checkpoints" / "best.ckpt").is_file()


class Teacher(nn.Module):
    """One convolution and its mean: what autocast would compute in bfloat16."""

    num_labels = 5

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv2d(3, 5, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.conv(image).mean(dim=(2, 3))


def test_the_teacher_looks_in_float32_whatever_the_training_computes_in() -> None:
    image = torch.rand(2, 3, 16, 16)
    run = object.__new__(ShortDiagnosisRun)
    run._teacher = Frozen(Teacher())
    with torch.no_grad():
        expected = Teacher()(image)
        with torch.autocast("cpu", torch.bfloat16):
            found = run._look(image, ["a", "b"], "the original")
            assert not torch.equal(Teacher()(image).float(), expected)
    assert torch.equal(found, expected)


def test_labels_that_are_not_judged_do_not_count() -> None:
    metric = TeacherAgreement(4, 2, [True, False], [""])
    target = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1]])
    real = torch.tensor([[2.0, 1], [-1, 0], [1, 3], [0, 2]])
    changed = real + torch.tensor([[0.5, 9.0]])
    metric.update(torch.arange(4), target, torch.ones(4, 2), real, {"": changed})
    found = metric.compute()
    expected = (torch.sigmoid(changed[:, 0]) - torch.sigmoid(real[:, 0])).abs().mean()
    assert found["mean_abs_delta_p"] == pytest.approx(float(expected), rel=1e-6)
    assert found["delta_auroc"] == 0


def test_images_without_labels_are_judged_too(phantom: Path, tmp_path: Path) -> None:
    config = training(phantom)
    images = {"root": str(phantom / "images"), "val_fraction": 0.2, "batch_size": 8, "limit": 8}
    config["data"] = {"class_path": "layerscope.data.folder.ImageFolder", "init_args": images}
    found = fit(tmp_path, config)
    assert 0 < found["val/mean_abs_delta_p"] < 1
    assert "val/delta_auroc" not in found


def test_a_teacher_that_is_none_and_steps_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"diagnosis\.teacher is a L1"):
        ShortDiagnosis(L1())
    with pytest.raises(ConfigurationError, match="holds \\[1000\\]"):
        ShortDiagnosis(_Counting(), timesteps=[1000], noise=NoiseProcess())


class _Counting(DiffusersAutoencoder):
    num_labels = 1

    def __init__(self) -> None:
        super().__init__(architecture=SMALL_KL, seed=0)

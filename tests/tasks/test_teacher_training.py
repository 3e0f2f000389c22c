"""Training and evaluating a teacher (E0), and training an autoencoder, through the command line and by formula."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from sklearn.metrics import average_precision_score, brier_score_loss, f1_score, roc_auc_score
from stand_ins import Pooled, read_rows, write_rows

from layerscope.artifacts import ClassifierScores, Thresholds, read_csv, read_summary
from layerscope.cli import main
from layerscope.data.multilabel import MultilabelImages
from layerscope.data.phantom.write import write_phantom
from layerscope.models.teachers import TimmTeacher
from layerscope.tasks.teacher import TeacherTraining

TINY_RESNET: dict[str, Any] = {
    "name": "resnet10t",
    "num_labels": 5,
    "model_kwargs": {"channels": [8, 8, 16, 16], "stem_width": 8},
}


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fundus images of which every seventh has one label unknown."""
    root = write_phantom(tmp_path_factory.mktemp("training") / "fundus", "fundus", n=80, size=32, seed=5)
    rows = read_rows(root / "labels.csv")
    for row in rows[::7]:
        row["atrophy"] = ""
    write_rows(root / "labels.csv", rows)
    return root


def settings(root: Path, callbacks: list[dict[str, Any]], **teacher: Any) -> dict[str, Any]:
    return {
        "seed_everything": 1,
        "trainer": {
            "accelerator": "cpu",
            "max_epochs": 2,
            "logger": False,
            "num_sanity_val_steps": 0,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": callbacks,
        },
        "model": {
            "class_path": "layerscope.tasks.teacher.TeacherTraining",
            "init_args": {
                "teacher": {
                    "class_path": "layerscope.models.teachers.TimmTeacher",
                    "init_args": {**TINY_RESNET, **teacher},
                },
                "pos_weight": "balanced",
                "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}},
                "augmentation": {"flip": True, "rotate_degrees": 10, "brightness": 0.1},
            },
        },
        "data": {
            "class_path": "layerscope.data.multilabel.MultilabelImages",
            "init_args": {
                "root": str(root),
                "table": "labels.csv",
                "schema": "schema.yaml",
                "batch_size": 16,
                "eval_split": "test",
            },
        },
    }


EMA = {"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging", "init_args": {"decay": 0.8}}
STOPPING = {
    "class_path": "lightning.pytorch.callbacks.EarlyStopping",
    "init_args": {"monitor": "val/mAP", "mode": "max", "patience": 5},
}
BEST = {
    "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
    "init_args": {"filename": "best", "monitor": "val/mAP", "mode": "max", "enable_version_counter": False},
}
# Lightning's save_last writes only when the best is written too.
LAST = {
    "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
    "init_args": {"filename": "last", "enable_version_counter": False},
}
SUMMARY = {"class_path": "layerscope.callbacks.training.TrainingSummary"}


@pytest.fixture(scope="module")
def fitted(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a short training with everything the shipped configurations use."""
    folder = tmp_path_factory.mktemp("fitted")
    config = folder / "fit.yaml"
    config.write_text(yaml.safe_dump(settings(phantom, [EMA, STOPPING, BEST, LAST, SUMMARY])))
    assert main(["fit", "--debug", "--config", str(config), f"--output_root={folder}", "--experiment_name=run"]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def evaluated(phantom: Path, fitted: Path) -> Path:
    config = fitted.parent / "test.yaml"
    report = {"class_path": "layerscope.callbacks.classifier_report.ClassifierReport", "init_args": {"n_bootstrap": 50}}
    best = str(fitted / "checkpoints" / "best.ckpt")
    config.write_text(yaml.safe_dump(settings(phantom, [report], checkpoint=best)))
    arguments = [f"--output_root={fitted.parent}", "--experiment_name=evaluation"]
    assert main(["test", "--debug", "--config", str(config), *arguments]) == 0
    return fitted.parent / "evaluation"


# -- fit -------------------------------------------------------------------------------------------------------------


def test_fit_leaves_checkpoints_and_a_summary(fitted: Path) -> None:
    assert (fitted / "checkpoints" / "best.ckpt").is_file()
    assert (fitted / "checkpoints" / "last.ckpt").is_file()
    summary = read_summary(fitted)
    assert summary["epochs"] == 2
    assert {"val/mAP", "val/auroc", "train/loss"} <= set(summary["metrics"])
    assert Path(summary["best_checkpoint"]).name == "best.ckpt"
    assert 0 <= summary["best_score"] <= 1
    assert yaml.safe_load((fitted / "config_used.yaml").read_text())["model"]["init_args"]["pos_weight"] == "balanced"


def test_the_checkpoint_holds_the_averaged_weights_and_validation_judged_them(phantom: Path, fitted: Path) -> None:
    """The metric of the last validation is that of the stored average, not of the weights that training holds."""
    stored = torch.load(fitted / "checkpoints" / "last.ckpt", weights_only=False, map_location="cpu")
    averaged, current = stored["state_dict"], stored["current_model_state"]
    moved = [name for name in averaged if averaged[name].is_floating_point()]
    assert any(not torch.equal(averaged[name], current[name]) for name in moved)

    teacher = TimmTeacher(**TINY_RESNET).eval()
    teacher.model.load_state_dict({k.removeprefix("teacher.model."): v for k, v in averaged.items()})
    data = MultilabelImages(str(phantom), "schema.yaml", "labels.csv", batch_size=16)
    target, known, logits = [], [], []
    with torch.no_grad():
        for batch in data.val_dataloader():
            logits.append(teacher(batch["image"]))
            target.append(batch["target"])
            known.append(batch["known"])
    columns = [torch.cat(part).numpy() for part in (target, known, logits)]
    expected = np.mean(
        [average_precision_score(t[k], s[k]) for t, k, s in zip(*(c.T for c in columns)) if t[k].sum() > 0]
    )
    assert read_summary(fitted)["metrics"]["val/mAP"] == pytest.approx(expected, abs=1e-6)


def test_a_fitted_teacher_loads_strictly_and_judges_equally(phantom: Path, fitted: Path, tmp_path: Path) -> None:
    best = fitted / "checkpoints" / "best.ckpt"
    loaded = TimmTeacher(checkpoint=str(best), **TINY_RESNET).eval()
    task = TeacherTraining(TimmTeacher(**TINY_RESNET))
    task.load_state_dict(torch.load(best, weights_only=True)["state_dict"], strict=True)
    data = MultilabelImages(str(phantom), "schema.yaml", "labels.csv", batch_size=8)
    image = next(iter(data.val_dataloader()))["image"]
    with torch.no_grad():
        expected = task.eval()(image)
        assert torch.equal(loaded(image), expected)
        loaded.save(tmp_path / "teacher.safetensors")
        again = TimmTeacher(checkpoint=str(tmp_path / "teacher.safetensors"), **TINY_RESNET).eval()
        assert torch.equal(again(image), expected)


def test_a_training_resumes_from_its_checkpoint(phantom: Path, fitted: Path) -> None:
    config = fitted.parent / "resume.yaml"
    config.write_text(yaml.safe_dump(settings(phantom, [EMA, STOPPING, BEST, LAST, SUMMARY])))
    arguments = [f"--output_root={fitted.parent}", "--experiment_name=resumed", "--trainer.max_epochs=3"]
    last = fitted / "checkpoints" / "last.ckpt"
    assert main(["fit", "--debug", "--config", str(config), *arguments, "--ckpt_path", str(last)]) == 0
    first, resumed = read_summary(fitted), read_summary(fitted.parent / "resumed")
    assert resumed["epochs"] == 3
    assert resumed["steps"] == first["steps"] * 3 // 2
    # The command line wins over what the checkpoint was trained with.
    assert "max_epochs: 3" in (fitted.parent / "resumed" / "config_used.yaml").read_text()


def test_validate_and_predict_look_at_a_finished_run_and_leave_it_alone(phantom: Path, fitted: Path) -> None:
    config = fitted.parent / "look.yaml"
    best = str(fitted / "checkpoints" / "best.ckpt")
    config.write_text(yaml.safe_dump(settings(phantom, [], checkpoint=best)))
    before = {path: path.read_bytes() for path in fitted.rglob("*") if path.is_file()}
    for verb in ("validate", "predict"):
        arguments = [f"--output_root={fitted.parent}", "--experiment_name=run"]
        assert main([verb, "--debug", "--config", str(config), *arguments]) == 0
        assert {path: path.read_bytes() for path in fitted.rglob("*") if path.is_file()} == before


def test_predict_writes_a_table_once(
    phantom: Path, fitted: Path, evaluated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = fitted.parent / "predict.yaml"
    table = {"class_path": "layerscope.callbacks.predictions.PredictionTable"}
    config.write_text(yaml.safe_dump(settings(phantom, [table], checkpoint=str(fitted / "checkpoints" / "best.ckpt"))))
    arguments = ["predict", "--config", str(config), f"--output_root={fitted.parent}", "--experiment_name=evaluation"]
    assert main(arguments) == 0
    rows = read_csv(evaluated / "predictions_test.csv")
    scores = ClassifierScores.load(evaluated / "scores.npz")
    assert [row["id"] for row in rows] == scores.id.tolist()
    for column, label in enumerate(scores.label.tolist()):
        expected = 1 / (1 + np.exp(-scores.logits[:, column].astype(np.float64)))
        np.testing.assert_allclose([row[label] for row in rows], expected, atol=1e-5)
    assert main(arguments) == 2
    assert "predictions_test.csv exists already" in " ".join(capsys.readouterr().err.split())


def test_an_evaluation_on_the_images_of_the_threshold_says_so(phantom: Path, fitted: Path, evaluated: Path) -> None:
    what = "F1 and flips on images apart from the threshold's"
    assert what not in {entry["what"] for entry in read_summary(evaluated)["not_measured"]}
    arguments = [f"--output_root={fitted.parent}", "--experiment_name=on_val", "--data.init_args.eval_split=val"]
    assert main(["test", "--config", str(fitted.parent / "test.yaml"), *arguments]) == 0
    assert what in {entry["what"] for entry in read_summary(fitted.parent / "on_val")["not_measured"]}


# -- test ------------------------------------------------------------------------------------------------------------


def test_evaluation_equals_scikit_learn_on_the_stored_scores(evaluated: Path) -> None:
    scores = ClassifierScores.load(evaluated / "scores.npz")
    thresholds = Thresholds.load(evaluated / "threshold.json")
    table = {(row["label"], row["metric"]): row for row in read_csv(evaluated / "per_label.csv")}
    assert not scores.known.all()
    found: dict[str, list[float]] = {"auroc": [], "ap": []}
    for i, label in enumerate(scores.label.tolist()):
        k = scores.known[:, i]
        target, logits = scores.target[k, i], scores.logits[k, i].astype(np.float64)
        probability = 1 / (1 + np.exp(-logits))
        expected = {
            "auroc": roc_auc_score(target, logits),
            "ap": average_precision_score(target, logits),
            "f1_fixed": f1_score(target, logits >= thresholds.global_logit, zero_division=0),
            "f1_fixed_label": f1_score(target, logits >= thresholds.label_logit[i], zero_division=0),
            "brier": brier_score_loss(target, probability),
        }
        for metric, value in expected.items():
            assert table[label, metric]["value"] == pytest.approx(value, abs=1e-6), (label, metric)
        assert table[label, "ap"]["n"] == k.sum()
        assert table[label, "ap"]["n_pos"] == target.sum()
        for metric, values in found.items():
            values.append(expected[metric])
    for metric, values in found.items():
        assert table["macro", metric]["value"] == pytest.approx(np.mean(values), abs=1e-6)
        assert read_summary(evaluated)["metrics"]["macro"][metric]["value"] == pytest.approx(np.mean(values), abs=1e-6)
        assert ("micro", metric) in table


def test_thresholds_are_those_of_val(phantom: Path, fitted: Path, evaluated: Path) -> None:
    """No threshold on a fine grid does better on val than the one written."""
    content = json.loads((evaluated / "threshold.json").read_text())
    data = MultilabelImages(str(phantom), "schema.yaml", "labels.csv", batch_size=16)
    assert content["data_hash"] == data.data_hash("val")
    assert content["fitted_on"] == "val"
    teacher = TimmTeacher(checkpoint=str(fitted / "checkpoints" / "best.ckpt"), **TINY_RESNET).eval()
    with torch.no_grad():
        logits = torch.cat([teacher(batch["image"]) for batch in data.val_dataloader()]).numpy()
    target, known = data.dataset("val").targets.numpy(), data.dataset("val").known.numpy()

    def macro_f1(threshold: float) -> float:
        return float(
            np.mean(
                [
                    f1_score(target[k, i], logits[k, i] >= threshold, zero_division=0)
                    for i, k in enumerate(known.T)
                    if target[k, i].any()
                ]
            )
        )

    reached = macro_f1(content["global"]["logit"] - 1e-6)
    assert reached == pytest.approx(content["global"]["macro_f1"], abs=1e-9)
    assert reached >= max(map(macro_f1, np.unique(logits)))


def test_wrong_number_of_labels_is_refused(phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(settings(phantom, [], num_labels=4)))
    for verb in ("fit", "test"):
        assert main([verb, "--config", str(config), f"--output_root={tmp_path / 'out'}"]) == 2
        assert "4 outputs" in capsys.readouterr().err
        assert not (tmp_path / "out" / "default").exists()


# -- losses ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, targets and known of six images."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(6, 5, generator=generator)
    target = (torch.rand(6, 5, generator=generator) < 0.4).float()
    known = torch.rand(6, 5, generator=generator) < 0.7
    return logits.requires_grad_(), target * known, known


@pytest.mark.parametrize("loss", ["bce", "focal"])
def test_unknown_labels_do_not_enter_the_loss(batch: tuple[torch.Tensor, ...], loss: Any) -> None:
    logits, target, known = batch
    task = TeacherTraining(Pooled(), loss=loss)
    value = task._loss(logits, target, known)
    value.backward()
    assert logits.grad is not None
    assert (logits.grad[~known] == 0).all()
    assert (logits.grad[known] != 0).all()
    flipped = torch.where(known, target, 1 - target)
    assert torch.equal(task._loss(logits, flipped, known), value)
    nothing = task._loss(logits, target, torch.zeros_like(known))
    assert nothing == 0


def test_losses_follow_their_formulas(batch: tuple[torch.Tensor, ...]) -> None:
    logits, target, known = batch
    p = torch.sigmoid(logits.detach().double())
    t = target.double()
    p_true = torch.where(t > 0, p, 1 - p)
    bce = -(p_true.log())[known].mean()
    focal = -((1 - p_true) ** 1.5 * p_true.log())[known].mean()
    weight = torch.tensor([1.0, 2.0, 0.5, 3.0, 1.0], dtype=torch.float64)
    weighted = -(torch.where(t > 0, weight, 1.0) * p_true.log())[known].mean()

    def loss(**arguments: Any) -> float:
        task = TeacherTraining(Pooled(), **arguments)
        task._trainer = SimpleNamespace(  # type: ignore[assignment]
            datamodule=SimpleNamespace(
                labels=["a", "b", "c", "d", "e"], evaluated_groups=lambda: None, data_hash=lambda split: ""
            )
        )
        task.on_fit_start()
        return float(task._loss(logits, target, known).detach())

    assert loss() == pytest.approx(float(bce), abs=1e-6)
    assert loss(loss="focal", focal_gamma=1.5) == pytest.approx(float(focal), abs=1e-6)
    assert loss(loss="focal", focal_gamma=0.0) == pytest.approx(float(bce), abs=1e-6)
    assert loss(pos_weight=weight.tolist()) == pytest.approx(float(weighted), abs=1e-6)


def test_balanced_weights_are_negatives_per_positive_of_train(phantom: Path) -> None:
    task = TeacherTraining(Pooled(), pos_weight="balanced")
    data = MultilabelImages(str(phantom), "schema.yaml", "labels.csv")
    task._trainer = SimpleNamespace(datamodule=data)  # type: ignore[assignment]
    task.on_fit_start()
    rows = [row for row in read_rows(phantom / "labels.csv") if row["split"] == "train"]
    expected = []
    for label in data.labels.names:
        cells = [row[label] for row in rows]
        expected.append(cells.count("0") / cells.count("1"))
    assert task._pos_weight is not None
    torch.testing.assert_close(task._pos_weight, torch.tensor(expected))


# -- the autoencoder -------------------------------------------------------------------------------------------------

"""The weights that ship do what checkpoints/README.md says, through the configurations that ship."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerscope.artifacts import read_csv, read_summary
from layerscope.cli import main
from layerscope.data.phantom.write import write_phantom
from layerscope.shipped import shipped


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of another seed than the weights were trained on."""
    return write_phantom(tmp_path_factory.mktemp("demo") / "phantom", "fundus", n=320, seed=77)


def test_the_demo_teacher_really_learned(phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    teacher = "--model.init_args.teacher.init_args.checkpoint=checkpoints/demo_teacher.safetensors"
    status = main(
        ["test", "--config=configs/classifier/eval/phantom.yaml", f"--data.init_args.root={phantom}", teacher]
    )
    assert status == 0
    rows = read_csv(tmp_path / "outputs" / "classifier" / "eval" / "phantom" / "per_label.csv")
    found = {row["label"]: row["value"] for row in rows if row["metric"] == "auroc"}
    assert found["macro"] >= 0.90
    assert min(found.values()) > 0.80


def test_the_shipped_diagnosis_runs_at_once_and_writes_tensorboard(
    phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.chdir(tmp_path)
    limited = [f"--data.init_args.root={phantom}", "--data.init_args.limit=24"]
    assert main(["test", "--config=configs/vae/diagnostic/phantom.yaml", *limited]) == 0
    run = tmp_path / "outputs" / "diagnostics" / "vae_bottleneck" / "phantom"
    assert read_summary(run)["counts"]["images"] == 24
    [events] = (run / "tensorboard").glob("events.out.tfevents.*")
    log = EventAccumulator(str(events)).Reload()
    tags = log.Tags()
    assert "bottleneck/delta_auroc" in tags["scalars"]
    assert {"t_curve", "label_t_heatmap"} <= set(tags["images"])
    assert any(tag.startswith("worst_samples/") for tag in tags["images"])
    assert "_hparams_/experiment" in log.summary_metadata


def test_shipped_weights_are_small() -> None:
    checkpoints = shipped("checkpoints")
    files = [checkpoints / "demo_teacher.safetensors", *(checkpoints / "demo_vae").iterdir()]
    assert len(files) == 3
    assert max(path.stat().st_size for path in files) < 4_000_000

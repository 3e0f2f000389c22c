"""``layerscope demo`` from nothing to a diagnosis, on few images and with two steps of training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from layerscope.artifacts import read_summary
from layerscope.cli import main
from layerscope.cli.lightning import run_lightning

IMAGES = 40


def test_demo_ends_in_a_diagnosis_and_is_not_replaced_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    verbs = []

    def short(verb: str, arguments: Sequence[str], allow_import: Sequence[str] = ()) -> int:
        verbs.append(verb)
        less = ["--trainer.accelerator=cpu"]
        if verb == "fit":
            less += ["--trainer.max_epochs=1", "--trainer.max_steps=2", "--trainer.val_check_interval=2"]
            less += ["--data.init_args.limit=8", "--data.init_args.batch_size=4"]
        return run_lightning(verb, [*arguments, *less], allow_import)

    monkeypatch.setattr("layerscope.cli.demo.IMAGES", IMAGES)
    monkeypatch.setattr("layerscope.cli.lightning.run_lightning", short)
    assert main(["demo", "--debug"]) == 0
    assert verbs == ["fit", "test", "fit", "test"]

    demo = tmp_path / "outputs" / "demo"
    assert len(list((demo / "data" / "images").iterdir())) == IMAGES
    diagnosis = demo / "diagnosis"
    summary = read_summary(diagnosis)
    assert summary["verdict"]["overall"]["verdict"] in ("bottleneck", "not a bottleneck", "inconclusive")
    assert summary["thresholds"]["data_hash_matches"]
    assert summary["thresholds"]["teacher_hash_matches"]
    figures = {path.name for path in (diagnosis / "figures").glob("*.png")}
    assert "t_curve.png" in figures
    assert str(Path("outputs/demo/diagnosis/figures")) in capsys.readouterr().out

    before = (diagnosis / "summary.json").read_bytes()
    assert main(["demo"]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "already holds a finished demo" in message
    assert "--overwrite" in message
    assert len(verbs) == 4
    assert (diagnosis / "summary.json").read_bytes() == before

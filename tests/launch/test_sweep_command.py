"""``layerscope sweep`` through the command line."""

from __future__ import annotations

import csv
import json
import signal
import sys
from functools import partial
from pathlib import Path

import pytest
import yaml
from token_runs import settings, write_images

from layerscope.artifacts import read_summary
from layerscope.cli import launching, main
from layerscope.launch import run_jobs

# The first time a0 is killed when it has claimed its directory. a1 is pretended. Neither imports more than it needs.
ENDS_AT_ONCE = """
import os, pathlib, signal, sys
from layerscope.artifacts import open_run_directory
options = dict(each[2:].split("=", 1) for each in sys.argv[1:] if each.startswith("--") and "=" in each)
name, first = options["experiment_name"], not pathlib.Path("killed").exists()
if name == "a1" or first:
    run = open_run_directory(pathlib.Path(options["output_root"]) / name)
    if name == "a0":
        pathlib.Path("killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    with run.staged() as stage:
        stage.write_json("summary.json", {"counts": {"images": 1}})
    sys.exit()
from layerscope.cli import entry_point
entry_point()
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "photos", 2)
    path = tmp_path / "tokens.yaml"
    path.write_text(yaml.safe_dump(settings(tmp_path / "photos")))
    return path


def test_a_sweep_over_images_with_a_killed_run_is_finished_by_the_same_command(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launching, "run_jobs", partial(run_jobs, command=(sys.executable, "-c", ENDS_AT_ONCE)))
    command = ["sweep", "test", "--config", str(config), "--grid", "data.path=glob(photos/*.png)"]
    folder = Path("outputs/sweeps/tokens")
    assert main([*command, "--dry-run"]) == 0
    assert "2 not started" in capsys.readouterr().out
    assert not folder.exists()

    assert main(command) == 1
    told = capsys.readouterr().out
    assert "a0: interrupted" in told
    assert "logs/a0.log" in told
    assert (folder / "runs" / "a0" / "UNFINISHED").exists()
    assert main(command) == 0
    assert "a1: kept" in capsys.readouterr().out
    assert [read_summary(folder / "runs" / name)["counts"]["images"] for name in ("a0", "a1")] == [1, 1]
    with (folder / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["name"], row["status"], row["data.path"]) for row in rows] == [
        (f"a{n}", "finished", f"photos/a{n}.png") for n in (0, 1)
    ]
    assert all(float(row["seconds"]) > 0 for row in rows)
    runs = json.loads((folder / "sweep.json").read_text())["runs"]
    assert [run["settings"] for run in runs] == [{"data.path": f"photos/a{n}.png"} for n in (0, 1)]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--modle.layers=all"], "The run seed-1 cannot start.*--modle.layers=all. Did you mean model?"),
        (["--model.layer=all"], "Option 'layer' is not accepted. Did you mean layers?"),
        (["--data.pth=x"], "Did you mean path?"),
        (["--trainer.max_epohcs=1"], "Did you mean max_epochs?"),
        (["--experiment_name=x"], "the sweep's own"),
        (["--seed_everything=3"], "the grid or list varies seed_everything"),
        (["--devices=0,1000"], "there is no .*1000"),
        (["--jobs=0"], "--jobs is 0"),
        (["--sbatch", "--time=1"], "--sbatch is for --launcher slurm"),
    ],
)
def test_what_is_wrong_is_told_before_anything_runs(
    config: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sweep", "test", "--config", str(config), "--grid", "seed_everything=1,2"]
    assert main([*command, *arguments]) == 2
    told = " ".join(capsys.readouterr().err.split())
    before, _, after = message.partition(".*")
    assert before in told
    assert after in told
    assert not Path("outputs").exists()

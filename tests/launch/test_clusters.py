"""The script for SLURM, run by bash, and ray by a stand-in of its own."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from launched_runs import COMMAND, job, launch

from layerscope.errors import ConfigurationError
from layerscope.launch import Outcome, ray_cluster
from layerscope.launch.ray_cluster import run_jobs_on_ray
from layerscope.launch.slurm import write_slurm_script


def test_a_task_of_the_array_is_a_run_and_what_finished_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a sweep"
    jobs = [job(folder, name, f"--value=it's {name}, $HOME", verb="fit") for name in ("a", "b", "c")]
    launch(folder, jobs[:1])
    told: list[Outcome] = []
    script = write_slurm_script(
        jobs, folder, told.append, at_a_time=4, options=["--gres=gpu:1", "--time=4:00:00"], command=COMMAND
    )
    assert [(outcome.job.name, outcome.skipped) for outcome in told] == [("a", True)]
    assert script is not None
    lines = script.read_text().splitlines()
    assert "#SBATCH --array=0-1%4" in lines
    assert lines.index("#SBATCH --time=4:00:00") > lines.index("#SBATCH --ntasks=1")
    assert max(place for place, line in enumerate(lines) if line.startswith("#SBATCH")) < 10

    stub = tmp_path / "bin" / "srun"
    stub.parent.mkdir()
    stub.write_text('#!/bin/bash\necho "on a node with $OMP_NUM_THREADS"\nexec "$@"\n')
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stub.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    for number in ("1", "0"):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", number)
        subprocess.run(["bash", str(script)], check=True, cwd="/")
    assert json.loads(jobs[2].mark.read_text())["made"] == "it's c, $HOME"
    assert "on a node with 3" in (folder / "logs" / "c.log").read_text()
    assert json.loads((folder / "runs" / "b.starts").read_text())["arguments"][-1] == "--ckpt_path=last"
    assert all(outcome.skipped for outcome in launch(folder, jobs).values())
    assert write_slurm_script(jobs, folder, told.append, command=COMMAND) is None


def test_what_sbatch_reads_in_odd_names_and_options(tmp_path: Path) -> None:
    folder = tmp_path / 's l"u%m#'
    script = write_slurm_script([job(folder, "a")], folder, print, options=["--ntasks-per-node=4"])
    assert script is not None
    text = script.read_text()
    assert "--ntasks=1" not in text
    # As sbatch takes a line apart (here: shlex), and then fills in the pattern.
    (line,) = [line for line in text.splitlines() if line.startswith("#SBATCH --output")]
    (pattern,) = shlex.split(line.removeprefix("#SBATCH --output="), comments=True)
    filled = re.sub("%[%Aa]", lambda sign: {"%%": "%", "%A": "7", "%a": "0"}[sign[0]], pattern)
    assert filled == str(folder / "logs" / "slurm-7_0.log")


def test_what_no_array_can_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="build on each other"):
        write_slurm_script([job(tmp_path, "a"), job(tmp_path, "b", needs=["a"])], tmp_path, print)
    with pytest.raises(ConfigurationError, match=r"--sbatch 'gpu:1'"):
        write_slurm_script([job(tmp_path, "a")], tmp_path, print, options=["gpu:1"])


class PretendedRay:
    """As much of ray as is called: a task runs when it is waited for; one named ``lost`` goes with its machine."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.most = 0
        self.exceptions = SimpleNamespace(RayError=ConnectionError)

    def init(self, **_: Any) -> None: ...

    def shutdown(self) -> None: ...

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 8.0}

    def remote(self, **resources: Any) -> Any:
        self.asked.append(resources)
        return lambda function: SimpleNamespace(remote=lambda *given: partial(function, *given))

    def wait(self, references: list[Any], **_: Any) -> tuple[list[Any], list[Any]]:
        self.most = max(self.most, len(references))
        return references[-1:], references[:-1]

    def get(self, reference: Any) -> Any:
        if "/lost" in str(reference.args):
            raise ConnectionError
        return reference()


def test_runs_on_ray_end_as_those_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = PretendedRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    jobs = [
        job(tmp_path, "lost"),
        job(tmp_path, "bad", "--do=fail"),
        job(tmp_path, "killed", "--do=die once"),
        job(tmp_path, "good"),
        job(tmp_path, "after", needs=["good"]),
    ]
    outcomes = run_jobs_on_ray(jobs, tmp_path, lambda outcome: None, at_a_time=2, gpus=1, command=COMMAND)
    assert [outcome.status for outcome in outcomes] == ["interrupted", "failed", "interrupted", "finished", "finished"]
    assert "The image x.jpg cannot be read." in outcomes[1].reason
    assert ray.asked == [{"num_cpus": 4, "num_gpus": 1, "max_retries": 0}]
    assert ray.most == 2
    assert launch(tmp_path, jobs[2:])["good"].skipped


def test_a_signal_reaches_tasks_and_starts_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = PretendedRay()
    signals: list[int] = []

    def wait(references: list[Any], **_: Any) -> tuple[list[Any], list[Any]]:
        if not signals:
            os.kill(os.getpid(), signal.SIGTERM)
            return [], references
        return references, []

    def get(task: Any) -> Any:
        """While it works the file is there; the task had begun before."""
        stop = tmp_path / ray_cluster.STOP
        told, ready = stop.read_text(), tmp_path / "runs" / "a" / "ready"
        stop.unlink()
        monkeypatch.setattr(ray_cluster, "_signal_in", lambda _: int(told) * ready.exists())
        return task()

    monkeypatch.setitem(sys.modules, "ray", ray)
    ray.wait, ray.get = wait, get  # type: ignore[method-assign]
    jobs = [job(tmp_path, "a", "--do=wait"), job(tmp_path, "b")]
    outcomes = run_jobs_on_ray(
        jobs, tmp_path, lambda outcome: None, at_a_time=1, signalled=signals.append, command=COMMAND
    )
    assert [outcome.status for outcome in outcomes] == ["interrupted", "not started"]
    assert signals == json.loads((tmp_path / "runs/a/told").read_text()) == [signal.SIGTERM]


def test_ray_is_asked_for_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'layerscope\[ray\]'"):
        run_jobs_on_ray([job(tmp_path, "a")], tmp_path, print)

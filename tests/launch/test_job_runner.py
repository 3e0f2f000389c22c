"""Runs after one another: failures, needs, kills and resumption, records of settings, devices, the lock and signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from launched_runs import job, launch

from layerscope.artifacts import read_summary
from layerscope.cli.launching import show_runs
from layerscope.errors import ConfigurationError
from layerscope.launch import Job, Outcome, Slot, exit_status, slots_for
from layerscope.launch.schedule import check_jobs


def starts(folder: Path, name: str) -> list[dict[str, Any]]:
    """What each process of a run was given."""
    path = folder / "runs" / f"{name}.starts"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def statuses(outcomes: dict[str, Outcome]) -> dict[str, str]:
    return {name: outcome.status for name, outcome in outcomes.items()}


def test_a_failure_stops_only_what_needs_it_and_finished_runs_are_kept(tmp_path: Path) -> None:
    jobs = [
        job(tmp_path, "judge", needs=["teacher", "vae/base"]),
        job(tmp_path, "vae/base", "--do=fail"),
        job(tmp_path, "teacher"),
        job(tmp_path, "last", needs=["judge"]),
        job(tmp_path, "other", needs=["teacher"]),
        job(tmp_path, "silent", "--do=nothing"),
    ]
    told: list[Outcome] = []
    outcomes = launch(tmp_path, jobs, told=told.append)
    expected = {"judge": "waiting", "vae/base": "failed", "teacher": "finished", "last": "waiting"}
    assert statuses(outcomes) == expected | {"other": "finished", "silent": "failed"}
    assert sorted(outcome.job.name for outcome in told) == sorted(outcomes)
    log = tmp_path / "logs" / "vae" / "base.log"
    assert outcomes["vae/base"].reason == f"The image x.jpg cannot be read. ({log})"
    assert "Traceback" in log.read_text()
    assert outcomes["judge"].reason == "it needs vae/base"
    assert outcomes["last"].reason == "it needs judge"
    assert "without summary.json" in outcomes["silent"].reason
    assert exit_status(list(outcomes.values())) == 1

    # The way to mend a failed run may be another setting: nothing stands in its directory.
    jobs[1] = job(tmp_path, "vae/base")
    jobs[5] = job(tmp_path, "silent")
    outcomes = launch(tmp_path, jobs, [Slot(), Slot()])
    assert set(statuses(outcomes).values()) == {"finished"}
    assert {name for name, outcome in outcomes.items() if outcome.skipped} == {"teacher", "other"}
    assert len(starts(tmp_path, "teacher")) == 1
    assert exit_status(list(outcomes.values())) == 0


def test_a_killed_training_goes_on_and_others_are_not_disturbed(tmp_path: Path) -> None:
    jobs = [
        job(tmp_path, "killed", "--do=die once", verb="fit"),
        job(tmp_path, "own", "--ckpt_path=mine.ckpt", verb="fit"),
    ]
    outcomes = launch(tmp_path, jobs)
    assert statuses(outcomes) == {"killed": "interrupted", "own": "finished"}
    assert "SIGKILL" in outcomes["killed"].reason
    outcomes = launch(tmp_path, jobs)
    assert statuses(outcomes) == {"killed": "finished", "own": "finished"}
    assert [start["arguments"][-1] for start in starts(tmp_path, "killed")] == ["--ckpt_path=last"] * 2
    assert [start["arguments"][-1] for start in starts(tmp_path, "own")] == ["--ckpt_path=mine.ckpt"]


def test_what_was_made_with_other_settings_is_neither_kept_nor_replaced_silently(tmp_path: Path) -> None:
    config = tmp_path / "base.yaml"
    config.write_text("a: 1")
    old = [job(tmp_path, "a", "--config", str(config), "--value=1"), job(tmp_path, "b", f"--config={config}")]
    launch(tmp_path, old)
    new = [job(tmp_path, "a", "--config", str(config), "--value=2"), old[1]]
    with pytest.raises(ConfigurationError, match=r"run a, .*--value=2 now, --value=1 then.*--output.*--overwrite"):
        launch(tmp_path, new)
    config.write_text("a: 2")
    with pytest.raises(ConfigurationError, match=f"the content of {config}"):
        launch(tmp_path, old)
    assert len(starts(tmp_path, "a")) == len(starts(tmp_path, "b")) == 1

    assert set(statuses(launch(tmp_path, new, overwrite=True)).values()) == {"finished"}
    assert starts(tmp_path, "a")[1]["arguments"][-1] == "--overwrite"
    assert read_summary(new[0].run)["made"] == "2"
    assert all(outcome.skipped for outcome in launch(tmp_path, new, overwrite=True).values())
    assert all(outcome.skipped for outcome in launch(tmp_path, new).values())

    (tmp_path / "jobs" / "a.json").unlink()
    with pytest.raises(ConfigurationError, match="no record says"):
        launch(tmp_path, new)


def test_another_directory_or_file_makes_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, folder = tmp_path / "first", tmp_path / "second", tmp_path / "sweep"
    first.mkdir()
    second.mkdir()
    monkeypatch.chdir(first)
    weights, large = first / "data.yaml", first / "large.ckpt"
    weights.write_text("a: 1")
    with large.open("wb") as file:
        file.truncate(65 * 2**20)
    made = folder / "runs" / "a" / "summary.json"
    jobs = [job(folder, "a", "--data=data.yaml", f"--x.checkpoint={large}", "not-there", f"--own={made}", "x" * 300)]
    launch(folder, jobs)
    assert launch(folder, jobs)["a"].skipped
    record = folder / "jobs" / "a.json"
    found = json.loads(record.read_text())
    assert list(found["files"]) == ["data.yaml", str(large)]
    weights.write_text("a: 2")
    with pytest.raises(ConfigurationError, match=r"other settings: the content of data.yaml\. "):
        launch(folder, jobs)
    weights.write_text("a: 1")
    os.utime(large, (0, 0))
    with pytest.raises(ConfigurationError, match=f"the content of {large}"):
        launch(folder, jobs)
    monkeypatch.chdir(second)
    with pytest.raises(ConfigurationError, match=f"the working directory: {first} then, {second} now"):
        launch(folder, jobs)
    # As earlier versions wrote it: what it does not say is no difference.
    record.write_text(json.dumps({key: found[key] for key in ("command", "configs", "needs", "starts_over")}))
    assert launch(folder, jobs)["a"].skipped


def test_the_old_result_is_not_taken_for_the_new_one_whose_run_was_killed(tmp_path: Path) -> None:
    """It stays until the new one is complete, so that the directory looks finished."""
    launch(tmp_path, [job(tmp_path, "a", "--value=1", verb="fit")])
    last = tmp_path / "runs" / "a" / "checkpoints" / "last.ckpt"
    os.utime(last, (0, 0))
    new = [job(tmp_path, "a", "--value=2", "--do=die once", verb="fit")]
    assert statuses(launch(tmp_path, new, overwrite=True)) == {"a": "interrupted"}
    assert read_summary(new[0].run)["made"] == "1"
    # The checkpoint of the old settings is not gone on with; that of the new ones is.
    assert starts(tmp_path, "a")[1]["arguments"][-1] == "--overwrite"
    os.utime(last, (0, 0))
    (tmp_path / "runs" / "a.died").unlink()
    assert statuses(launch(tmp_path, new)) == {"a": "interrupted"}
    assert starts(tmp_path, "a")[2]["arguments"][-1] == "--overwrite"
    assert statuses(launch(tmp_path, new)) == {"a": "finished"}
    assert starts(tmp_path, "a")[3]["arguments"][-2:] == ["--overwrite", "--ckpt_path=last"]
    assert read_summary(new[0].run)["made"] == "2"
    assert launch(tmp_path, new)["a"].skipped


def test_a_run_that_leaves_the_old_result_in_place_has_failed(tmp_path: Path) -> None:
    launch(tmp_path, [job(tmp_path, "a", "--value=1")])
    new = [job(tmp_path, "a", "--value=2", "--do=nothing")]
    for overwrite in (True, False):  # again: it is still to be replaced
        outcome = launch(tmp_path, new, overwrite=overwrite)["a"]
        assert outcome.status == "failed"
        assert "without a new summary.json" in outcome.reason
    assert read_summary(new[0].run)["made"] == "1"


def test_a_new_result_may_be_the_same_as_the_old_one(tmp_path: Path) -> None:
    launch(tmp_path, [job(tmp_path, "a", "--value=1", "--other=1")])
    new = [job(tmp_path, "a", "--value=1", "--other=2")]
    assert statuses(launch(tmp_path, new, overwrite=True)) == {"a": "finished"}
    assert launch(tmp_path, new)["a"].skipped


def test_an_unfinished_training_of_other_settings_is_not_gone_on_with(tmp_path: Path) -> None:
    launch(tmp_path, [job(tmp_path, "a", "--value=1", "--do=die once", verb="fit")])
    os.utime(tmp_path / "runs" / "a" / "checkpoints" / "last.ckpt", (0, 0))
    new = [job(tmp_path, "a", "--value=2", verb="fit")]
    with pytest.raises(ConfigurationError, match="holds an unfinished run"):
        launch(tmp_path, new)
    launch(tmp_path, new, overwrite=True)
    assert starts(tmp_path, "a")[1]["arguments"][-1] == "--overwrite"


def test_what_builds_on_a_run_that_was_made_anew_is_stale(tmp_path: Path) -> None:
    base, judge = job(tmp_path, "base", "--value=1"), job(tmp_path, "judge", needs=["base"])
    launch(tmp_path, [base, judge])
    outcomes = launch(tmp_path, [job(tmp_path, "base", "--value=2"), judge], overwrite=True)
    assert [outcome.skipped for outcome in outcomes.values()] == [False, False]
    assert starts(tmp_path, "judge")[1]["arguments"][-1] == "--overwrite"
    assert launch(tmp_path, [job(tmp_path, "base", "--value=2"), judge])["judge"].skipped


def test_the_state_that_is_shown_is_what_would_be_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def shown(*jobs: Job, overwrite: bool = False) -> dict[str, str]:
        assert show_runs(jobs, tmp_path, overwrite) == 0
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("# ")]
        return dict(line.removeprefix("# ").split(": ", 1) for line in lines[:-1])

    base, judge, last = (
        job(tmp_path, "base"),
        job(tmp_path, "judge", needs=["base"]),
        job(tmp_path, "c", needs=["judge"]),
    )
    assert shown(base, judge, last) == {"base": "not started", "judge": "waits for base", "c": "waits for judge"}
    launch(tmp_path, [base, judge])
    assert shown(base, judge, last) == {"base": "finished", "judge": "finished", "c": "not started"}
    # While the base is to be made anew, and when it has been.
    other = job(tmp_path, "base", "--value=2")
    stale = {"base": "to be made anew", "judge": "to be made anew", "c": "waits for judge"}
    assert shown(other, judge, last, overwrite=True) == stale
    launch(tmp_path, [other], overwrite=True)
    assert shown(other, judge, last) == stale | {"base": "finished"}
    assert not launch(tmp_path, [other, judge])["judge"].skipped
    assert shown(other, judge)["judge"] == "finished"
    # A need that is gone.
    other.mark.unlink()
    assert shown(other, judge) == {"base": "unfinished", "judge": "to be made anew"}


def test_a_configuration_that_changes_meanwhile_makes_no_mixture(tmp_path: Path) -> None:
    config = tmp_path / "base.yaml"
    config.write_text("a: 1")
    jobs = [job(tmp_path, name, f"--config={config}") for name in ("a", "b")]
    outcomes = launch(tmp_path, jobs, told=lambda outcome: config.write_text("a: 2"))
    assert statuses(outcomes) == {"a": "finished", "b": "failed"}
    assert "changed" in outcomes["b"].reason


def test_runs_that_cannot_be_ordered(tmp_path: Path) -> None:
    for jobs, message in (
        ([job(tmp_path, "a", needs=["b"])], "needs b, which is none"),
        ([job(tmp_path, "a", needs=["b"]), job(tmp_path, "b", needs=["a"])], "in a circle"),
        ([job(tmp_path, "a"), job(tmp_path, "a")], "have the name a"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            check_jobs(jobs)


def test_slots_take_turns_with_the_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert slots_for(None) == [Slot()]
    assert slots_for(None, [0, 1]) == [Slot("5", 4), Slot("7", 4)]
    assert slots_for(3, [1]) == [Slot("7", 2)] * 3
    assert slots_for(20) == [Slot(None, 1)] * 20
    launch(tmp_path, [job(tmp_path, "a")], [Slot("7", 3)])
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    launch(tmp_path, [job(tmp_path, "b")], [Slot(None, 3)])
    [first], [second] = starts(tmp_path, "a"), starts(tmp_path, "b")
    assert (first["CUDA_VISIBLE_DEVICES"], first["OMP_NUM_THREADS"]) == ("7", "3")
    assert (second["CUDA_VISIBLE_DEVICES"], second["OMP_NUM_THREADS"]) == ("5,7", "2")


SWEEP = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from launched_runs import job, launch
from layerscope.launch import Slot, exit_status
folder, do, signals = Path(sys.argv[1]), sys.argv[2], []
jobs = [job(folder, "a", f"--do={{do}}"), job(folder, "b", f"--do={{do}}"), job(folder, "c")]
outcomes = launch(folder, jobs, [Slot(), Slot()], signalled=signals.append)
print(*(outcome.status for outcome in outcomes.values()), sep=",")
sys.exit(exit_status(list(outcomes.values()), signals[0]))
"""


def wait_for(*paths: Path) -> None:
    """Until all are there; the time limit ends a test that would wait for ever."""
    nap = threading.Event()
    for _ in range(2000):
        if all(path.exists() for path in paths):
            return
        nap.wait(0.01)
    raise AssertionError(f"{paths} did not appear")


def sweep(folder: Path, do: str) -> subprocess.Popen[str]:
    """Two runs at work in a process of its own, which are ready for signals."""
    process = subprocess.Popen([sys.executable, "-c", SWEEP, str(folder), do], stdout=subprocess.PIPE, text=True)
    wait_for(*(folder / "runs" / name / "ready" for name in "ab"))
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_every_run_once_and_their_ends_are_waited_for(tmp_path: Path, number: signal.Signals) -> None:
    process = sweep(tmp_path, "wait")
    process.send_signal(number)
    printed, _ = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert printed == "interrupted,interrupted,not started\n"
    assert [json.loads((tmp_path / "runs" / name / "told").read_text()) for name in "ab"] == [[number]] * 2


def test_a_second_signal_kills(tmp_path: Path) -> None:
    process = sweep(tmp_path, "hang")
    process.send_signal(signal.SIGTERM)
    while process.poll() is None:
        # Those within a second of the first count as the same one.
        process.send_signal(signal.SIGTERM)
        threading.Event().wait(0.3)
    assert process.returncode == 143
    assert process.communicate()[0] == "interrupted,interrupted,not started\n"


def test_the_lock_outlives_a_killed_sweep_as_long_as_its_runs(tmp_path: Path) -> None:
    process = sweep(tmp_path, "wait")
    with pytest.raises(ConfigurationError, match="Runs are at work in"):
        launch(tmp_path, [job(tmp_path, "c")])
    process.kill()
    process.communicate()
    with pytest.raises(ConfigurationError, match="one that was killed"):
        launch(tmp_path, [job(tmp_path, "c")])
    for name in "ab":
        os.kill(int((tmp_path / "runs" / name / "id").read_text()), signal.SIGTERM)
    wait_for(*(tmp_path / "runs" / name / "told" for name in "ab"))
    for _ in range(200):
        try:
            assert statuses(launch(tmp_path, [job(tmp_path, "c")])) == {"c": "finished"}
            return
        except ConfigurationError:
            threading.Event().wait(0.02)
    raise AssertionError("the lock was never given back")

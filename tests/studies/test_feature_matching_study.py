"""The feature matching study: what it asks of the command line, going on after an interruption, and its report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from studies import feature_matching
from studies.contrasts import Judged
from studies.feature_matching import ARMS, Study
from studies_stand_ins import synthetic_scores

from layerscope.artifacts import BottleneckScores, read_history
from layerscope.cli import main as layerscope
from layerscope.launch import Job, Outcome, Slot
from layerscope.shipped import shipped

SIGNAL = {"base": 1.0, "feat": 3.0, "feat_noisy": 1.3}


def write_config_used(run: Path, seed: int) -> None:
    """As much of it as the report reads."""
    losses = [{"class_path": "layerscope.losses.L1", "init_args": {"weight": 1.0}}]
    model = {"init_args": {"losses": losses, "latent_noise": None}}
    config = {"seed_everything": seed, "experiment_name": run.name, "model": model}
    (run / "config_used.yaml").write_text(yaml.safe_dump(config))


class PretendedRuns:
    """Stands for `layerscope.launch.run_jobs`: notes each run and leaves what a finished one leaves."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.fail_after: int | None = None

    def __call__(self, jobs: list[Job], folder: Path, slots: list[Slot], told: Callable[..., None]) -> list[Outcome]:
        return [Outcome(job, "finished", skipped=True) if job.mark.exists() else self.outcome(job) for job in jobs]

    def outcome(self, job: Job) -> Outcome:
        if self.fail_after is not None and len(self.names) >= self.fail_after:
            return Outcome(job, "failed", seconds=1.0, reason="exit status 1 (its.log)")
        job.run.mkdir(parents=True)
        self.names.append(job.name)
        if job.verb == "phantom":
            job.mark.write_text("{}")
        else:
            self.leave(job)
        return Outcome(job, "finished", seconds=1.0)

    def leave(self, job: Job) -> None:
        run, options = job.run, dict(each.split("=", 1) for each in job.arguments if "=" in each)
        seed = int(options["--seed_everything"])
        if job.verb == "test":
            arm, seed = run.name.split("_seed")[0], int(run.name.split("_seed")[1])
            synthetic_scores(SIGNAL[arm], seed).save(run / "scores.npz")
        else:
            row = {"val/psnr": 20.0 + seed, "val/ssim": 0.8, "val/l1": 0.05, "batches": 9, "train_seconds": 3.0}
            (run / "training_history.json").write_text(json.dumps({"schema_version": 1, "rows": [row]}))
            write_config_used(run, seed)
        (run / "summary.json").write_text(json.dumps({"schema_version": 1, "metrics": {"val/mAP": 0.9}}))


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> PretendedRuns:
    runs = PretendedRuns()
    monkeypatch.setattr(feature_matching, "run_jobs", runs)
    return runs


def test_an_interrupted_study_goes_on_and_reports(
    pretended: PretendedRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--output", str(tmp_path), "--seeds", "1", "2", "3", "--jobs", "1"]
    pretended.fail_after = 8
    with pytest.raises(SystemExit, match=r"vae/.*: failed, exit status 1 \(its\.log\)"):
        feature_matching.main(command)
    assert len(pretended.names) == 8

    pretended.fail_after = None
    feature_matching.main(command)
    # The phantom, two teachers, three arms with three seeds, and both judges for each: none of them twice.
    assert len(pretended.names) == 1 + 2 + 9 + 18

    text = (tmp_path / "results.md").read_text()
    assert "**feat against base on clean reconstructions, judged by B (asked in advance): better.**" in text
    assert "configurations are equal (compared)" in text
    assert "| feat | 22.00 (21.00 to 23.00) |" in text
    results = json.loads((tmp_path / "results.json").read_text())
    assert [each["outcome"] for each in results["asked_in_advance"]] == ["better", "worse"]
    assert (tmp_path / "contrasts.png").read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()

    feature_matching.main(command)
    assert len(pretended.names) == 30


def test_runs_that_differ_in_more_than_their_losses_are_no_fair_comparison(
    pretended: PretendedRuns, tmp_path: Path
) -> None:
    command = ["--output", str(tmp_path), "--seeds", "1", "2"]
    feature_matching.main(command)
    write_config_used(tmp_path / "vae" / "feat_seed2", seed=3)
    feature_matching.main(command)
    assert "they are no fair comparison" in (tmp_path / "results.md").read_text()


def test_one_seed_is_too_few(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        feature_matching.main(["--output", str(tmp_path), "--seeds", "1", "1"])
    assert "at least two different --seeds" in capsys.readouterr().err


def test_arms_of_one_seed_begin_alike(
    fundus_phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through the command line: same weights, images, crops and posterior draws give the same first L1, to the bit.

    After the first step they part.
    """
    monkeypatch.setattr(Study, "teacher", lambda *_: shipped(feature_matching.SHIPPED_TEACHER))
    study = Study(tmp_path, seeds=(4,), max_steps=1)
    study.write_configurations()
    trainings = [job for job in study.jobs() if job.name.startswith("vae/")]
    small = [f"--data.init_args.root={fundus_phantom}", "--model.init_args.crop_size=16"]
    first = {}
    for arm, step in zip(ARMS, trainings):
        assert layerscope([step.verb, *step.arguments, *small]) == 0
        [row] = read_history(study.training(arm, 4))
        first[arm] = (row["train/rec_mean"], row["train/loss"])
    assert len({l1 for l1, _ in first.values()}) == 1
    assert len({loss for _, loss in first.values()}) == 3

    last = study.jobs()[-1]
    assert layerscope([last.verb, *last.arguments, small[0]]) == 0
    scores = BottleneckScores.load(study.diagnosis("feat_noisy", 4, "B") / "scores.npz")
    assert Judged([scores, scores]).conditions == ["recon", "t52", "t153", "t330"]


def test_teachers_differ_and_are_trained_on_the_phantom(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = Study(tmp_path)
    found = []
    for step in study.jobs()[1:3]:
        assert layerscope([step.verb, *step.arguments, "--print_config"]) == 0
        found.append(yaml.safe_load(capsys.readouterr().out))
    assert [one["seed_everything"] for one in found] == [one["data"]["init_args"]["seed"] for one in found] == [1, 2]
    assert {one["data"]["init_args"]["root"] for one in found} == {str(tmp_path / "data")}

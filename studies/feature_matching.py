"""Does feature matching help? Base against feat against feat_noisy on the fundus phantom, several seeds each.

    python -m studies.feature_matching [--output DIR] [--seeds 1 2 3] [--images 1400] [--max-steps N] [--jobs 2]

Writes the phantom, trains two teachers and every arm with every seed, and lets both teachers judge the VAEs on the test
split; each a ``layerscope`` command with a log in DIR/logs. What is finished is kept: an interrupted study goes on with
the same command, and more seeds can be added. At the end results.md, results.json and contrasts.png in DIR.

Teacher A is the one whose features are matched; it was not asked alone, because it would be judge in its own case.
Teacher B differs by its seed and never meets a VAE in training.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from layerscope.artifacts import write_file
from layerscope.errors import ArtifactError, ConfigurationError
from layerscope.launch import Job, Outcome, run_jobs, slots_for
from layerscope.shipped import here_or_shipped

ARMS = ("base", "feat", "feat_noisy")
TRAINING = "configs/vae/train/phantom_{}.yaml"
SHIPPED_TEACHER = "checkpoints/demo_teacher.safetensors"
PHANTOM_SEED = 5
"""Not the demo's: nothing was chosen on these images."""
TEACHERS = {"A": 1, "B": 2}
TIMESTEPS = [0, 52, 153, 330]
DRAWS = 2


@dataclass(frozen=True)
class Study:
    """Where, and how large. max_steps: of a VAE; None: as the configurations say."""

    root: Path
    seeds: tuple[int, ...] = (1, 2, 3)
    images: int = 1400
    max_steps: int | None = None

    def jobs(self) -> list[Job]:
        """The phantom, the teachers, the VAEs, and what the teachers make of each."""
        data = self.root / "data"
        phantom = (str(data), "--kind", "fundus", "--n", str(self.images), "--seed", str(PHANTOM_SEED))
        runs = [(arm, seed) for seed in self.seeds for arm in ARMS]
        return [
            Job("data", "phantom", phantom, data),
            *(self._teacher(name) for name in TEACHERS),
            *(self._training(arm, seed) for arm, seed in runs),
            *(self._diagnosis(arm, seed, judge) for arm, seed in runs for judge in TEACHERS),
        ]

    def write_configurations(self) -> None:
        """The shipped configurations with teacher A in the place of the teacher that ships: DIR/configs."""
        for arm in ARMS:
            text = here_or_shipped(TRAINING.format(arm)).read_text(encoding="utf-8")
            if arm != "base" and SHIPPED_TEACHER not in text:
                raise ConfigurationError(
                    f"{TRAINING.format(arm)} does not name {SHIPPED_TEACHER}, so it cannot be replaced."
                )
            text = text.replace(SHIPPED_TEACHER, json.dumps(str(self.teacher("A"))))
            write_file(self.root / "configs" / f"{arm}.yaml", text.encode())

    def teacher(self, name: str) -> Path:
        return self.root / "teachers" / name / "checkpoints" / "best.ckpt"

    def training(self, arm: str, seed: int) -> Path:
        return self.root / "vae" / f"{arm}_seed{seed}"

    def diagnosis(self, arm: str, seed: int, judge: str) -> Path:
        return self.root / "judged_by" / judge / f"{arm}_seed{seed}"

    def _teacher(self, name: str) -> Job:
        run = self.root / "teachers" / name
        return self._run("fit", "configs/classifier/train/phantom.yaml", run, TEACHERS[name], ("data",))

    def _training(self, arm: str, seed: int) -> Job:
        steps = (
            []
            if self.max_steps is None
            else [f"--trainer.{key}={self.max_steps}" for key in ("max_steps", "val_check_interval")]
        )
        # The weights get a seed of their own, so that they do not depend on what else draws while the model is made.
        start = f"--model.init_args.autoencoder.init_args.seed={seed}"
        config = str(self.root / "configs" / f"{arm}.yaml")
        return self._run("fit", config, self.training(arm, seed), seed, ("teachers/A",), start, *steps)

    def _diagnosis(self, arm: str, seed: int, judge: str) -> Job:
        return self._run(
            "test",
            "configs/vae/diagnostic/phantom.yaml",
            self.diagnosis(arm, seed, judge),
            1,  # the same noise for all
            (f"vae/{arm}_seed{seed}", f"teachers/{judge}"),
            f"--model.init_args.autoencoder.init_args.source={self.training(arm, seed) / 'vae_final'}",
            f"--model.init_args.teacher.init_args.checkpoint={self.teacher(judge)}",
            f"--model.init_args.noise.timesteps={TIMESTEPS}",
            f"--model.init_args.noise.draws={DRAWS}",
            "--model.init_args.controls=[]",
        )

    def _run(self, verb: str, config: str, run: Path, seed: int, needs: tuple[str, ...], *overrides: str) -> Job:
        places = (f"--output_root={run.parent}", f"--experiment_name={run.name}")
        data = (f"--data.init_args.root={self.root / 'data'}", f"--data.init_args.seed={seed}")
        arguments = ("--config", config, *places, *data, f"--seed_everything={seed}", *overrides)
        return Job(str(run.relative_to(self.root)), verb, arguments, run, needs)

    def run(self, jobs: int) -> None:
        """All runs that have not finished, ``jobs`` at a time.

        Raises:
            ConfigurationError: a run failed, or was made for a study of another size.
        """
        self.write_configurations()
        outcomes = run_jobs(self.jobs(), self.root, slots_for(jobs), _tell)
        if failed := [one for one in outcomes if one.status in ("failed", "interrupted")]:
            raise ConfigurationError("; ".join(f"{one.job.name}: {one.status}, {one.reason}" for one in failed))


def _tell(outcome: Outcome) -> None:
    if outcome.seconds is not None:
        print(f"{outcome.job.name}: {outcome.status}, {outcome.seconds:.0f} s", flush=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/studies/feature_matching"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of the VAEs; at least two")
    parser.add_argument("--images", type=int, default=1400, help="of the phantom; a quarter of them is judged")
    parser.add_argument("--max-steps", type=int, help="of each VAE; by default as the configurations say")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, a thread each")
    options = parser.parse_args(arguments)
    if len(set(options.seeds)) < 2:
        parser.error("at least two different --seeds are needed: one says nothing of the spread between seeds")
    study = Study(options.output, tuple(dict.fromkeys(options.seeds)), options.images, options.max_steps)
    from studies.feature_matching_report import write_report

    try:
        study.run(options.jobs)
    except (ArtifactError, ConfigurationError) as error:
        sys.exit(str(error))
    print(write_report(study))


if __name__ == "__main__":
    main()

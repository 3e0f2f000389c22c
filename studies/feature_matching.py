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
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from layerscope.artifacts import read_summary, write_file, write_json_file
from layerscope.errors import ArtifactError, ConfigurationError
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
class Step:
    """One run: its name, which is its directory in the study's, and the command behind ``layerscope``."""

    name: str
    command: tuple[str, ...]


@dataclass(frozen=True)
class Study:
    """Where, and how large. max_steps: of a VAE; None: as the configurations say."""

    root: Path
    seeds: tuple[int, ...] = (1, 2, 3)
    images: int = 1400
    max_steps: int | None = None

    def stages(self) -> list[list[Step]]:
        """Steps that need those of earlier stages only: the phantom, the teachers, the VAEs, what the teachers see."""
        data = str(self.root / "data")
        phantom = ("phantom", data, "--kind", "fundus", "--n", str(self.images), "--seed", str(PHANTOM_SEED))
        runs = [(arm, seed) for seed in self.seeds for arm in ARMS]
        return [
            [Step("data", phantom)],
            [self._teacher(name) for name in TEACHERS],
            [self._training(arm, seed) for arm, seed in runs],
            [self._diagnosis(arm, seed, judge) for arm, seed in runs for judge in TEACHERS],
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

    def _teacher(self, name: str) -> Step:
        run = self.root / "teachers" / name
        return self._run("fit", "configs/classifier/train/phantom.yaml", run, TEACHERS[name])

    def _training(self, arm: str, seed: int) -> Step:
        steps = (
            []
            if self.max_steps is None
            else [f"--trainer.{key}={self.max_steps}" for key in ("max_steps", "val_check_interval")]
        )
        # The weights get a seed of their own, so that they do not depend on what else draws while the model is made.
        start = f"--model.init_args.autoencoder.init_args.seed={seed}"
        return self._run(
            "fit", str(self.root / "configs" / f"{arm}.yaml"), self.training(arm, seed), seed, start, *steps
        )

    def _diagnosis(self, arm: str, seed: int, judge: str) -> Step:
        return self._run(
            "test",
            "configs/vae/diagnostic/phantom.yaml",
            self.diagnosis(arm, seed, judge),
            1,  # the same noise for all
            f"--model.init_args.autoencoder.init_args.source={self.training(arm, seed) / 'vae_final'}",
            f"--model.init_args.teacher.init_args.checkpoint={self.teacher(judge)}",
            f"--model.init_args.noise.timesteps={TIMESTEPS}",
            f"--model.init_args.noise.draws={DRAWS}",
            "--model.init_args.controls=[]",
        )

    def _run(self, verb: str, config: str, run: Path, seed: int, *overrides: str) -> Step:
        places = (f"--output_root={run.parent}", f"--experiment_name={run.name}", "--overwrite")
        data = (f"--data.init_args.root={self.root / 'data'}", f"--data.init_args.seed={seed}")
        command = (verb, "--config", config, *places, *data, f"--seed_everything={seed}", *overrides)
        return Step(str(run.relative_to(self.root)), command)

    def remember(self) -> None:
        """Refuses a directory with a study of another size, whose runs would be mixed with this one's."""
        path, mine = self.root / "study.json", {"images": self.images, "max_steps": self.max_steps}
        if path.exists() and (found := json.loads(path.read_text())) != mine:
            raise ConfigurationError(
                f"{self.root} holds a study with {found}; asked for is {mine}. Choose another --output."
            )
        write_json_file(path, mine)

    def run(self, jobs: int) -> None:
        """All steps that are not finished, ``jobs`` at a time, a thread each."""
        self.remember()
        self.write_configurations()
        begun = time.monotonic()

        def one(step: Step) -> None:
            if self.finished(step):
                return
            log, started = self.root / "logs" / f"{step.name.replace('/', '_')}.log", time.monotonic()
            log.parent.mkdir(exist_ok=True)
            with log.open("w") as file:
                environment = {**os.environ, "OMP_NUM_THREADS": "1"}
                command = [sys.executable, "-m", "layerscope", *step.command]
                done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=environment, check=False)
            if done.returncode:
                raise ConfigurationError(f"{step.name} failed (exit status {done.returncode}); {log} says why.")
            now = time.monotonic()
            print(f"[{now - begun:5.0f} s] {step.name}: {now - started:.0f} s", flush=True)

        for stage in self.stages():
            with ThreadPoolExecutor(jobs) as pool:
                waiting = [pool.submit(one, step) for step in stage]
                try:
                    for each in waiting:
                        each.result()
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise

    def finished(self, step: Step) -> bool:
        if step.name == "data":
            return (self.root / "data" / "phantom.json").exists()
        try:
            return bool(read_summary(self.root / step.name))
        except ArtifactError:
            return False


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

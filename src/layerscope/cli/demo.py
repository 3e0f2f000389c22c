"""``layerscope demo``: from nothing to a diagnosed VAE, on phantom images, in minutes."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

from layerscope.errors import ConfigurationError
from layerscope.shipped import shipped

IMAGES = 1400


def main(arguments: list[str]) -> int:
    """Writes the phantom, trains and evaluates a teacher, trains a VAE and diagnoses it."""
    parser = argparse.ArgumentParser(
        prog="layerscope demo",
        description="Writes the fundus phantom, trains a small teacher on it and evaluates it (E0), trains a small "
        "AutoencoderKL and diagnoses it beside two controls (E1, E2). Nothing is downloaded.",
    )
    parser.add_argument("--output", type=Path, default=Path("outputs/demo"), help="directory for everything it writes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier demo in the same directory")
    options = parser.parse_args(arguments)
    if (options.output / "diagnosis" / "summary.json").exists() and not options.overwrite:
        raise ConfigurationError(
            f"{options.output} already holds a finished demo. Look at {options.output / 'diagnosis'}, choose another "
            "--output, or pass --overwrite to replace it."
        )
    from layerscope.cli.lightning import run_lightning
    from layerscope.data.phantom.write import write_phantom

    root: Path = options.output
    data = root / "data"
    begun = time.monotonic()

    def step(title: str, run: Callable[[], object]) -> None:
        print(f"\n== {title} [{time.monotonic() - begun:.0f} s]", flush=True)
        run()

    def lightning(verb: str, config: str, name: str, *overrides: str) -> None:
        """One verb of the command line with a shipped configuration, on the phantom just written."""
        places = [f"--data.init_args.root={data}", f"--output_root={root}", f"--experiment_name={name}"]
        places.append(f"--seed_everything={options.seed}")
        print(f"layerscope {verb} --config {config} …", flush=True)
        run_lightning(verb, ["--config", str(shipped(config)), *places, "--overwrite", *overrides])

    teacher = f"--model.init_args.teacher.init_args.checkpoint={root}/teacher/checkpoints/best.ckpt"
    step("1/5 The fundus phantom", lambda: write_phantom(data, "fundus", n=IMAGES, seed=options.seed, overwrite=True))
    step("2/5 Training the teacher", lambda: lightning("fit", "configs/classifier/train/phantom.yaml", "teacher"))
    step(
        "3/5 E0: evaluating the teacher",
        lambda: lightning("test", "configs/classifier/eval/phantom.yaml", "teacher_evaluation", teacher),
    )
    judge = teacher.replace("init_args.teacher", "init_args.diagnosis.teacher", 1)
    step("4/5 Training the VAE", lambda: lightning("fit", "configs/vae/train/phantom_base.yaml", "vae", judge))
    step(
        "5/5 E1 and E2: diagnosing the VAE",
        lambda: lightning(
            "test",
            "configs/vae/diagnostic/phantom.yaml",
            "diagnosis",
            teacher,
            f"--model.init_args.autoencoder.init_args.source={root}/vae/vae_final",
            "--model.init_args.thresholds.mode=global_from_real_val",
            f"--model.init_args.thresholds.file={root}/teacher_evaluation/threshold.json",
        ),
    )
    print(f"Figures: {root / 'diagnosis' / 'figures'}")
    print(f"Done in {time.monotonic() - begun:.0f} s. TensorBoard: tensorboard --logdir {root}")
    return 0

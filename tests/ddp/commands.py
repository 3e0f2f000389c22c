"""``layerscope`` as a command of its own, on one process or on two that Lightning starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
TWO = ("--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.accelerator=cpu")
STAND_INS = ("oracles", "stand_ins", "loss_stand_ins", "training_stand_ins", "step_records", "pair_stand_ins")


def command(verb: str, folder: Path, config: Path, name: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    """Runs it in ``folder``; configurations may name the stand-ins of the tests."""
    arguments = [sys.executable, "-m", "layerscope", verb, "--config", str(config), f"--experiment_name={name}"]
    environment = {key: value for key, value in os.environ.items() if key not in ("MASTER_PORT", "LOCAL_RANK", "RANK")}
    environment["PYTHONPATH"] = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    environment["OMP_NUM_THREADS"] = "1"
    return subprocess.run(
        [*arguments, *(f"--allow-import={module}" for module in STAND_INS), *overrides],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )

"""Stand-ins for ``layerscope`` in a process of its own, and sweeps of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from layerscope.launch import Job, Outcome, Slot, run_jobs

PRETENDED = """
import json, os, pathlib, signal, sys, time
verb, *rest = sys.argv[1:]
options = dict(each.removeprefix("--").split("=", 1) for each in rest if "=" in each)
run = pathlib.Path(options["run"])
run.mkdir(parents=True, exist_ok=True)
seen = {"arguments": rest, **{name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")}}
with (run.parent / f"{run.name}.starts").open("a") as file:
    file.write(json.dumps(seen) + "\\n")
do = options.get("do", "")
if verb == "fit":
    (run / "checkpoints").mkdir(exist_ok=True)
    (run / "checkpoints" / "last.ckpt").write_text("")
if do == "fail":
    print("Traceback ...\\nlayerscope: error: The image x.jpg\\ncannot be read.")
    sys.exit(1)
if do == "nothing":
    sys.exit(0)
if do == "die once" and not (run.parent / f"{run.name}.died").exists():
    (run.parent / f"{run.name}.died").touch()
    os.kill(os.getpid(), signal.SIGKILL)
if do == "wait":
    stopped = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
    signal.signal(signal.SIGINT, lambda number, frame: stopped.append(number))
    (run / "id").write_text(str(os.getpid()))
    (run / "ready").touch()
    end = time.monotonic() + 60
    while not stopped and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.1)  # a second one of the same signal would come now
    (run / "told").write_text(json.dumps(stopped))
    sys.exit(128 + stopped[0])
if do == "hang":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (run / "ready").touch()
    time.sleep(100)
(run / "UNFINISHED").unlink(missing_ok=True)
(run / "summary.json").write_text(json.dumps({"schema_version": 1, "made": options.get("value", ""), "files": []}))
"""
COMMAND = (sys.executable, "-c", PRETENDED)


def job(folder: Path, name: str, *arguments: str, verb: str = "test", needs: Sequence[str] = ()) -> Job:
    """``--do=...`` says how it ends, ``--value=...`` what its summary holds."""
    run = folder / "runs" / name
    return Job(name, verb, (f"--run={run}", *arguments), run, tuple(needs))


def launch(
    folder: Path,
    jobs: Sequence[Job],
    slots: Sequence[Slot] = (Slot(),),
    told: Callable[[Outcome], None] = lambda outcome: None,
    **options: Any,
) -> dict[str, Outcome]:
    outcomes = run_jobs(jobs, folder, slots, told, command=COMMAND, **options)
    assert [outcome.job for outcome in outcomes] == list(jobs)
    return {outcome.job.name: outcome for outcome in outcomes}

"""A script for SLURM: an array with one task for each run that has not finished.

It is written, not submitted: what is to be asked of a cluster (partition, account, modules, GPUs, time) differs from
one to the next, and a script can be read and changed first. Libraries that submit by themselves pickle a function and
start it in a Python of their own; here each task is the very command a user would type.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from layerscope.artifacts import write_file
from layerscope.errors import ConfigurationError
from layerscope.launch.job import Job, Outcome
from layerscope.launch.local import COMMAND
from layerscope.launch.lock import locked
from layerscope.launch.record import Start
from layerscope.launch.schedule import Schedule, log_file

SCRIPT = "sweep.sbatch"


def write_slurm_script(
    jobs: Sequence[Job],
    folder: Path,
    told: Callable[[Outcome], None],
    *,
    at_a_time: int | None = None,
    options: Sequence[str] = (),
    overwrite: bool = False,
    command: Sequence[str] = COMMAND,
) -> Path | None:
    """DIR/sweep.sbatch, and the record of every run in it; None where all have finished.

    Args:
        told: is told the runs that have finished.
        at_a_time: tasks that SLURM runs at the same time; None for all that fit.
        options: of sbatch, such as ``--gres=gpu:1``; they come after the script's own and so replace them.
        overwrite: what was made with other settings is made anew.

    Raises:
        ConfigurationError: jobs build on each other, another command works in the folder, or a run in it was made with
            other settings.
    """
    if any(job.needs for job in jobs):
        raise ConfigurationError("The tasks of a SLURM array start in any order, and these runs build on each other.")
    if unclear := [option for option in options if not option.startswith("-") or "\n" in option]:
        raise ConfigurationError(f"--sbatch {unclear[0]!r}: expected is an option of sbatch such as '--time=4:00:00'.")
    with locked(folder):
        schedule = Schedule(jobs, folder, told, overwrite)
        starts = []
        while (start := schedule.next()) is not None:
            starts.append(start)
        if not starts:
            return None
        log_file(jobs[0], folder).parent.mkdir(parents=True, exist_ok=True)
        path = folder / SCRIPT
        write_file(path, _script(starts, folder.absolute(), at_a_time, options, command).encode())
    return path


def _script(
    starts: Sequence[Start], folder: Path, at_a_time: int | None, options: Sequence[str], command: Sequence[str]
) -> str:
    throttle = f"%{at_a_time}" if at_a_time else ""
    lines = [
        "#!/bin/bash",
        # Not "bash" or "interactive": Lightning takes such a job for one in which a user types.
        "#SBATCH --job-name=layerscope-sweep",
        f"#SBATCH --array=0-{len(starts) - 1}{throttle}",
        *([] if any(_says_tasks(option) for option in options) else ["#SBATCH --ntasks=1"]),
        f"#SBATCH --output={_output(folder / 'logs')}",
        "#SBATCH --open-mode=append",
        *(f"#SBATCH {option}" for option in options),
        "",
        "# Submit it once. While tasks are queued or at work, do not start the sweep again and do not change the",
        "# configurations or other files that it names: tasks read them when they begin. A training that SLURM ends",
        "# with SIGTERM saves, and goes on in the script that the sweep command writes when no task is left.",
        '[ -z "$SLURM_CPUS_PER_TASK" ] || export OMP_NUM_THREADS="$SLURM_CPUS_PER_TASK"',
        f"cd {shlex.quote(str(Path.cwd()))} || exit 1",
        'case "$SLURM_ARRAY_TASK_ID" in',
    ]
    for number, start in enumerate(starts):
        words = shlex.join([*command, start.job.verb, *start.arguments])
        log = shlex.quote(str(log_file(start.job, folder)))
        lines.append(f"{number})\n  exec srun {words} >> {log} 2>&1 ;;")
    return "\n".join([*lines, "*)", '  echo "no run has the number $SLURM_ARRAY_TASK_ID" >&2; exit 1 ;;', "esac", ""])


def _says_tasks(option: str) -> bool:
    """``--ntasks=4``, ``--ntasks-per-node=4``, ``-n 4``: beside ``--ntasks=1`` some of them would be capped."""
    return option.startswith(("--ntasks", "-n"))


def _output(logs: Path) -> str:
    """A pattern, in which ``%%`` is a percent sign; sbatch takes it apart with quotes, backslashes and comments."""
    text = str(logs).replace("%", "%%") + "/slurm-%A_%a.log"
    if re.fullmatch(r"[\w/.,:@%+=-]*", text):
        return text
    escaped = re.sub(r'(["\\])', r"\\\1", text)
    return f'"{escaped}"'

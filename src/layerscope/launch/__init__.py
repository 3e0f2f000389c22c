"""Many runs of layerscope: which ones a grid or a recipe asks for, and how they are run one after another. No torch."""

from layerscope.launch.job import Job, JobStatus, Outcome
from layerscope.launch.local import run_jobs
from layerscope.launch.schedule import exit_status
from layerscope.launch.slots import Slot, slots_for

__all__ = ["Job", "JobStatus", "Outcome", "Slot", "exit_status", "run_jobs", "slots_for"]

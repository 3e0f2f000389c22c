"""The diagnosis loop on PNG files against the bare model calls on tensors in memory, side by side.

Asked: at most 1.05 times the time and 1.1 times the peak memory, at the demo's size. Time: one process runs the shipped
task and callbacks, and after each of its batches the bare calls on the same images, so that a busy machine slows both
sides alike. Memory: each side in a process of its own with the same modules imported.

    python -m benchmarks.diagnosis [--images 350] [--turns 3]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

DEMO_TEST_IMAGES = 350


def main(images: int = DEMO_TEST_IMAGES, turns: int = 3) -> None:
    """Prints both sides and their ratios."""
    from layerscope.data.phantom.write import write_phantom

    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        # A quarter of the phantom is its test split.
        write_phantom(data, "fundus", n=images * 4, seed=3)
        timed = [_run("paired", data) for _ in range(turns)]
        peak = {side: _run(side, data)["peak_mb"] for side in ("bare", "loop")}
    first = timed[0]
    print(f"{int(first['images'])} images of 128 px, {int(first['decodes'])} decodes each")
    for turn in timed:
        loop, bare = turn["loop_seconds"], turn["bare_seconds"]
        print(f"loop {loop:.2f} s, bare {bare:.2f} s: {loop / bare:.3f}; statistics, figures, files after it ", end="")
        print(f"{turn['report_seconds']:.1f} s")
    loop, bare = (sum(turn[f"{side}_seconds"] for turn in timed) for side in ("loop", "bare"))
    print(f"time ratio over all turns {loop / bare:.3f} (asked: at most 1.05)")
    print(
        f"peak memory: loop {peak['loop']:.0f} MB, bare {peak['bare']:.0f} MB: "
        f"ratio {peak['loop'] / peak['bare']:.3f} (asked: at most 1.1)"
    )


def _run(side: str, data: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.diagnosis", "--side", side, "--data", str(data)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _task() -> Any:
    from layerscope.models.autoencoders import DiffusersAutoencoder
    from layerscope.models.teachers import TimmTeacher
    from layerscope.tasks.diagnosis.bottleneck import BottleneckDiagnosis
    from layerscope.tasks.diagnosis.latent_space import NoiseSettings

    return BottleneckDiagnosis(
        DiffusersAutoencoder(source="checkpoints/demo_vae"),
        TimmTeacher(
            "resnet10t",
            num_labels=5,
            model_kwargs={"channels": [16, 32, 64, 128], "stem_width": 16},
            checkpoint="checkpoints/demo_teacher.safetensors",
            stages=4,
        ),
        # The demo's sweep; the draws of its noisy end make it the size of a real diagnosis.
        noise=NoiseSettings(timesteps=[0, 52, 153, 330, 538, 724], draws=2),
        controls=["roundtrip8", "down4"],
        decode_batch_size=16,
    )


def _data(data: Path) -> Any:
    from layerscope.data.multilabel import MultilabelImages

    return MultilabelImages(
        root=str(data),
        table=str(data / "labels.csv"),
        schema=str(data / "schema.yaml"),
        batch_size=16,
        eval_split="test",
    )


class _BareCalls:
    """Encode once, decode and look once per condition; nothing else."""

    def __init__(self, task: Any, data: Any) -> None:
        self.task = task
        self.decodes = 1 + sum(condition.kind == "noise" for condition in task.conditions)
        self.validation = [batch["image"] for batch in data.val_dataloader()]
        self.batches = [batch["image"] for batch in data.test_dataloader()]
        self.seconds = 0.0

    def of_batch(self, number: int) -> None:
        """The calls that the diagnosis of a batch cannot do without."""
        image, task = self.batches[number], self.task
        begun = time.perf_counter()
        task.teacher.features(image)
        z = task.autoencoder.encode(image).mean
        for _ in range(self.decodes):
            task.teacher.features(task.autoencoder.decode(z))
        for _ in task.controls:
            task.teacher.features(image)
        self.seconds += time.perf_counter() - begun

    def of_validation(self) -> None:
        """Thresholds come from the teacher's view of val."""
        begun = time.perf_counter()
        for image in self.validation:
            self.task.teacher(image)
        self.seconds += time.perf_counter() - begun


def _bare(data: Path) -> dict[str, float]:
    import torch

    module = _data(data)
    module.setup("test")
    bare = _BareCalls(_task(), module)
    with torch.inference_mode():
        bare.of_validation()
        for number in range(len(bare.batches)):
            bare.of_batch(number)
    return {}


def _loop(data: Path, paired: bool) -> dict[str, float]:
    """The shipped task and callbacks under Lightning, reading the PNG files; ``paired`` with the bare calls between."""
    import torch
    from lightning.pytorch import Callback, Trainer

    from layerscope.artifacts import open_run_directory
    from layerscope.callbacks.bottleneck_report import BottleneckReport
    from layerscope.callbacks.run_folder import RunFolder
    from layerscope.callbacks.worst_samples import WorstSamples

    task, module = _task(), _data(data)
    module.setup("test")
    bare = _BareCalls(task, module) if paired else None
    if bare is not None:
        with torch.inference_mode():
            bare.of_batch(0)  # warm, both sides
        bare.seconds = 0.0
    clock: dict[str, float] = {}

    class Clock(Callback):
        """Last of the callbacks, so that its batch ends after theirs."""

        def on_test_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if bare is not None:
                if batch_idx == 0:
                    bare.of_validation()
                bare.of_batch(batch_idx)

        def on_test_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            clock["ended"] = time.perf_counter()

    class Begin(Callback):
        """First of the callbacks: from before the latent statistics."""

        def on_test_start(self, trainer: Any, pl_module: Any) -> None:
            clock["begun"] = time.perf_counter()

    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[
            Begin(),
            WorstSamples(8),
            BottleneckReport(),
            RunFolder(open_run_directory(data.parent / "run", True)),
            Clock(),
        ],
    )
    trainer.test(task, datamodule=module, verbose=False)
    if bare is None:
        return {}
    return {
        "images": sum(map(len, bare.batches)),
        "decodes": bare.decodes,
        "loop_seconds": clock["ended"] - clock["begun"] - bare.seconds,
        "bare_seconds": bare.seconds,
        "report_seconds": time.perf_counter() - clock["ended"],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=DEMO_TEST_IMAGES)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--side", choices=["paired", "bare", "loop"])
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    if options.side is None:
        main(options.images, options.turns)
    else:
        import layerscope.callbacks.bottleneck_report  # noqa: F401 — every side holds the same modules in memory

        result = _bare(options.data) if options.side == "bare" else _loop(options.data, options.side == "paired")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({**result, "peak_mb": peak}))

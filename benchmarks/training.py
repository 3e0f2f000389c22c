"""Training a VAE: the shipped training against loops written by hand, bf16 against fp32, and the wait for images.

Asked: steps per second at least 0.97 of a plain PyTorch loop's and peak memory at most 1.03 of it; at least 1.0 of the
steps per second of a loop in the manner of diffusers' training script; bf16 at least 1.8 times fp32 on this processor;
data loading never the limit at 256 px with two workers. ``benchmarks.training_loops`` has the loops. A step of each
side in turn within one process, so that a busy machine slows both alike; memory in a process for each side.

    python -m benchmarks.training [--part speed|memory|bf16|data]
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.training_loops import (
    PlainLoop,
    ScriptLoop,
    Setting,
    alternating,
    loader_rate,
    plain_training,
    shipped_training,
)

# Of configs/vae/train/phantom_base.yaml, the smallest model that ships, with its batch; and on images of a quarter of
# its pixels, for what a step costs besides the model.
SHIPPED = Setting((8, 16, 32), layers=1, batch=2)
SMALLEST = Setting((8, 16, 32), layers=1, batch=4)
# The same with one more level, as models for images of 256 px have it.
SMALLEST_256 = Setting((8, 16, 32, 32), layers=1, batch=4)
SMALL = Setting((32, 64, 64), layers=1, batch=4)
# Stable Diffusion's widths, and a half and a quarter of them.
QUARTER = Setting((32, 64, 128, 128), layers=2, batch=4)
HALF = Setting((64, 128, 256, 256), layers=2, batch=2)
FULL = Setting((128, 256, 512, 512), layers=2, batch=1)

# Name, model, side of the images in pixels, the other loop, steps.
SPEED: list[tuple[str, Setting, int, type[PlainLoop], int]] = [
    ("plain loop, phantom_base as shipped, 128 px", SHIPPED, 128, PlainLoop, 100),
    ("plain loop, the same model, 64 px", SMALLEST, 64, PlainLoop, 150),
    ("plain loop, small model, 64 px", SMALL, 64, PlainLoop, 45),
    ("script's manner, phantom_base as shipped, 128 px", SHIPPED, 128, ScriptLoop, 100),
    ("script's manner, the same model, 64 px", SMALLEST, 64, ScriptLoop, 150),
    ("script's manner, small model, 64 px", SMALL, 64, ScriptLoop, 45),
]
# Name, model, side, channels last, steps.
BF16: list[tuple[str, Setting, int, bool, int]] = [
    ("small model, 128 px", SMALL, 128, False, 5),
    ("a quarter of Stable Diffusion's width, 128 px", QUARTER, 128, False, 5),
    ("half of its width, 128 px", HALF, 128, False, 5),
    ("half of its width, channels last, 128 px", HALF, 128, True, 5),
    ("its width, 64 px", FULL, 64, False, 4),
]
MEMORY_STEPS = 6
WAIT_STEPS = 20
RATE_BATCHES = 25


def main(parts: tuple[str, ...] = ("speed", "memory", "bf16", "data")) -> None:
    """Prints every figure; each part in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        for part in parts:
            if part != "memory":
                for line in _run(part, Path(folder))["lines"]:
                    print(line)
                continue
            _images(Path(folder), 128)  # here, so that neither side's memory has the drawing in it
            peak = {side: _run(side, Path(folder))["peak_mb"] for side in ("memory-ours", "memory-plain")}
            ours, plain = peak["memory-ours"], peak["memory-plain"]
            print(
                f"peak memory, small model, 4 images of 128 px: ours {ours:.0f} MB, plain loop {plain:.0f} MB: "
                f"ratio {ours / plain:.3f} (asked: at most 1.03)"
            )


def _run(part: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.training", "--inside", part, "--folder", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # progress bars go there
    found: dict[str, Any] = json.loads((folder / f"{part}.json").read_text())
    return found


def _images(folder: Path, side: int, n: int = 120) -> Path:
    """PNG files, written once."""
    from layerscope.data.phantom.write import write_phantom

    written = folder / f"images{side}"
    if not written.exists():
        write_phantom(written, "fundus", n=n, size=side, seed=3)
    return written / "images"


def _as_jpeg(images: Path) -> Path:
    from PIL import Image

    out = images.parent / "jpeg"
    if not out.exists():
        out.mkdir()
        for path in sorted(images.glob("*.png")):
            Image.open(path).save(out / f"{path.stem}.jpg", quality=92)
    return out


def compared(ours: list[float], others: list[float], blocks: int = 10) -> str:
    """Median step of both sides, and the ratio of their rates: over all steps and over each of some blocks.

    The first tenth warms up and is left out.
    """
    ours, others = ours[len(ours) // 10 :], others[len(others) // 10 :]
    size = max(1, len(ours) // blocks)
    ratios = [sum(others[at : at + size]) / sum(ours[at : at + size]) for at in range(0, len(ours) - size + 1, size)]
    return (
        f"{1e3 * statistics.median(ours):.1f} ms against {1e3 * statistics.median(others):.1f} ms a step: "
        f"{statistics.median(others) / statistics.median(ours):.3f} by medians, {sum(others) / sum(ours):.3f} by sums, "
        f"{min(ratios):.3f} to {max(ratios):.3f} over {len(ratios)} blocks"
    )


def _speed(folder: Path) -> list[str]:
    lines = []
    for number, (name, setting, side, loop, steps) in enumerate(SPEED):
        clocks = alternating(setting, _images(folder, side), folder / f"speed{number}", steps, loop)
        asked = "1.0" if loop is ScriptLoop else "0.97"
        lines.append(f"steps per second, {name}: {compared(clocks.ours, clocks.others)} (asked: at least {asked})")
        if loop is PlainLoop and clocks.ends:
            ours, others = (1e3 * statistics.median(end) for end in zip(*clocks.ends))
            lines.append(f"  an epoch's end with the next step: {ours:.0f} ms against {others:.0f} ms")
    return lines


def _bf16(folder: Path) -> list[str]:
    lines = []
    for number, (name, setting, side, channels_last, steps) in enumerate(BF16):
        out = folder / f"bf16-{number}"
        images = _images(folder, side)
        clocks = alternating(setting, images, out, steps, PlainLoop, "bf16-mixed", "32-true", channels_last)
        half, single = min(clocks.ours), min(clocks.others)
        lines.append(
            f"bf16-mixed against fp32, {name}: best step {half:.2f} s against {single:.2f} s: {single / half:.2f} "
            "times as fast (asked: at least 1.8)"
        )
    return lines


def _data(folder: Path) -> list[str]:
    png = _images(folder, 256)
    lines = []
    for images in (png, _as_jpeg(png)):
        kind = next(images.iterdir()).suffix[1:].upper()
        alone, two = (loader_rate(images, 4, workers, RATE_BATCHES) for workers in (0, 2))
        clocks, waited = shipped_training(SMALLEST_256, images, folder / f"data{kind}", WAIT_STEPS, workers=2)
        taken = SMALLEST_256.batch / statistics.median(clocks.ours)
        lines.append(
            f"{kind} of 256 px: the loader reads {alone:.0f} images/s by itself, {two:.0f} with two workers; the "
            f"smallest model takes {taken:.1f} images/s and waits for them {100 * waited:.2f} % of its time"
        )
    return lines


def _memory(side: str, folder: Path) -> None:
    images = _images(folder, 128)
    if side == "memory-ours":
        shipped_training(SMALL, images, folder / side, MEMORY_STEPS)
    else:
        plain_training(SMALL, images, folder / side, MEMORY_STEPS)


def _inside(part: str, folder: Path) -> dict[str, Any]:
    # Every side of the memory holds the same modules.
    import layerscope.callbacks.training_history
    import layerscope.tasks.vae  # noqa: F401

    match part:
        case "speed":
            return {"lines": _speed(folder)}
        case "bf16":
            return {"lines": _bf16(folder)}
        case "data":
            return {"lines": _data(folder)}
        case _:
            _memory(part, folder)
            return {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", choices=["speed", "memory", "bf16", "data"])
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside is not None:
        result = _inside(options.inside, options.folder)
        (options.folder / f"{options.inside}.json").write_text(json.dumps(result))
    elif options.part is not None:
        main((options.part,))
    else:
        main()

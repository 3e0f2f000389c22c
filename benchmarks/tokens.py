"""Maps of all layers against the bare forward with hidden states, against a loop over tokens, and their memory.

Asked: all layers' neighbour and CLS maps at most 1.10 times the bare forward with hidden states, for a ViT-B/16 at 224
in batches of 8; memory not growing with the number of images; the maps at least 20 times as fast as a loop over tokens.
Both sides run in one process in turns; memory is that of processes of their own.

    python -m benchmarks.tokens [--batches 6]
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BATCH = 8
COUNTS = (50, 1000)
"""Images of the two processes whose memory is compared."""


def main(batches: int = 6) -> None:
    """Prints all sides and their ratios."""
    import torch

    from layerscope.models.transformers_tokens import TransformersTokens
    from layerscope.tasks.diagnosis.tokens import TokenSimilarity

    # CLIP's ViT-B/16.
    config = {
        "model_type": "clip_vision_model",
        "image_size": 224,
        "patch_size": 16,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
    }
    encoder: Any = TransformersTokens(config=config, seed=0)
    maps = TokenSimilarity(encoder, layers="all", effective_rank=False).eval()
    with_rank = TokenSimilarity(encoder, layers="all").eval()
    images = torch.rand(BATCH, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1
    batch = _batch(images)

    @torch.no_grad()
    def bare() -> Any:
        return encoder.model(pixel_values=encoder.normalise(images), output_hidden_states=True)

    sides: dict[str, Callable[[], Any]] = {
        "bare": bare,
        "maps": lambda: maps.measure(batch),
        "maps and effective rank": lambda: with_rank.measure(batch),
    }
    seconds = _in_turns(sides, batches)
    print(f"ViT-B/16, 224 px, batches of {BATCH}, all 12 layers, medians of {batches} turns (seconds)")
    for name, times in seconds.items():
        ratios = [one / base for one, base in zip(times, seconds["bare"])]
        asked = " (asked: at most 1.10)" if name == "maps" else ""
        print(f"  {name} {statistics.median(times):.3f}, against bare {statistics.median(ratios):.3f}{asked}")

    tokens = bare().hidden_states[-1]
    looped = _in_turns({"maps": lambda: _maps(tokens), "loop": lambda: _loop(tokens)}, 3)
    one, loop = (statistics.median(looped[side]) for side in ("maps", "loop"))
    print(
        f"  maps of one layer {1e3 * one:.2f} ms, by a loop over tokens {1e3 * loop:.0f} ms: {loop / one:.0f} times as "
        "fast (asked: at least 20)"
    )
    with tempfile.TemporaryDirectory() as folder:
        few, many = (_peak(Path(folder), count) for count in COUNTS)
    print(f"  peak memory of {COUNTS[0]} images {few:.0f} MB, of {COUNTS[1]:,} images {many:.0f} MB (asked: no more)")


def _in_turns(sides: dict[str, Callable[[], Any]], turns: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(turns + 1):
        for name, run in sides.items():
            begun = time.perf_counter()
            run()
            if turn:  # the first warms up
                seconds[name].append(time.perf_counter() - begun)
    return seconds


def _batch(images: Any) -> Any:
    import numpy as np
    import torch

    count, (height, width) = len(images), images.shape[-2:]
    return {
        "image": images,
        "other": None,
        "other_id": None,
        "other_mask": None,
        "other_shown": None,
        "mask": torch.zeros(count, height, width, dtype=torch.bool),
        "has_mask": torch.zeros(count, dtype=torch.bool),
        "shown": np.array([[0.0, 0.0, width, height]] * count),
        "id": [str(number) for number in range(count)],
        "index": torch.arange(count),
        "skipped": [],
    }


def _maps(tokens: Any) -> Any:
    """Neighbours and CLS of one layer, as the probe computes them."""
    from layerscope.functional.token_norms import token_norms
    from layerscope.functional.token_similarity import neighbour_maps, similarity_to

    grid = tokens[:, 1:].unflatten(1, (14, 14))
    norms = token_norms(grid)
    return neighbour_maps(grid, "cosine", False, norms), similarity_to(grid, tokens[:, 0], "cosine", norms)


def _loop(tokens: Any) -> Any:
    """The straightforward script: one cosine after the other."""
    import torch.nn.functional as F

    found = []
    for image in tokens:
        cls, grid = image[0], image[1:].unflatten(0, (14, 14))
        for row in range(14):
            for column in range(14):
                if column < 13:
                    found.append(float(F.cosine_similarity(grid[row, column], grid[row, column + 1], dim=0)))
                if row < 13:
                    found.append(float(F.cosine_similarity(grid[row, column], grid[row + 1, column], dim=0)))
                found.append(float(F.cosine_similarity(grid[row, column], cls, dim=0)))
    return found


def _peak(folder: Path, count: int) -> float:
    """MB of a process that runs the command on ``count`` pictures with a small model."""
    import numpy as np
    from PIL import Image

    data = folder / f"n{count}"
    data.mkdir()
    draw = np.random.default_rng(0)
    for number in range(count):
        Image.fromarray(draw.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(data / f"{number}.png")
    command = [sys.executable, "-m", "benchmarks.tokens", "--run", str(data), "--output", str(folder / "outputs")]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found["peak_mb"]


def _run(data: Path, output: Path) -> None:
    """The shipped configuration for a small random model, without pictures."""
    from layerscope.cli import main as command

    overrides = [
        f"--data.path={data}",
        f"--output_root={output}",
        f"--experiment_name={data.name}",
        "--trainer.logger=false",
        "--trainer.callbacks.visualization.limit=0",
        "--trainer.accelerator=cpu",
    ]
    if status := command(["test", "--config", "configs/tokens/tiny_random.yaml", *overrides]):
        raise SystemExit(status)
    print(json.dumps({"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--batches", type=int, default=6)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if options.run is None:
        main(options.batches)
    else:
        _run(options.run, options.output)

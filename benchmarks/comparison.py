"""Time `layerscope compare` at the size it promises: ``python -m benchmarks.comparison``.

Nine candidates of 5000 images and 20 labels with the reconstruction and nine noise steps are written, then compared by
the command in a process of its own, which must not have loaded torch.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from layerscope.artifacts import BottleneckScores, open_run_directory

CANDIDATES, IMAGES, LABELS = 9, 5000, 20
STEPS = {3: 5.7, 14: 4.3, 52: 2.9, 153: 1.5, 330: 0.2, 538: -1.2, 724: -2.6, 875: -4.0, 999: -5.3}
AT_MOST = 20.0
"""Seconds of the whole command."""

COMMAND = """\
import sys, time
start = time.perf_counter()
from layerscope.cli import main
status = main(sys.argv[1:])
print(status, time.perf_counter() - start, "torch" in sys.modules)
"""


def write_candidates(root: Path) -> list[str]:
    """Run directories whose candidates lose more and more; four draws of noise from t = 150 on."""
    shared = np.random.default_rng(0)
    target = (shared.random((IMAGES, LABELS)) < 0.15).astype(np.uint8)
    background = shared.standard_normal((IMAGES, LABELS))
    places = [("real", "real", -1, -1, np.nan), ("recon", "recon", -1, -1, np.nan)]
    places += [(f"t{t}", "noise", t, draw, x) for t, x in STEPS.items() for draw in range(4 if t >= 150 else 1)]
    names, kinds, t, draw, log_snr = (np.array(column) for column in zip(*places))
    clear = np.where(np.isnan(log_snr), 1.0, 1 / (1 + np.exp(-np.nan_to_num(log_snr) - 1)))
    paths = []
    for candidate in range(CANDIDATES):
        rng = np.random.default_rng(candidate + 1)
        signal = (2.0 - 0.1 * candidate * (kinds != "real")) * clear
        own = 0.7 * (kinds != "real")[:, None, None] * rng.standard_normal((len(names), IMAGES, LABELS))
        scores = BottleneckScores(
            id=np.array([f"image{i:05d}" for i in range(IMAGES)]),
            group=np.array([f"patient{i // 2:05d}" for i in range(IMAGES)]),
            target=target,
            known=np.ones((IMAGES, LABELS), dtype=np.bool_),
            label=np.array([f"label{k}" for k in range(LABELS)]),
            label_display=np.array([f"Label {k}" for k in range(LABELS)]),
            evaluated=np.ones(LABELS, dtype=np.bool_),
            logits=(signal[:, None, None] * target + background + own).astype(np.float32),
            threshold_global=1.0,
            threshold_label=np.ones(LABELS),
            threshold_source="benchmark",
            condition=names,
            kind=kinds,
            t=t,
            draw=draw,
            log_snr=log_snr,
            log_snr_eff=log_snr - 0.1 * candidate,
            similarity_name=np.array(["embedding", *(f"stage{i}.pooled" for i in range(4))]),
            similarity=rng.uniform(0.8, 1.0, (len(names), IMAGES, 5)).astype(np.float32),
            similarity_null=rng.uniform(0.1, 0.3, (500, 5)).astype(np.float32),
            quality_name=np.array(["psnr_db", "ssim"]),
            quality=rng.normal((28, 0.8), (2, 0.05), (IMAGES, 2)).astype(np.float32),
        )
        path = root / f"candidate{candidate}"
        with open_run_directory(path).staged() as stage:
            stage.write_npz("scores.npz", scores.arrays())
            stage.write_json("summary.json", {"task": "vae_bottleneck", "split": "test", "data_hash": "benchmark"})
        paths.append(str(path))
    return paths


def main() -> None:
    """Prints the time of the whole command: imports, reading, statistics, figures, tables."""
    with tempfile.TemporaryDirectory() as folder:
        paths, out = write_candidates(Path(folder)), Path(folder) / "comparison"
        command = [sys.executable, "-c", COMMAND, "compare", *paths, "--output", str(out)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    status, seconds, torch = done.stdout.splitlines()[-1].split()
    assert (status, torch) == ("0", "False"), done.stdout
    print(
        f"{CANDIDATES} candidates, N={IMAGES} L={LABELS}, {len(STEPS)} steps, without torch: {float(seconds):.1f} s "
        f"(asked: under {AT_MOST:.0f}), {size / 1e6:.1f} MB written"
    )


if __name__ == "__main__":
    main()

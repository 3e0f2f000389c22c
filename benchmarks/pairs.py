"""A pair diagnosis against the bare encode and decode of the same pairs, and against storing every activation.

Asked: with every decoder block watched at most 1.10 times the bare time and 1.10 times its peak memory; against hooks
that store every activation on the CPU and compare afterwards, 1.3 times as fast with at most half the extra memory; and
1,000 pairs need no more memory than 10. Time: one process runs the shipped task and callbacks on PNG files, and after
each of its batches the other two on the same images. Memory: each side in a process of its own with the same modules.

    python -m benchmarks.pairs [--width 128 --size 512 --pairs 8]
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

BATCH = 4
SETTINGS = ((32, 256, 24), (128, 128, 12))
"""Width of the first level (128 is Stable Diffusion's), side of the images in pixels, and pairs."""


def main(settings: tuple[tuple[int, int, int], ...] = SETTINGS) -> None:
    """Prints all sides and their ratios."""
    from layerscope.data.phantom.write import write_phantom

    with tempfile.TemporaryDirectory() as folder:
        for width, size, pairs in settings:
            data = write_phantom(Path(folder) / f"{width}", "pairs", n=pairs, size=size, seed=3)
            timed = _run("timed", data, width)
            peak = {side: _run(side, data, width)["peak_mb"] for side in ("idle", "bare", "probed", "stored")}
            probed, bare, stored = (timed[f"{side}_seconds"] for side in ("probed", "bare", "stored"))
            extra = {side: peak[side] - peak["bare"] for side in ("probed", "stored")}
            print(
                f"first level of {width} channels, {size} px, {pairs} pairs with masks, batches of {BATCH}, "
                f"{timed['layers']:.0f} layers: probed {probed:.2f} s, bare {bare:.2f} s, stored {stored:.2f} s\n"
                f"  time, probed : bare {probed / bare:.3f} (asked: at most 1.10); stored : probed "
                f"{stored / probed:.3f} (asked: at least 1.3)\n"
                f"  peak memory, probed {peak['probed']:.0f} MB, bare {peak['bare']:.0f} MB, stored "
                f"{peak['stored']:.0f} MB (modules alone {peak['idle']:.0f}): probed : bare "
                f"{peak['probed'] / peak['bare']:.3f} (asked: at most 1.10); extra {extra['probed']:.0f} against "
                f"{extra['stored']:.0f} MB (asked: at most half)"
            )
        few, many = (
            _run("probed", write_phantom(Path(folder) / f"n{n}", "pairs", n=n, size=64, seed=3), 16)["peak_mb"]
            for n in (12, 1000)
        )
        print(f"peak memory of 12 pairs {few:.0f} MB, of 1,000 pairs {many:.0f} MB (asked: no more)")


def _run(side: str, data: Path, width: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.pairs", "--side", side, "--data", str(data), "--width", str(width)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _autoencoder(width: int) -> Any:
    """Stable Diffusion's architecture, its first level of ``width`` channels (128 there); random weights."""
    from layerscope.models.autoencoders import DiffusersAutoencoder

    levels = [width, 2 * width, 4 * width, 4 * width]
    architecture = {
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "block_out_channels": levels,
        "layers_per_block": 2,
        "latent_channels": 4,
        "norm_num_groups": min(32, width // 2),
    }
    return DiffusersAutoencoder(architecture=architecture, seed=0)


def _data(data: Path) -> Any:
    from layerscope.data.pairs.folder import PairFolder

    return PairFolder(str(data), image_size=None, batch_size=BATCH, noise_floor="none")


class _Stored:
    """The straightforward script: hooks that keep every activation on the CPU, one image after the other."""

    def __init__(self, autoencoder: Any) -> None:
        self.autoencoder = autoencoder
        self.kept: dict[str, Any] = {}

    def compare(self, positive: Any, negative: Any) -> list[dict[str, float]]:
        from layerscope.probes.selection import choose_layers

        root = self.autoencoder.layer_root
        handles = [
            root.get_submodule(name).register_forward_hook(self._keeps(name))
            for name in choose_layers(root, self.autoencoder.default_layers)
        ]
        sides = []
        for image in (positive, negative):
            self.kept = {}
            self.autoencoder.decode(self.autoencoder.encode(image).mean)
            sides.append(self.kept)
        for handle in handles:
            handle.remove()
        first, second = sides
        return [
            self._difference(a[row], b[row]) for a, b in zip(first.values(), second.values()) for row in range(len(a))
        ]

    def _keeps(self, name: str) -> Any:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            self.kept[name] = output.detach().float().cpu().clone()

        return hook

    @staticmethod
    def _difference(a: Any, b: Any) -> dict[str, float]:
        import torch

        difference = (a - b).norm()
        a_norm, b_norm = a.norm(), b.norm()
        return {
            "l2": float(difference),
            "relative": float(difference / ((a_norm**2 + b_norm**2) / 2).sqrt()),
            "cosine": float(1 - torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0)),
            "sqnr": float(10 * torch.log10(a_norm**2 / difference**2)),
            "where": float((a - b).norm(dim=0).max()),
        }


def _other(side: str, data: Path, width: int) -> dict[str, float]:
    """The bare calls, the script that stores, or nothing but the modules and the model in memory."""
    import torch

    autoencoder, module = _autoencoder(width).eval(), _data(data)
    module.setup("test")
    with torch.inference_mode():
        for batch in module.test_dataloader()[0]:
            if side == "bare":
                autoencoder.decode(autoencoder.encode(torch.cat([batch["positive"], batch["negative"]])).mean)
            elif side == "stored":
                _Stored(autoencoder).compare(batch["positive"], batch["negative"])
    return {}


def _probed(data: Path, width: int, timed: bool) -> dict[str, float]:
    """The shipped task and callbacks under Lightning, reading the PNG files; ``timed`` with the others between."""
    import torch
    from lightning.pytorch import Callback, Trainer

    from layerscope.artifacts import open_run_directory
    from layerscope.callbacks.layer_differences import LayerDifferences
    from layerscope.callbacks.pair_pictures import PairPictures
    from layerscope.callbacks.run_folder import RunFolder
    from layerscope.tasks.diagnosis.pairs import PairDiagnosis

    autoencoder, module = _autoencoder(width), _data(data)
    task = PairDiagnosis(autoencoder)
    module.setup("test")
    measuring = LayerDifferences()
    clock = {"probed": 0.0, "bare": 0.0, "stored": 0.0}
    twin = _autoencoder(width).eval() if timed else None

    class Clock(Callback):
        """Last of the callbacks, so that its batch ends after theirs."""

        def on_test_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            self.since = time.perf_counter()

        def on_test_batch_end(
            self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
        ) -> None:
            now = time.perf_counter()
            if batch_idx:  # the first batch warms all sides
                clock["probed"] += now - self.since
            if twin is not None:
                begun = time.perf_counter()
                twin.decode(twin.encode(torch.cat([batch["positive"], batch["negative"]])).mean)
                between = time.perf_counter()
                _Stored(twin).compare(batch["positive"], batch["negative"])
                if batch_idx:
                    clock["bare"] += between - begun
                    clock["stored"] += time.perf_counter() - between
            self.since = time.perf_counter()

    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[
            measuring,
            PairPictures(1, 1),
            RunFolder(open_run_directory(data.parent / f"run{width}", True)),
            Clock(),
        ],
    )
    trainer.test(task, datamodule=module, verbose=False)
    return {"layers": len(measuring.scores.layer), **{f"{side}_seconds": value for side, value in clock.items()}}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--side", choices=["timed", "idle", "bare", "probed", "stored"])
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    if options.side is None:
        main(((options.width, options.size, options.pairs),) if options.width else SETTINGS)
    else:
        import layerscope.callbacks.pair_report  # noqa: F401 — every side holds the same modules in memory

        if options.side in ("timed", "probed"):
            result = _probed(options.data, options.width, options.side == "timed")
        else:
            result = _other(options.side, options.data, options.width)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({**result, "peak_mb": peak}))

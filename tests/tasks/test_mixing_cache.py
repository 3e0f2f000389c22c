"""Kept reconstructions: read where all that decides them is equal, and nowhere else."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from mixing_runs import Run, data, half, same
from oracles import BlockMean
from small_autoencoder import SmallAutoencoder
from torch import Tensor, nn

from layerscope.functional.mixing import mixed_in
from layerscope.tasks.diagnosis.latent_space import NoiseProcess


class Shrunk(nn.Module):
    """A denoiser without weights."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, z: Tensor, alpha: float, sigma: float) -> Tensor:
        return self.factor * z


def test_kept_reconstructions_change_no_bit(fundus_phantom: Path, tmp_path: Path) -> None:
    """Made each time, made and kept, all read, a part read because the room ended, and one damaged."""
    statistics = {"noise": NoiseProcess(latent_statistics_images=5)}
    uncached = Run(fundus_phantom, half(**statistics))
    first = Run(fundus_phantom, half(tmp_path / "cache", **statistics))
    files = sorted((tmp_path / "cache").rglob("*.npy"))
    before = SmallAutoencoder.encoded
    second = Run(fundus_phantom, half(tmp_path / "cache", **statistics))
    assert SmallAutoencoder.encoded - before == 5
    assert second.figure("cache_hits") == 1
    assert same(uncached, first)
    assert same(uncached, second)

    content = files[0].read_bytes()
    files[0].write_bytes(content[:-40] + bytes(40))
    bound = 3.5 * len(content) / 1e9
    few = Run(fundus_phantom, half(tmp_path / "few", cache_gigabytes=bound, **statistics))
    again = Run(fundus_phantom, half(tmp_path / "cache", **statistics))
    assert same(uncached, few)
    assert same(uncached, again)
    assert files[0].read_bytes() == content
    assert len(list((tmp_path / "few").rglob("*.npy"))) == 3


def test_another_autoencoder_or_noise_reads_nothing_of_the_first(fundus_phantom: Path, tmp_path: Path) -> None:
    """Also where no weight tells the two apart."""
    cache = tmp_path / "cache"
    changes: list[dict[str, Any]] = [
        {"autoencoder": BlockMean(2)},
        {"autoencoder": BlockMean(4)},
        {"posterior": "sample"},
        {"noise": NoiseProcess(seed=5)},
        {"noise": NoiseProcess(latent_normalisation="config")},
        {"noise": NoiseProcess(latent_statistics_images=9)},
        {"noise": NoiseProcess(denoiser="wiener")},
        {"noise": NoiseProcess(denoiser=Shrunk(0.5))},
        {"noise": NoiseProcess(denoiser=Shrunk(0.8))},
        {"autoencoder": BlockMean(2), "noisy": 0.0},
        {"autoencoder": BlockMean(4), "noisy": 0.0},
        {},
    ]
    for change in changes:
        settings = {"mix": 1.0, "noisy": 1.0, "draws": 1, **change}
        kept = Run(fundus_phantom, half(cache, **settings), epochs=1)
        assert kept.figure("cache_hits") == 0
        if "autoencoder" in change:
            assert same(kept, Run(fundus_phantom, half(**settings), epochs=1))


@pytest.mark.parametrize("part", ["image", "id", "draw"])
def test_what_differs_in_one_part_alone_is_kept_apart(fundus_phantom: Path, tmp_path: Path, part: str) -> None:
    """Two images of one id, one image under two ids, and two draws of one sample, the second after the first."""
    settings: dict[str, Any] = {"mix": 1.0, "noisy": 1.0, "timesteps": [153], "draws": 2}
    cache = tmp_path / "cache"
    fresh, kept = (Run(fundus_phantom, half(folder, **settings), epochs=0).task.mixer for folder in (None, cache))
    train = data(fundus_phantom).dataset("train")
    image, other = train[0]["image"], train[1]["image"]

    def epoch(name: str, draw: int) -> int:
        return next(e for e in range(99) if mixed_in([name], e, 0, 1.0, 1.0, [153], 2) == [(153, draw)])

    first, second = train[0]["id"], train[1]["id"]
    pair = [(image, first, epoch(first, 0))]
    pair += {
        "image": [(other, first, epoch(first, 0))],
        "id": [(image, second, epoch(second, 0))],
        "draw": [(image, first, epoch(first, 1))],
    }[part]
    made, read, again = (
        [mixer.mix({"image": x[None], "id": [name]}, at)[0] for x, name, at in pair] for mixer in (fresh, kept, kept)
    )
    assert not torch.equal(*made)
    for pictures in (read, again):
        assert all(torch.equal(one, expected) for one, expected in zip(pictures, made, strict=True))
    assert len(list(cache.rglob("*.npy"))) == 2
    assert kept.figures()["cache_hits"] == 0.5


def test_another_precision_reads_nothing_of_the_first(fundus_phantom: Path, tmp_path: Path) -> None:
    settings = {"mix": 1.0, "noisy": 0.0}
    whole = Run(fundus_phantom, half(tmp_path, **settings), epochs=1)
    mixed = Run(fundus_phantom, half(tmp_path, **settings), epochs=1, precision="bf16-mixed")
    assert mixed.figure("cache_hits") == 0
    assert same(mixed, Run(fundus_phantom, half(**settings), epochs=1, precision="bf16-mixed"))
    assert not torch.equal(whole.seen, mixed.seen)


def test_other_arithmetic_or_libraries_read_nothing_of_the_first(
    fundus_phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Float32 products in less precision, and other versions of what makes the pictures."""

    def hits() -> float:
        return Run(fundus_phantom, half(tmp_path, mix=1.0, noisy=0.0), epochs=1).figure("cache_hits")

    assert [hits(), hits()] == [0, 1]
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert hits() == 0
    finally:
        torch.set_float32_matmul_precision(before)
    installed = metadata.version
    for package in ("diffusers", "layerscope"):
        monkeypatch.setattr(metadata, "version", lambda name: "0.0.7" if name == package else installed(name))  # noqa: B023
        assert hits() == 0
    monkeypatch.setattr(torch, "__version__", "0.0.7")
    assert hits() == 0

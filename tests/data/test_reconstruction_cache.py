"""Reconstructions on disk: exact, bounded, and never a damaged one."""

from __future__ import annotations

import errno
import os
import warnings
from pathlib import Path

import numpy as np
import pytest

from layerscope.data.reconstruction_cache import ReconstructionCache
from layerscope.errors import ConfigurationError

SHAPE = (3, 8, 10)
KEYS = [f"{number:02x}" * 16 for number in range(40)]


def picture(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def entry(tmp_path: Path) -> int:
    """Bytes of one file."""
    ReconstructionCache(tmp_path / "other", 1).write(KEYS[0], picture())
    return size(tmp_path / "other")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    cache = ReconstructionCache(tmp_path / "new" / "cache", 1)
    assert cache.read(KEYS[0], SHAPE) is None
    for seed in range(len(KEYS)):
        cache.write(KEYS[seed], picture(seed))
    again = ReconstructionCache(tmp_path / "new" / "cache", 1)
    for seed, key in enumerate(KEYS):
        found = again.read(key, SHAPE)
        assert found is not None
        np.testing.assert_array_equal(found, picture(seed))
        np.testing.assert_array_equal(np.load(cache.folder / key[:2] / f"{key}.npy"), picture(seed))
    assert cache.read(KEYS[0], (3, 10, 8)) is None


@pytest.mark.parametrize("processes", [1, 3])
def test_the_bound_holds_with_what_was_there(tmp_path: Path, entry: int, processes: int) -> None:
    folder = tmp_path / "cache"
    before = ReconstructionCache(folder, 1)
    for key in KEYS[:4]:
        before.write(key, picture())
    bound = (11 * entry + entry // 2) / 1e9
    # All find the same room before any of them fills it.
    caches = [ReconstructionCache(folder, bound, processes) for _ in range(processes)]
    for place, key in enumerate(KEYS[4:]):
        caches[place % processes].write(key, picture())
    room = 7 + 1 / 2  # entries
    assert size(folder) == (4 + processes * int(room / processes)) * entry <= bound * 1e9
    assert ReconstructionCache(folder, 1).read(KEYS[0], SHAPE) is not None
    full = ReconstructionCache(folder, entry / 1e9)
    full.write(KEYS[-1], picture())
    assert full.read(KEYS[-1], SHAPE) is None


@pytest.mark.parametrize("damage", ["cut", "one bit", "longer", "empty", "zeros"])
def test_a_damaged_entry_is_not_read_and_is_replaced(tmp_path: Path, entry: int, damage: str) -> None:
    ReconstructionCache(tmp_path / "cache", 1).write(KEYS[0], picture())
    [path] = (tmp_path / "cache").rglob("*.npy")
    content = bytearray(path.read_bytes())
    match damage:
        case "cut":
            del content[len(content) // 2 :]
        case "one bit":
            content[-20] ^= 1
        case "longer":
            content += b"\0"
        case "empty":
            content.clear()
        case "zeros":
            content = bytearray(len(content))
    path.write_bytes(content)
    cache = ReconstructionCache(tmp_path / "cache", (entry + 1) / 1e9)
    assert cache.read(KEYS[0], SHAPE) is None
    cache.write(KEYS[0], picture(1))
    np.testing.assert_array_equal(cache.read(KEYS[0], SHAPE), picture(1))
    assert size(tmp_path / "cache") == entry


def test_a_full_disk_is_told_once_and_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    cache = ReconstructionCache(tmp_path / "cache", 1)
    cache.write(KEYS[0], picture())
    monkeypatch.setattr(os, "replace", full)
    with pytest.warns(UserWarning, match=r"No space left on device\). Training goes on"):
        cache.write(KEYS[1], picture())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.write(KEYS[2], picture())
    assert cache.read(KEYS[0], SHAPE) is not None
    assert [path.name for path in cache.folder.rglob("*") if path.is_file()] == [f"{KEYS[0]}.npy"]


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"file/cache, cannot be made or read: Not a directory"):
        ReconstructionCache(tmp_path / "file" / "cache", 1)

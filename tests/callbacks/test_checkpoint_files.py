"""A checkpoint file is the old one or the new one, at every moment."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_vae import TinyVAE, tiny_trainer

from layerscope.artifacts import run_directory
from layerscope.callbacks.checkpoint_files import WholeCheckpointIO
from layerscope.errors import ArtifactError


class Full:
    """A file on a disk that is full after some bytes."""

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room = file, room

    def write(self, data: bytes) -> int:
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return int(self.file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def save_where_it_fails(path: Path, at: str, monkeypatch: pytest.MonkeyPatch, error: Callable[[], Any]) -> None:
    """Saves a checkpoint of a megabyte; ``at`` a call, or within the writing, it fails."""

    def fail(*_: Any) -> Any:
        raise error()

    real = torch.save
    if at == "writing":
        monkeypatch.setattr(torch, "save", lambda value, file: real(value, Full(file, 200_000)))
    else:
        monkeypatch.setattr(run_directory.os, at, fail)
    WholeCheckpointIO().save_checkpoint({"a": torch.ones(100_000), "b": torch.ones(100_000)}, path)


@pytest.mark.parametrize("at", ["writing", "fsync", "replace"])
def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path, at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoints" / "last.ckpt"
    WholeCheckpointIO().save_checkpoint({"step": 1}, path)
    with pytest.raises(ArtifactError, match="No space left on device") as error:
        save_where_it_fails(path, at, monkeypatch, lambda: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert str(path) in str(error.value)
    assert "ree disk space" in str(error.value)
    assert [one.name for one in path.parent.iterdir()] == ["last.ckpt"]
    assert torch.load(path, weights_only=True) == {"step": 1}


def test_an_interrupted_write_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.ckpt"
    WholeCheckpointIO().save_checkpoint({"step": 1}, path)
    with pytest.raises(KeyboardInterrupt):
        save_where_it_fails(path, "replace", monkeypatch, KeyboardInterrupt)
    assert [one.name for one in tmp_path.iterdir()] == ["last.ckpt"]
    assert torch.load(path, weights_only=True) == {"step": 1}


def test_what_a_killed_process_left_is_tidied_and_no_file_is_staged_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "move", None)  # how fsspec brings files from TMPDIR
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    (checkpoints / ".epoch_10.ckpt.partial").write_bytes(b"cut off")
    (checkpoints / ".mine").write_text("a user's")
    trainer = tiny_trainer(tmp_path / "run", [], plugins=[WholeCheckpointIO()])
    trainer.fit(TinyVAE())
    trainer.save_checkpoint(checkpoints / "last.ckpt")
    assert sorted(one.name for one in checkpoints.iterdir()) == [".mine", "last.ckpt"]
    assert trainer.strategy.load_checkpoint(checkpoints / "last.ckpt")["global_step"] == trainer.global_step

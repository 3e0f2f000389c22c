"""Files of weights that cannot be used say why."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from layerscope.errors import WeightsError
from layerscope.models.weight_files import key_mismatch, name_keys, read_tensors, write_tensors


def test_containers_are_unpacked(tmp_path):
    weights = {"a": torch.ones(2)}
    for number, content in enumerate(
        (
            weights,
            {"state_dict": weights, "epoch": 3},
            {"model": {"state_dict": weights}},
            {"model_state_dict": weights},
        )
    ):
        path = tmp_path / f"{number}.pt"
        torch.save(content, path)
        assert list(read_tensors(path)) == ["a"]
    save_file(weights, tmp_path / "a.safetensors")
    assert torch.equal(read_tensors(tmp_path / "a.safetensors")["a"], torch.ones(2))


def test_safetensors_are_known_by_content(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "weights")
    assert list(read_tensors(tmp_path / "weights")) == ["a"]


def test_written_whole_or_not_at_all(tmp_path, monkeypatch):
    shared = torch.arange(6.0).view(2, 3)
    write_tensors(tmp_path / "new" / "w.safetensors", {"a": shared.T, "b": shared})
    assert torch.equal(read_tensors(tmp_path / "new" / "w.safetensors")["a"], shared.T)

    def full_disk(tensors, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_tensors(tmp_path / "new" / "w.safetensors", {"a": torch.zeros(1)})
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["w.safetensors"]
    assert list(read_tensors(tmp_path / "new" / "w.safetensors")) == ["a", "b"]


def test_unusable_files(tmp_path):
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "text.safetensors").write_text("hello")
    (tmp_path / "text.ckpt").write_text("hello")
    torch.save({"epoch": 3}, tmp_path / "epoch.pt")
    torch.save(torch.ones(2), tmp_path / "tensor.pt")
    torch.save({"a": torch.ones(1000)}, tmp_path / "whole.pt")
    (tmp_path / "half.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:800])
    for name, said in (
        ("none.pt", "does not exist"),
        (".", "is a directory"),
        ("empty.pt", "cannot be read|is not loaded"),
        ("text.safetensors", "cannot be read as safetensors"),
        ("text.ckpt", "cannot be read|is not loaded"),
        ("epoch.pt", "holds no weights.*found keys epoch"),
        ("tensor.pt", "holds no weights.*found a Tensor"),
        ("half.pt", "cannot be read as a torch file"),
    ):
        with pytest.raises(WeightsError, match=said):
            read_tensors(tmp_path / name)


def test_names_and_mismatches_are_short():
    assert name_keys(["a", "b"]) == "a, b"
    assert name_keys(map(str, range(9))) == "0, 1, 2, 3, … (9 in all)"
    model = {"a": torch.ones(2), "b": torch.ones(1)}
    assert key_mismatch(model, dict(model)) is None
    said = key_mismatch(model, {"a": torch.ones(3), "c": torch.ones(1)})
    assert said == "Missing: b. Unexpected: c. Of another shape: a (3,) instead of (2,)."


def test_written_weights_have_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    write_tensors(tmp_path / "weights.safetensors", {"a": torch.zeros(2)})
    assert (tmp_path / "weights.safetensors").stat().st_mode == ordinary.stat().st_mode

"""``layerscope export``: what plain diffusers makes of the folder, what is measured, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from lightning.pytorch.callbacks import EMAWeightAveraging
from PIL import Image
from small_architectures import SMALL_KL
from torch import Tensor
from trained_checkpoints import train

from layerscope.cli import main
from layerscope.cli.export import find_images
from layerscope.data.hashing import weights_hash
from layerscope.data.images import read_image
from layerscope.models.autoencoders import DiffusersAutoencoder
from layerscope.models.trained_checkpoint import RECORD, read_trained_autoencoder

SIZE = 16
ARCHITECTURE = SMALL_KL | {
    "block_out_channels": [32, 32],
    "norm_num_groups": 32,
    "latent_channels": 3,
    "scaling_factor": 0.25,
}
RECORDED = {
    "data_hash": "da7a|<i>",
    "losses": {"train/rec": 0.5},
    "metrics": {"val/psnr": 21.25},
    "command": "layerscope fit --config x.yaml",
}


class Bench:
    """A trained checkpoint with both kinds of weights, its start, and a folder of images."""

    def __init__(self, root: Path) -> None:
        start = DiffusersAutoencoder(architecture=ARCHITECTURE, seed=7)
        self.start = root / "start"
        start.save(self.start)
        self.record: dict[str, Any] = {
            "config": {**start.config, "_class_name": "AutoencoderKL"},
            "start_hash": weights_hash(start),
            "trained": "all",
            **RECORDED,
        }
        train(root, start, self.record, EMAWeightAveraging(decay=0.5))
        self.checkpoint = root / "last.ckpt"
        self.images = root / "images"
        rng = np.random.default_rng(3)
        for number in range(20):
            path = self.images / f"patient{number % 3}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)
        (self.images / "notes.txt").write_text("no image")

    def variant(self, path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
        content = torch.load(self.checkpoint, weights_only=True)
        change(content)
        torch.save(content, path)
        return path


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("export"))


@pytest.fixture
def measured(bench: Bench) -> list[str]:
    return ["--images", str(bench.images), f"--image-size={SIZE}", "--num-images=12"]


def said(capsys: pytest.CaptureFixture[str]) -> str:
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    return " ".join(printed[printed.index("layerscope: error:") :].split())


def pictures(bench: Bench, count: int) -> Tensor:
    return torch.stack([read_image(path, image_size=SIZE) for path in find_images(bench.images, count)])


@torch.no_grad()
def drawn(adapter: DiffusersAutoencoder, images: Tensor, draws: int = 200) -> Tensor:
    """Latents drawn from the posterior many times, (draws · B, C, h, w)."""
    posterior = adapter.encode(images)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(draws, *posterior.mean.shape, generator=generator)
    return (posterior.mean + posterior.std * noise).flatten(0, 1)


@torch.no_grad()
@pytest.mark.parametrize(("option", "averaged"), [("--ema", True), ("--no-ema", False), (None, True)])
def test_plain_diffusers_gives_the_checkpoints_reconstruction(
    bench: Bench, measured: list[str], tmp_path: Path, option: str | None, averaged: bool
) -> None:
    options = [option] if option else []
    assert main(["export", str(bench.checkpoint), str(tmp_path / "vae"), *measured, *options]) == 0
    exported = AutoencoderKL.from_pretrained(tmp_path / "vae").eval()
    images = pictures(bench, 4)
    states = torch.load(bench.checkpoint, weights_only=True)
    for key, expected in (("state_dict", averaged), ("current_model_state", not averaged)):
        model = AutoencoderKL.from_config(ARCHITECTURE).eval()
        prefix = "autoencoder.model."
        model.load_state_dict({name.removeprefix(prefix): value for name, value in states[key].items()})
        close = torch.allclose(exported(images).sample, model(images).sample, atol=1e-5, rtol=0)
        assert close == expected
    assert json.loads((tmp_path / "vae" / "export.json").read_text())["weights"] == (
        "averaged" if averaged else "current"
    )


@torch.no_grad()
def test_scaled_latents_have_mean_0_and_std_1_in_every_channel(
    bench: Bench, measured: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "vae"
    assert main(["export", str(bench.checkpoint), str(out), *measured, "--start", str(bench.start)]) == 0
    printed = capsys.readouterr().out
    adapter = DiffusersAutoencoder(source=str(out)).eval()
    images = pictures(bench, 12)
    z = drawn(adapter, images).double()
    scaled = adapter.scale(z)
    torch.testing.assert_close(scaled.mean(dim=(0, 2, 3)), torch.zeros(3).double(), atol=0.02, rtol=0)
    torch.testing.assert_close(scaled.std(dim=(0, 2, 3)), torch.ones(3).double(), atol=0.01, rtol=0)
    assert float((z * adapter.config["scaling_factor"]).std()) == pytest.approx(1, abs=0.01)
    assert float(z.mean()) == pytest.approx(adapter.config["shift_factor"], abs=0.01)

    export = json.loads((out / "export.json").read_text())
    assert export["statistics"]["images"] == 12
    np.testing.assert_allclose(export["statistics"]["std"], z.std(dim=(0, 2, 3)).numpy(), rtol=0.01)
    assert export["scaling"]["start"]["scaling_factor"] == 0.25
    assert export["scaling"]["exported"]["scaling_factor"] == adapter.config["scaling_factor"]
    assert export["not_measured"] == []
    # The drift, from the start itself.
    before = drawn(DiffusersAutoencoder(source=str(bench.start)).eval(), images).double()
    np.testing.assert_allclose(
        export["drift"]["std_ratio"], (z.std(dim=(0, 2, 3)) / before.std(dim=(0, 2, 3))).numpy(), rtol=0.02
    )
    moved = (z.mean(dim=(0, 2, 3)) - before.mean(dim=(0, 2, 3))) / before.std(dim=(0, 2, 3))
    np.testing.assert_allclose(export["drift"]["mean_shift"], moved.numpy(), atol=0.02)
    assert "Latents over 12 images" in printed
    assert "Against the starting autoencoder" in printed
    assert "float16: safe" in printed
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: diffusers\n")
    assert "da7a\\|&lt;i&gt;" in card
    assert "21.25" in card
    assert "over 12 images" in card
    assert {path.name for path in out.iterdir()} == {
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "README.md",
        "export.json",
    }
    assert [path.name for path in tmp_path.iterdir()] == ["vae"]


def test_decoder_only_training_keeps_the_factors(bench: Bench, measured: list[str], tmp_path: Path) -> None:
    path = bench.variant(tmp_path / "decoder.ckpt", lambda content: content[RECORD].update(trained="decoder"))
    assert main(["export", str(path), str(tmp_path / "vae"), *measured]) == 0
    config = json.loads((tmp_path / "vae" / "config.json").read_text())
    start = json.loads((bench.start / "config.json").read_text())
    assert config == start
    export = json.loads((tmp_path / "vae" / "export.json").read_text())
    assert export["statistics"]["images"] == 12
    assert not export["scaling"]["re_estimated"]


def test_without_images_what_is_unknown_is_said(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(bench.checkpoint), str(tmp_path / "vae")]) == 0
    printed = capsys.readouterr().out
    assert "scaling_factor: 0.25 (kept)" in printed
    assert "those of the start no longer fit" in printed
    export = json.loads((tmp_path / "vae" / "export.json").read_text())
    assert export["audit"] is export["statistics"] is export["drift"] is None
    assert json.loads((tmp_path / "vae" / "config.json").read_text())["scaling_factor"] == 0.25


@torch.no_grad()
def test_original_layout_reads_back_as_the_same_model(bench: Bench, measured: list[str], tmp_path: Path) -> None:
    file = tmp_path / "ldm" / "vae.safetensors"
    assert main(["export", str(bench.checkpoint), str(tmp_path / "vae"), *measured, "--ldm", str(file)]) == 0
    again = DiffusersAutoencoder(source=str(file), original_config=str(file.with_suffix(".yaml")))
    folder = DiffusersAutoencoder(source=str(tmp_path / "vae"))
    for key, value in folder.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key
    for name in ("scaling_factor", "shift_factor"):
        assert again.config[name] == folder.config[name]


def test_an_export_is_replaced_only_on_demand_and_strangers_never(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, file = tmp_path / "vae", tmp_path / "vae.safetensors"
    arguments = ["export", str(bench.checkpoint), str(out), "--ldm", str(file)]
    assert main([*arguments, "--ema"]) == 0
    before = {path: path.read_bytes() for path in (*out.iterdir(), file)}
    assert main([*arguments, "--no-ema"]) == 2
    assert "--overwrite" in said(capsys)
    assert main([*arguments[:2], str(tmp_path / "other"), "--ldm", str(file)]) == 2
    assert "vae.safetensors exists" in said(capsys)
    assert not (tmp_path / "other").exists()
    assert {path: path.read_bytes() for path in before} == before
    assert main([*arguments, "--no-ema", "--overwrite"]) == 0
    assert all(path.read_bytes() != before[path] for path in before if path.suffix == ".safetensors")

    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "thesis.tex").write_text("years of work")
    assert main(["export", str(bench.checkpoint), str(thesis), "--overwrite"]) == 2
    assert "thesis.tex" in said(capsys)
    assert [path.name for path in thesis.iterdir()] == ["thesis.tex"]
    assert main(["export", str(bench.checkpoint), str(thesis / "thesis.tex"), "--overwrite"]) == 2
    assert "that is a file" in said(capsys)


def test_a_failed_write_leaves_the_old_folder(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "vae"
    assert main(["export", str(bench.checkpoint), str(out)]) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    rename = Path.rename

    def full_disk(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", full_disk)
    assert main(["export", str(bench.checkpoint), str(out), "--no-ema", "--overwrite"]) == 1
    assert "No space left" in said(capsys)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["vae"]


def test_images_are_chosen_by_name_and_hidden_files_left_out(bench: Bench, tmp_path: Path) -> None:
    every = find_images(bench.images, 100)
    assert len(every) == 20
    assert find_images(bench.images, 5) == every[:5]
    assert {path.parent.name for path in every[:10]} == {"patient0", "patient1", "patient2"}
    (tmp_path / ".hidden").mkdir()
    for name in (".hidden/a.png", ".b.png", "c.PNG"):
        (tmp_path / name).write_bytes(b"x")
    assert [path.name for path in find_images(tmp_path, 9)] == ["c.PNG"]


def test_bad_input(bench: Bench, measured: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "a.txt").write_text("no image")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "a.png").write_text("no image")
    teacher = bench.variant(
        tmp_path / "teacher.ckpt", lambda content: content.update(state_dict={"teacher.fc.bias": torch.zeros(2)})
    )
    incomplete = bench.variant(
        tmp_path / "incomplete.ckpt", lambda content: content["state_dict"].pop("autoencoder.model.quant_conv.bias")
    )
    plain = bench.variant(tmp_path / "plain.ckpt", lambda content: content.pop("current_model_state"))
    narrow = bench.variant(
        tmp_path / "narrow.ckpt", lambda content: content[RECORD]["config"].update(norm_num_groups=16)
    )
    other = DiffusersAutoencoder(architecture=ARCHITECTURE, seed=8)
    other.save(tmp_path / "other")
    good, out = str(bench.checkpoint), tmp_path / "vae"
    for arguments, status, told in (
        ([str(tmp_path / "none.ckpt")], 1, "none.ckpt does not exist"),
        ([str(bench.start)], 1, "is a directory"),
        ([str(broken / "a.png")], 1, "a.png"),
        ([str(teacher)], 1, "no weight begins with autoencoder.model."),
        ([str(incomplete)], 1, "Missing: quant_conv.bias"),
        ([str(plain), "--ema"], 2, "trained without weight averaging"),
        ([good, "--images", str(tmp_path / "none")], 1, "is no folder"),
        ([good, "--images", str(empty)], 1, "holds no images"),
        ([good, "--images", str(broken)], 1, "a.png is not an image"),
        ([good, *measured, "--num-images=0"], 2, "--num-images is 0"),
        ([good, *measured, "--image-size=15"], 2, "expected a multiple of 2"),
        ([good, "--start", str(bench.start)], 2, "--start needs --images"),
        ([good, *measured, "--start", str(tmp_path / "other")], 1, "is not what the training began with"),
        ([good, "--ldm", str(tmp_path / "vae.ckpt")], 2, "written as .safetensors"),
        ([good, "--ldm", str(out / "ldm.safetensors")], 2, "lies inside OUT"),
        ([str(narrow), "--ldm", str(tmp_path / "vae.safetensors")], 2, "norm_num_groups is 16"),
    ):
        checkpoint, *options = arguments
        assert main(["export", checkpoint, str(out), *options]) == status, told
        assert told in said(capsys)
        assert not out.exists()
        assert not list(tmp_path.glob("vae.*"))
        assert not list(tmp_path.glob(".vae*"))


def test_help_and_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "\n  export " in capsys.readouterr().out
    assert main(["export", "--help"]) == 0
    text = capsys.readouterr().out
    options = "CKPT OUT --ema --no-ema --images --num-images --image-size --start --ldm --overwrite"
    for option in options.split():
        assert option in text
    assert main(["export"]) == 2
    assert main(["export", "a.ckpt", "out", "--images"]) == 2


def test_the_record_survives(bench: Bench) -> None:
    record = read_trained_autoencoder(bench.checkpoint).record
    assert {name: record[name] for name in RECORDED} == RECORDED

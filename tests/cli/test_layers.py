"""``layerscope layers``: what can be named and what is watched, without data and without a trace."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_architectures import SMALL_KL

from layerscope.cli import main

ALLOWED = "--allow-import=probed_stand_ins"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Everything but the model fails when it is built; nothing may be written."""
    monkeypatch.chdir(tmp_path)
    subject = {
        "class_path": "layerscope.models.autoencoders.DiffusersAutoencoder",
        "init_args": {"architecture": SMALL_KL, "seed": 1},
    }
    content = {
        "trainer": {"accelerator": "cuda", "devices": 99},
        "model": {
            "class_path": "probed_stand_ins.Looking",
            "init_args": {
                "subject": subject,
                "layers": ["decoder.conv_in", "decoder.up_blocks.*.resnets.*", "decoder.mid_block@0"],
                "exclude": ["**.up_blocks.1.**"],
            },
        },
        "data": {"class_path": "probed_stand_ins.Unreadable", "init_args": {"image_size": 16}},
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


class Listed:
    """What the verb printed: name of a layer to the cells of its line."""

    def __init__(self, printed: str) -> None:
        self.head, *lines, self.foot = printed.strip("\n").split("\n")
        self.marked = [line.split()[1] for line in lines if line.startswith("*")]
        self.lines = {line[1:].split()[0]: " ".join(line[1:].split()[1:]) for line in lines}


def listed(capsys: pytest.CaptureFixture[str], config: Path, *overrides: str) -> Listed:
    capsys.readouterr()
    before = sorted(config.parent.rglob("*"))
    assert main(["layers", "--config", str(config), ALLOWED, *overrides]) == 0
    assert sorted(config.parent.rglob("*")) == before
    return Listed(capsys.readouterr().out)


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The message of a command that fails as wrong usage."""
    capsys.readouterr()
    assert main(["layers", *arguments]) == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return " ".join(message[message.index("layerscope: error:") :].split())


def test_every_layer_and_those_that_are_watched(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = listed(capsys, config)
    assert table.head.split() == ["layer", "class", "output", "parameters", "calls"]
    assert table.marked == [
        "decoder.conv_in",
        "decoder.up_blocks.0.resnets.0",
        "decoder.up_blocks.0.resnets.1",
        "decoder.mid_block",
    ]
    assert table.lines["decoder.conv_in"] == f"Conv2d (1, 8, 8, 8) {4 * 8 * 9 + 8} 1"
    assert table.lines["encoder.mid_block.resnets.0.nonlinearity"] == "SiLU (1, 8, 8, 8) 0 2"
    assert table.lines["decoder"].startswith("Decoder (1, 3, 16, 16) ")
    assert "decoder.up_blocks" not in table.lines
    told = "layers can be named, 4 are watched (*). Shapes are for one image of 16 × 16 pixels."
    assert table.foot == f"{len(table.lines)} {told}"


@pytest.mark.parametrize(
    ("overrides", "side"),
    [
        (["--image_size=32"], 32),
        (["--image_size", "8"], 8),
        (["--data.init_args.image_size=24"], 24),
        (["--data.init_args.image_size=[24,32]", "--model.init_args.layers=[quant_conv]"], 256),
    ],
)
def test_the_images_size(config: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], side: int) -> None:
    table = listed(capsys, config, *overrides, "--model.init_args.exclude=[]")
    assert table.lines["decoder.conv_out"].startswith(f"Conv2d (1, 3, {side}, {side}) ")
    assert f"{side} × {side} pixels" in table.foot


def test_what_the_meta_device_cannot_run_is_run_in_earnest(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    usual = listed(capsys, config)
    deciding = listed(capsys, config, "--model.class_path=probed_stand_ins.Deciding")
    assert deciding.lines == usual.lines
    assert deciding.marked == usual.marked


def test_a_model_that_escapes_the_meta_device(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content: dict[str, Any] = yaml.safe_load(config.read_text())
    content["model"]["class_path"] = "probed_stand_ins.Bound"
    del content["model"]["init_args"]["layers"], content["model"]["init_args"]["exclude"]
    config.write_text(yaml.safe_dump(content))
    table = listed(capsys, config)
    assert table.lines["encoder.conv_in"] == f"Conv2d (1, 8, 16, 16) {3 * 8 * 9 + 8} 1"
    assert table.lines["decoder.conv_in"] == f"Conv2d - {4 * 8 * 9 + 8} 0"
    assert f"{len(table.lines) - 1} were not called" in table.foot
    assert table.marked == list(table.lines)


def test_a_pattern_that_meets_nothing_is_told_below_the_list(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["layers", "--config", str(config), ALLOWED, "--model.init_args.layers=[decoder.conv_inn]"]) == 2
    printed = capsys.readouterr()
    table = Listed(printed.out)
    assert "decoder.conv_in" in table.lines
    assert table.marked == []
    assert "Close names are decoder.conv_in," in printed.err


def test_wrong_usage_is_one_paragraph(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--config", str(config), ALLOWED]
    assert "Did you mean layers?" in said(capsys, *given, "--model.init_args.layer=[x]")
    assert "Allow it with --allow-import NAME" in said(capsys, *given, "--model.class_path=this.Zen")
    assert "this" not in sys.modules  # refused before it is imported
    assert "configs/no_such.yaml does not exist" in said(capsys, "--config", "configs/no_such.yaml")
    assert "Name a configuration with --config FILE" in said(capsys)
    assert "expected at least 1" in said(capsys, *given, "--image_size=0")
    assert "downsampling of 2" in said(capsys, *given, "--image_size=15")


def test_a_task_without_layers_among_the_shipped_from_anywhere(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = said(capsys, "--config", "configs/vae/reconstruct/phantom.yaml")
    assert "A Reconstruction watches no layers." in message
    assert "configs/pairs" in message


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["layers", "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: layerscope layers --config FILE")
    assert "--image_size" in text

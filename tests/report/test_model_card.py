"""The model card: what it says, and that nothing from a file can break out of it."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from layerscope.report.model_card import export_lines, model_card


@pytest.fixture
def export() -> dict[str, Any]:
    """An export.json of two channels."""
    return {
        "model": "AutoencoderKL",
        "weights": "averaged",
        "trained": "all",
        "latent_channels": 2,
        "downsampling": 8,
        "start_hash": "5eed",
        "data_hash": "da7a",
        "command": "layerscope fit --config a.yaml",
        "losses": {"train/rec": 0.01234},
        "metrics": {"val/psnr": 27.5},
        "statistics": {"images": 40, "mean": [0.5, -2.0], "std": [3.0, 1.0], "posterior_std": [0.25, 0.125]},
        "scaling": {
            "start": {"scaling_factor": 0.18215, "shift_factor": None},
            "exported": {"scaling_factor": 0.39, "shift_factor": -0.75, "latents_mean": [0.5, -2.0]},
            "re_estimated": True,
        },
        "drift": {
            "mean_shift": [0.125, -1.5],
            "std_ratio": [1.25, None],
            "scaling_factor_before": 0.5,
            "scaling_factor_after": 0.39,
        },
        "audit": {
            "images": 16,
            "largest": {"encoder.conv_in": 3.5, "decoder.mid_block": 812.0},
            "silent": [],
            "half_precision": {
                "verdict": "safe",
                "block": "decoder.mid_block",
                "largest": 812.0,
                "limit": 65504.0,
                "margin": 4.0,
            },
        },
        "not_measured": [{"what": "this", "reason": "that"}],
        "versions": {},
    }


def front_matter(card: str) -> dict[str, Any]:
    opened, header, _ = card.split("---\n", 2)
    assert opened == ""
    content = yaml.safe_load(header)
    assert isinstance(content, dict)
    return content


def test_says_what_was_measured(export: dict[str, Any]) -> None:
    card = model_card(export)
    assert front_matter(card)["library_name"] == "diffusers"
    for row in (
        "| SHA-256 of the training data | da7a |",
        "| loss train/rec | 0.01234 |",
        "| metric val/psnr | 27.5 |",
        "| scaling\\_factor | 0.1822 | 0.39 |",
        "| shift\\_factor | none | -0.75 |",
        "| 0 | 0.5 | 3 | 0.25 | 0.125 | 1.25 |",
        "| 1 | -2 | 1 | 0.125 | -1.5 | not finite |",
        "| decoder.mid\\_block | 812 |",
        "| this | that |",
        "layerscope fit --config a.yaml",
        "measured again, on 40 images",
    ):
        assert row in card, row
    lines = export_lines(export)
    assert "Latents over 40 images, by channel:" in lines
    assert "  mean 0.5 -2" in lines
    assert "  mean moved by +0.125 -1.5 (in its standard deviations)" in lines
    assert "scaling_factor: 0.39; the starting configuration has 0.1822" in lines
    assert any(line.startswith("float16: safe. The largest activation of 16 images") for line in lines)
    assert lines[-1] == "Not measured: this: that"


def test_every_row_of_a_table_has_the_cells_of_its_header(export: dict[str, Any]) -> None:
    tables = [block for block in model_card(export).split("\n\n") if block.startswith("|")]
    assert len(tables) == 5
    for table in tables:
        assert len({line.replace("\\|", "").count("|") for line in table.splitlines()}) == 1, table


def test_without_measurements(export: dict[str, Any]) -> None:
    export |= {
        "statistics": None,
        "drift": None,
        "audit": None,
        "command": None,
        "data_hash": None,
        "trained": "decoder",
    }
    export["scaling"]["re_estimated"] = False
    card = model_card(export)
    assert "Only the decoder was trained" in card
    assert "Activations were not measured." in card
    assert "Command:" not in card
    assert "scaling_factor: 0.39 (kept); the starting configuration has 0.1822" in export_lines(export)
    export["trained"] = "all"
    assert "although the encoder was trained" in model_card(export)


def test_nothing_breaks_out_of_the_card(export: dict[str, Any]) -> None:
    evil = "a|b\n---\nlibrary_name: evil\n# Title\n<script>alert(1)</script> [x](javascript:alert(1)) `c` \x1b[31m"
    export |= {
        "losses": {evil: 1.0},
        "metrics": {"m": evil},
        "data_hash": evil,
        "trained": evil,
        "command": f"```\n{evil}",
    }
    export["not_measured"] = [{"what": evil, "reason": evil}]
    card = model_card(export)
    assert front_matter(card) == front_matter(model_card(export | {"losses": {}}))
    fence = "````"
    before, command, after = card.split(fence)
    assert "<script>" in command  # inside a code block nothing is read as markup
    outside = before + after
    for markup in ("<script", "[x](", "x](", "\n# Title", "\nlibrary_name: evil", "\x1b", "a|b", "`c`"):
        assert markup not in outside, markup
    tables = [line for line in outside.splitlines() if line.startswith("|")]
    cells = [line.replace("\\|", "").count("|") for line in tables if "script" in line]
    assert cells
    assert set(cells) == {3}
    assert "\x1b" not in card + "".join(export_lines(export))

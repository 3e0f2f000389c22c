"""Every family of autoencoders is exported with the factors that its class has a place for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from layerscope.callbacks.vae_export import AUDITED_IMAGES, export_autoencoder
from layerscope.errors import ConfigurationError
from layerscope.models.autoencoders import DiffusersAutoencoder

PLACES = {
    "AutoencoderKL": {"scaling_factor", "shift_factor", "latents_mean", "latents_std"},
    "VQModel": {"scaling_factor"},
    "AutoencoderTiny": {"scaling_factor", "shift_factor"},
    "AutoencoderDC": {"scaling_factor"},
}


def record(config: dict[str, Any]) -> dict[str, Any]:
    empty: dict[str, Any] = {"losses": {}, "metrics": {}, "start_hash": None, "data_hash": None, "command": None}
    return {"config": config, "trained": "encoder", **empty}


@torch.no_grad()
def test_exported_and_read_again(saved, tmp_path: Path) -> None:
    name = saved.layout.config["_class_name"]
    adapter = DiffusersAutoencoder(source=str(saved.folder))
    images = torch.rand(AUDITED_IMAGES + 4, 3, 32, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1
    told = export_autoencoder(
        adapter, tmp_path / "vae", record(saved.layout.config), "current", images.split(6), "not asked"
    )
    assert json.loads((tmp_path / "vae" / "export.json").read_text()) == told
    assert set(told["scaling"]["exported"]) == PLACES[name]
    assert (told["statistics"]["images"], told["audit"]["images"]) == (AUDITED_IMAGES + 4, AUDITED_IMAGES)
    assert {"encoder", "decoder"} <= {block.split(".")[0] for block in told["audit"]["largest"]}

    again = DiffusersAutoencoder(source=str(tmp_path / "vae")).eval()
    posterior = again.encode(images).mean
    torch.testing.assert_close(again.decode(posterior), adapter.eval().decode(posterior), atol=1e-5, rtol=0)
    # The scaled latent's variance: that of the mode, and the posterior's own by the same factor.
    spread = again.encode(images).std
    factor = again.scale(torch.ones_like(spread)) - again.scale(torch.zeros_like(spread))
    scaled, own = again.scale(posterior).double(), (spread * factor).double()
    if "latents_std" in PLACES[name]:
        variance = scaled.var(dim=(0, 2, 3), correction=0) + own.square().mean(dim=(0, 2, 3))
        torch.testing.assert_close(variance, torch.ones_like(variance), atol=1e-4, rtol=0)
    else:
        assert float(scaled.var(correction=0) + own.square().mean()) == pytest.approx(1, abs=1e-4)
    if "shift_factor" in PLACES[name]:
        assert float(scaled.mean()) == pytest.approx(0, abs=1e-4)


def test_other_modules_cannot_be_exported(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="Linear cannot be exported"):
        export_autoencoder(torch.nn.Linear(2, 2), tmp_path / "vae", record({}), "current", "none", "none")
    assert not (tmp_path / "vae").exists()

"""The list of layers and what one run shows of them."""

from __future__ import annotations

import copy

import pytest
import torch
from small_architectures import SMALL_KL
from torch import Tensor, nn

from layerscope.errors import ConfigurationError
from layerscope.models.autoencoders import DiffusersAutoencoder
from layerscope.probes.inventory import LayerRecord, list_layers
from layerscope.probes.selection import choose_layers

# Two widths: the only way to see that a resnet's nonlinearity is called at both.
ARCHITECTURE = SMALL_KL | {"block_out_channels": [8, 16]}


@pytest.fixture(scope="module")
def autoencoder() -> DiffusersAutoencoder:
    return DiffusersAutoencoder(architecture=ARCHITECTURE, seed=1).eval()  # type: ignore[no-any-return]


def records_of(autoencoder: DiffusersAutoencoder, images: Tensor) -> dict[str, LayerRecord]:
    records = list_layers(autoencoder.model, lambda: autoencoder.decode(autoencoder.encode(images).mean))
    return {record.name: record for record in records}


def test_an_autoencoder(autoencoder: DiffusersAutoencoder) -> None:
    autoencoder.model.spare = nn.Linear(3, 5)
    records = records_of(autoencoder, torch.zeros(1, 3, 16, 16))
    assert list(records) == list(choose_layers(autoencoder.model))
    assert records.pop("spare") == LayerRecord("spare", "Linear", {}, 20, 0, False)
    assert all(record.selectable and record.calls for record in records.values())
    assert records["encoder.conv_in"] == LayerRecord(
        "encoder.conv_in", "Conv2d", {"": ((1, 8, 16, 16),)}, 3 * 8 * 9 + 8, 1, True
    )
    twice = {name for name, record in records.items() if record.calls == 2}
    assert twice == {name for name in records if name.endswith("nonlinearity")}
    assert records["encoder.down_blocks.1.resnets.0.nonlinearity"].shapes == {"": ((1, 8, 8, 8), (1, 16, 8, 8))}
    decoder = autoencoder.model.decoder
    assert records["decoder"].parameters == sum(weight.numel() for weight in decoder.state_dict().values())
    assert records["decoder"].shapes == {"": ((1, 3, 16, 16),)}
    assert not any(module._forward_hooks for module in autoencoder.modules())


def test_the_meta_device_shows_the_same(autoencoder: DiffusersAutoencoder) -> None:
    images = torch.zeros(1, 3, 16, 16)
    on_meta = copy.deepcopy(autoencoder).to("meta")
    assert records_of(on_meta, images.to("meta")) == records_of(autoencoder, images)


def test_outputs_of_several_tensors_and_of_none() -> None:
    class Parts(nn.Module):
        def forward(self, x: Tensor) -> dict[str, object]:
            return {"map": x, "levels": [x[:, :1], x.long()], "side": 3}

    class Number(nn.Module):
        def forward(self, x: dict[str, Tensor]) -> int:
            return len(x["map"])

    model = nn.Sequential(nn.Sequential(Parts(), Number()), nn.Identity())
    named = {record.name: record for record in list_layers(model, lambda: model[0](torch.zeros(2, 3)))}
    assert named["0.0"].shapes == {"map": ((2, 3),), "levels.0": ((2, 1),)}
    assert named["0.0"].selectable
    assert named["0.1"] == LayerRecord("0.1", "Number", {}, 0, 1, False)
    assert named["1"].calls == 0


def test_hooks_are_gone_after_an_error_and_compiled_modules_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(RuntimeError, match="shapes"):
        list_layers(model, lambda: model(torch.zeros(1, 3)))
    assert not model[0]._forward_hooks
    model[0].compile(backend="eager")
    with pytest.raises(ConfigurationError, match="cannot be probed: 0"):
        list_layers(model, lambda: model(torch.zeros(1, 2)))

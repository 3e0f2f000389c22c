"""The layers that an autoencoder proposes exist, run once in encode and decode, and give maps of the picture."""

from __future__ import annotations

import pytest
import torch
from watched_layers import matched, seen

from layerscope.models.autoencoders import DiffusersAutoencoder
from layerscope.protocols import GridLayers, NamedLayers
from layerscope.types import PositionGrid


@pytest.fixture
def adapter(saved) -> DiffusersAutoencoder:
    return DiffusersAutoencoder(source=str(saved.folder)).eval()


def run(adapter: DiffusersAutoencoder, names: list[str], image: torch.Tensor) -> dict[str, torch.Tensor]:
    """The only call of each layer."""
    calls = seen(adapter.layer_root, names, lambda: adapter.decode(adapter.encode(image).mean))
    assert {name: len(outputs) for name, outputs in calls.items()} == dict.fromkeys(names, 1)
    return {name: outputs[0] for name, outputs in calls.items()}


def test_satisfies_the_protocols(adapter):
    assert isinstance(adapter, NamedLayers)
    assert isinstance(adapter, GridLayers)
    assert adapter.layer_root is adapter.model


def test_every_default_layer_runs_once_and_gives_a_map(adapter):
    names = matched(adapter.layer_root, adapter.default_layers)
    for name, output in run(adapter, names, torch.zeros(2, 3, 32, 48)).items():
        assert name.startswith("decoder.")
        assert output.ndim == 4
        assert output.shape[0] == 2
        grid = adapter.position_grid(tuple(output.shape), (32, 48))
        assert grid == PositionGrid(1, 0, *output.shape[2:]), name
        assert grid.rows * 3 == grid.columns * 2, name


def test_the_layers_of_a_kl_autoencoder_are_its_decoders_blocks(kl):
    adapter = DiffusersAutoencoder(source=str(kl.folder))
    assert matched(adapter.layer_root, adapter.default_layers) == [
        "decoder.conv_in",
        "decoder.up_blocks.0.resnets.0",
        "decoder.up_blocks.0.resnets.1",
        "decoder.up_blocks.0.upsamplers.0",
        "decoder.up_blocks.1.resnets.0",
        "decoder.up_blocks.1.resnets.1",
        "decoder.mid_block.attentions.0",
        "decoder.mid_block.resnets.0",
        "decoder.mid_block.resnets.1",
        "decoder.conv_norm_out",
        "decoder.conv_out",
    ]


@pytest.mark.parametrize(
    ("changed", "has", "lacks"),
    [
        ({"up_block_types": ["AttnUpDecoderBlock2D"] * 2}, "decoder.up_blocks.*.attentions.*", None),
        ({"mid_block_add_attention": False}, "decoder.mid_block.resnets.*", "decoder.mid_block.attentions.*"),
        (
            {key: [value[0]] for key, value in (("block_out_channels", [8]), ("up_block_types", ["UpDecoderBlock2D"]))}
            | {"down_block_types": ["DownEncoderBlock2D"]},
            "decoder.up_blocks.*.resnets.*",
            "decoder.up_blocks.*.upsamplers.*",
        ),
    ],
)
def test_patterns_follow_what_the_model_has(kl, changed, has, lacks):
    adapter = DiffusersAutoencoder(architecture=dict(kl.layout.config) | changed).eval()
    assert has in adapter.default_layers
    assert lacks not in adapter.default_layers
    run(adapter, matched(adapter.layer_root, adapter.default_layers), torch.zeros(1, 3, 16, 16))


def test_a_change_of_the_picture_is_found_where_it_is(adapter):
    """One corner of the picture changes; in the decoder's first layer so does that corner."""
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    other = image.clone()
    other[..., 48:, :32] *= -1
    name = adapter.default_layers[0].replace("*", "0")
    output = run(adapter, [name], torch.cat([image, other]))[name]
    grid = adapter.position_grid(tuple(output.shape), (64, 96))
    difference = (output[0] - output[1]).norm(dim=0)
    assert difference.shape == (grid.rows, grid.columns)
    corner = torch.zeros_like(difference, dtype=torch.bool)
    corner[grid.rows * 3 // 4 :, : grid.columns // 3] = True
    assert difference[corner].mean() > 3 * difference[~corner].mean()


def test_layers_that_keep_channels_last(saved_autoencoders):
    """AutoencoderDC normalises in (B, h, w, C)."""
    adapter = DiffusersAutoencoder(source=str(saved_autoencoders["dc"].folder)).eval()
    output = run(adapter, ["decoder.norm_out"], torch.zeros(2, 3, 32, 48))["decoder.norm_out"]
    assert output.shape == (2, 32, 48, 12)
    assert adapter.position_grid(tuple(output.shape), (32, 48)) == PositionGrid(3, 0, 32, 48)


def test_rows_of_positions_have_no_grid(kl):
    adapter = DiffusersAutoencoder(source=str(kl.folder)).eval()
    name = "decoder.mid_block.attentions.0.to_q"
    output = run(adapter, [name], torch.zeros(2, 3, 32, 48))[name]
    assert output.shape == (2, 16 * 24, 16)
    assert adapter.position_grid(tuple(output.shape), (32, 48)) is None

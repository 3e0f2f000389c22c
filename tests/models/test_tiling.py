"""What tiling keeps and what it changes, as layerscope.models.tiling says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from layerscope.errors import ConfigurationError
from layerscope.models.autoencoders import DiffusersAutoencoder
from layerscope.models.tiling import tiling_difference

pytestmark = pytest.mark.filterwarnings("ignore:tiling changes every pixel")


def away_from_borders(length: int, borders: list[int], radius: int) -> Tensor:
    """(length,) true where no border of a tile is within ``radius``."""
    position = torch.arange(length)
    return torch.stack([(position - border).abs() > radius for border in borders]).all(0)


@torch.no_grad()
def test_purely_local_model_is_equal_away_from_seams(saved_autoencoders):
    folder = str(saved_autoencoders["tiny"].folder)
    whole = DiffusersAutoencoder(source=folder).eval()
    tiled = DiffusersAutoencoder(source=folder, tiling=True, tile_size=256).eval()
    z = torch.randn(1, 4, 28, 60, generator=torch.Generator().manual_seed(0))
    expected, found = whole.decode(z), tiled.decode(z)
    assert found.shape == expected.shape == (1, 3, 224, 480)
    # Tiles of 32 latents begin every 28; a decoder of one block a level reaches less than 9 latents.
    keep = away_from_borders(480, [28 * 8, 32 * 8, 56 * 8], 9 * 8)
    assert keep.sum() > 150
    torch.testing.assert_close(found[..., keep], expected[..., keep], atol=1e-5, rtol=0)
    assert (found - expected).abs().max() > 1e-4

    image = torch.rand(1, 3, 224, 480, generator=torch.Generator().manual_seed(1)) * 2 - 1
    mean, tiled_mean = whole.encode(image).mean, tiled.encode(image).mean
    assert mean.shape == tiled_mean.shape
    keep = away_from_borders(60, [28, 32, 56], 9)
    torch.testing.assert_close(tiled_mean[..., keep], mean[..., keep], atol=1e-5, rtol=0)


def make_local(model: nn.Module) -> None:
    """Takes away what looks at the whole tile: the statistics of group norms, and attention."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, nn.Identity())
    for part in (model.encoder, model.decoder):
        part.mid_block.attentions = nn.ModuleList([None])  # type: ignore[list-item]


@torch.no_grad()
@pytest.mark.parametrize("local", [True, False])
def test_autoencoder_kl_differs_only_by_norm_and_attention(kl, local):
    whole = DiffusersAutoencoder(source=str(kl.folder)).eval()
    tiled = DiffusersAutoencoder(source=str(kl.folder), tiling=True, tile_size=128).eval()
    for adapter in (whole, tiled):
        if local:
            make_local(adapter.model)
    z = torch.randn(1, 4, 32, 120, generator=torch.Generator().manual_seed(0))
    expected, found = whole.decode(z), tiled.decode(z)
    assert found.shape == expected.shape == (1, 3, 64, 240)
    # Tiles of 64 latents begin every 48; this decoder reaches less than 15.
    keep = away_from_borders(240, [96, 128, 192, 224], 30)
    error = (found - expected)[..., keep].abs().max() / expected.abs().max()
    assert keep.sum() > 60
    assert bool(error < 1e-5) == local


@torch.no_grad()
@pytest.mark.parametrize("name", ["kl_sd15", "kl_flux", "tiny", "dc"])
def test_image_within_one_tile_is_untouched(saved_autoencoders, name):
    folder = str(saved_autoencoders[name].folder)
    whole = DiffusersAutoencoder(source=folder).eval()
    tiled = DiffusersAutoencoder(source=folder, tiling=True, tile_size=128).eval()
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1)) * 2 - 1
    mean = whole.encode(image).mean
    torch.testing.assert_close(tiled.encode(image).mean, mean, atol=1e-5, rtol=0)
    torch.testing.assert_close(tiled.decode(mean), whole.decode(mean), atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("name", ["kl_sd15", "kl_flux", "dc"])
def test_shapes_of_many_tiles(saved_autoencoders, name):
    tiled = DiffusersAutoencoder(source=str(saved_autoencoders[name].folder), tiling=True, tile_size=32).eval()
    for height, width in ((32, 34), (50, 98), (128, 64)):
        mean = tiled.encode(torch.zeros(1, 3, height, width)).mean
        assert mean.shape[-2:] == (height // 2, width // 2)
        assert tiled.decode(mean).shape == (1, 3, height, width)


def test_difference_is_measured_and_warned_of(saved_autoencoders):
    folders = {name: str(saved.folder) for name, saved in saved_autoencoders.items()}
    with pytest.warns(UserWarning, match=r"AutoencoderKL decodes.*larger than 32 pixels.*tiling_difference"):
        tiled = DiffusersAutoencoder(source=folders["kl_sd15"], tiling=True, tile_size=32).eval()
    whole = DiffusersAutoencoder(source=folders["kl_sd15"]).eval()
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        error = tiled.decode(tiled.encode(image).mean) - whole.decode(whole.encode(image).mean)
    expected = [20 * torch.log10(2 / one.square().mean().sqrt()) for one in error]
    torch.testing.assert_close(tiling_difference(tiled, image), torch.stack(expected))
    assert tiled.model.use_tiling
    assert tiling_difference(tiled, image[..., :32, :32]).isinf().all()
    with pytest.raises(ConfigurationError, match="built with tiling: true"):
        tiling_difference(whole, image)


def test_purely_local_model_is_not_warned_of(saved_autoencoders, recwarn):
    DiffusersAutoencoder(source=str(saved_autoencoders["tiny"].folder), tiling=True)
    assert not [warning for warning in recwarn if "tiling" in str(warning.message)]


def test_refusals(saved_autoencoders):
    layouts = {name: saved.layout.config for name, saved in saved_autoencoders.items()}
    for config, tile_size, said in (
        (layouts["vq"], None, "no tiling for VQModel"),
        (layouts["kl_sd15"], 20, "multiple of 8"),
        (layouts["dc"], 6, "multiple of 4"),
        (layouts["tiny"], 64, "multiple of 128"),
        (layouts["tiny"] | {"latent_channels": 16}, None, "this one has 16 and 8"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            DiffusersAutoencoder(architecture=config, tiling=True, tile_size=tile_size)

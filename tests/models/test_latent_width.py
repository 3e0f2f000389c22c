"""Trained autoencoders with another number of latent channels, against plain diffusers models of that width."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from original_layout import as_original, inference_yaml, tiny_original, write

from layerscope.errors import ConfigurationError
from layerscope.models.autoencoders import DiffusersAutoencoder

LAST_AND_FIRST = {"encoder.conv_out.weight", "encoder.conv_out.bias", "decoder.conv_in.weight"}
QUANT = {f"{layer}.{part}" for layer in ("quant_conv", "post_quant_conv") for part in ("weight", "bias")}
IMAGE = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """What rank zero is told."""
    messages: list[str] = []
    monkeypatch.setattr("lightning.pytorch.utilities.rank_zero_info", messages.append)
    return messages


def fresh(config: dict[str, Any], latent_channels: int, seed: int) -> dict[str, torch.Tensor]:
    """The weights of a new diffusers model of that width."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoencoderKL.from_config(config | {"latent_channels": latent_channels}).state_dict()


@pytest.mark.parametrize("latent_channels", [1, 16])
@pytest.mark.parametrize(
    ("layout", "new"),
    [
        ("kl_sd15", LAST_AND_FIRST | QUANT),
        ("kl_playground", LAST_AND_FIRST | QUANT),
        ("kl_flux", LAST_AND_FIRST),
    ],
)
def test_agreeing_tensors_are_the_trained_ones_and_the_others_those_of_a_new_model(
    saved_autoencoders, layout, new, latent_channels
):
    saved = saved_autoencoders[layout]
    adapter = DiffusersAutoencoder(source=str(saved.folder), latent_channels=latent_channels, seed=9)
    trained, started = saved.model.state_dict(), fresh(saved.layout.config, latent_channels, seed=9)
    assert set(adapter.new_tensors) == new
    state = adapter.model.state_dict()
    assert list(state) == list(trained)
    for name, value in state.items():
        assert torch.equal(value, started[name] if name in new else trained[name]), name
    assert all(parameter.requires_grad for parameter in adapter.parameters())


@pytest.mark.parametrize("layout", ["kl_sd15", "kl_flux"])
@torch.no_grad()
def test_encodes_and_decodes_the_new_width_as_diffusers(saved_autoencoders, layout):
    saved = saved_autoencoders[layout]
    adapter = DiffusersAutoencoder(source=str(saved.folder), latent_channels=16, seed=9).eval()
    plain = AutoencoderKL.from_config(saved.layout.config | {"latent_channels": 16}).eval()
    plain.load_state_dict(adapter.model.state_dict())
    assert adapter.latent_channels == 16
    assert adapter.config["_class_name"] == "AutoencoderKL"  # which an export writes
    posterior, expected = adapter.encode(IMAGE), plain.encode(IMAGE).latent_dist
    assert posterior.mean.shape == posterior.std.shape == (2, 16, 8, 12)
    torch.testing.assert_close(posterior.mean, expected.mean, atol=1e-6, rtol=0)
    torch.testing.assert_close(posterior.std, expected.std, atol=1e-6, rtol=0)
    recon = adapter.decode(posterior.mean)
    assert recon.shape == IMAGE.shape
    torch.testing.assert_close(recon, plain.decode(posterior.mean).sample, atol=1e-6, rtol=0)


def test_new_tensors_follow_the_seed_alone(kl):
    before = torch.random.get_rng_state()
    one, same, other = (
        DiffusersAutoencoder(source=str(kl.folder), latent_channels=8, seed=seed).model.state_dict()
        for seed in (1, 1, 2)
    )
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(one[name], same[name]) for name in one)
    differing = {name for name in one if not torch.equal(one[name], other[name])}
    assert differing == LAST_AND_FIRST | QUANT


@pytest.mark.parametrize("layout", ["kl_sd15", "kl_playground", "kl_flux"])
def test_factors_of_the_old_latent_are_reset(saved_autoencoders, layout):
    saved = saved_autoencoders[layout]
    adapter = DiffusersAutoencoder(source=str(saved.folder), latent_channels=6, seed=0)
    z = torch.randn(1, 6, 4, 4, generator=torch.Generator().manual_seed(1))
    assert torch.equal(adapter.scale(z), z)
    assert torch.equal(adapter.unscale(z), z)
    config = dict(adapter.config)
    assert config["scaling_factor"] == 1.0
    assert [config[name] for name in ("shift_factor", "latents_mean", "latents_std")] == [None] * 3
    reset = {"latent_channels", "scaling_factor", "shift_factor", "latents_mean", "latents_std"}
    old = dict(saved.model.config)
    public = [name for name in old if not name.startswith("_") and name not in reset]
    assert {name: config[name] for name in public} == {name: old[name] for name in public}


@torch.no_grad()
def test_saved_folder_opens_with_plain_diffusers_and_again_as_a_source(saved_autoencoders, tmp_path):
    folder = str(tmp_path / "wide")
    adapter = DiffusersAutoencoder(
        source=str(saved_autoencoders["kl_playground"].folder), latent_channels=8, seed=3
    ).eval()
    adapter.save(folder)
    plain, again = AutoencoderKL.from_pretrained(folder).eval(), DiffusersAutoencoder(source=folder).eval()
    mean = adapter.encode(IMAGE).mean
    assert torch.equal(plain.encode(IMAGE).latent_dist.mean, mean)
    assert torch.equal(plain.decode(mean).sample, adapter.decode(mean))
    assert torch.equal(again.encode(IMAGE).mean, mean)
    assert (plain.config.latent_channels, plain.config.scaling_factor, plain.config.latents_mean) == (8, 1.0, None)
    assert again.new_tensors == ()


def test_an_original_checkpoint_is_widened_too(tmp_path):
    original = tiny_original()
    path = write(tmp_path / "model.safetensors", as_original(original), "first_stage_model.")
    config = inference_yaml(tmp_path / "v1-inference.yaml")
    adapter = DiffusersAutoencoder(source=path, original_config=config, latent_channels=16, seed=0)
    trained = original.state_dict()
    equal = {name for name, value in adapter.model.state_dict().items() if torch.equal(value, trained[name])}
    assert set(adapter.new_tensors) == LAST_AND_FIRST | QUANT == set(trained) - equal
    assert (adapter.latent_channels, adapter.config["scaling_factor"]) == (16, 1.0)


class TestMessage:
    def test_names_new_tensors_and_factors(self, saved_autoencoders, said):
        saved = saved_autoencoders["kl_flux"]
        DiffusersAutoencoder(source=str(saved.folder), latent_channels=16, seed=0)
        (message,) = said
        assert "16 latent channels instead of its source's 8" in message
        assert all(name in message for name in LAST_AND_FIRST)
        assert "3 tensors start new: encoder.conv_out.weight" in message
        assert f"other {len(saved.model.state_dict()) - 3} are those of the source" in message
        assert "source's scaling_factor, shift_factor belonged to its latent" in message

    @torch.no_grad()
    def test_the_same_width_changes_nothing_and_says_nothing(self, saved_autoencoders, said):
        saved = saved_autoencoders["kl_playground"]
        adapter = DiffusersAutoencoder(source=str(saved.folder), latent_channels=4, seed=0).eval()
        assert adapter.new_tensors == ()
        assert said == []
        assert torch.equal(adapter.encode(IMAGE).mean, saved.model.encode(IMAGE).latent_dist.mean)
        z = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(adapter.scale(z), saved.layout.scaled(z), atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_initial_logvar_sets_the_new_last_layer(kl):
    widened = {"source": str(kl.folder), "latent_channels": 8, "seed": 4}
    plain = DiffusersAutoencoder(**widened).eval()
    started = DiffusersAutoencoder(**widened, initial_logvar=-6.0).eval()
    posterior = started.encode(IMAGE)
    torch.testing.assert_close(posterior.std, torch.full_like(posterior.std, 0.0497871), atol=1e-6, rtol=0)
    torch.testing.assert_close(posterior.mean, plain.encode(IMAGE).mean, atol=1e-6, rtol=0)
    with pytest.raises(ConfigurationError, match="overwrite"):
        DiffusersAutoencoder(source=str(kl.folder), latent_channels=4, initial_logvar=-6.0)


class TestRefused:
    def test_random_weights_have_their_width_from_the_configuration(self, kl, tmp_path):
        original_config = inference_yaml(tmp_path / "v1-inference.yaml")
        for origin in ({"architecture": dict(kl.model.config)}, {"original_config": original_config}):
            with pytest.raises(ConfigurationError, match=r"8 without a source.*z_channels and embed_dim in the YAML"):
                DiffusersAutoencoder(**origin, latent_channels=8)

    @pytest.mark.parametrize("count", [0, -4])
    def test_no_channels(self, kl, count):
        with pytest.raises(ConfigurationError, match=f"latent_channels is {count}: .* at least 1"):
            DiffusersAutoencoder(source=str(kl.folder), latent_channels=count)

    @pytest.mark.parametrize(
        ("layout", "name"), [("vq", "VQModel"), ("tiny", "AutoencoderTiny"), ("dc", "AutoencoderDC")]
    )
    def test_other_classes(self, saved_autoencoders, layout, name):
        with pytest.raises(ConfigurationError, match=f"holds a {name}: only an AutoencoderKL"):
            DiffusersAutoencoder(source=str(saved_autoencoders[layout].folder), latent_channels=8)

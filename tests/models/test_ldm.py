"""Original latent-diffusion checkpoints: read as diffusers reads complete ones, refused where it would be silent."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import AutoencoderKL, VQModel
from diffusers.loaders.single_file_utils import create_vae_diffusers_config_from_ldm
from original_layout import LEVELS, as_original, inference_yaml, tiny_original, write
from safetensors.torch import save_file

from layerscope.errors import ConfigurationError, WeightsError
from layerscope.models.autoencoders import DiffusersAutoencoder


@pytest.fixture(scope="session")
def original() -> AutoencoderKL:
    return tiny_original()


@pytest.fixture
def config(tmp_path) -> str:
    return inference_yaml(tmp_path / "v1-inference.yaml")


def assert_same(adapter: DiffusersAutoencoder, model: torch.nn.Module) -> None:
    image = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(2)) * 2 - 1
    adapter.eval()
    with torch.no_grad():
        expected = model.encode(image).latent_dist
        posterior = adapter.encode(image)
        torch.testing.assert_close(posterior.mean, expected.mean, atol=1e-6, rtol=0)
        torch.testing.assert_close(posterior.std, expected.std, atol=1e-6, rtol=0)
        torch.testing.assert_close(adapter.decode(expected.mean), model.decode(expected.mean).sample, atol=1e-6, rtol=0)


@pytest.mark.parametrize("prefix", ["first_stage_model.", "vae.", ""])
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_equals_the_weights_written(original, config, tmp_path, prefix, suffix):
    tensors = {prefix + key: value for key, value in as_original(original).items()}
    # What else is in such files: the diffusion model, the text encoder, the losses.
    tensors["model.diffusion_model.input_blocks.0.0.weight"] = torch.zeros(2)
    tensors[f"{prefix}loss.logvar"] = torch.zeros(())
    path = tmp_path / f"model{suffix}"
    if suffix == ".ckpt":
        torch.save({"state_dict": tensors, "global_step": 840000, "epoch": 3}, path)
    else:
        save_file(tensors, path)
    adapter = DiffusersAutoencoder(source=str(path), original_config=config)
    assert_same(adapter, original)
    assert adapter.config["scaling_factor"] == 0.18215


def test_equals_diffusers_own_reading(original, config, tmp_path):
    path = write(tmp_path / "model.safetensors", as_original(original), "first_stage_model.")
    assert_same(
        DiffusersAutoencoder(source=path, original_config=config),
        AutoencoderKL.from_single_file(path, original_config=config).eval(),
    )


def test_file_in_diffusers_naming(original, config, tmp_path):
    path = write(tmp_path / "model.safetensors", dict(original.state_dict()))
    assert_same(DiffusersAutoencoder(source=path, original_config=config), original)


def test_half_precision_file(original, config, tmp_path):
    path = write(tmp_path / "model.safetensors", {key: value.half() for key, value in as_original(original).items()})
    adapter = DiffusersAutoencoder(source=path, original_config=config)
    assert {p.dtype for p in adapter.parameters()} == {torch.float32}


def test_without_quant_conv_as_in_sd3_and_flux(tmp_path):
    torch.manual_seed(6)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * LEVELS, "up_block_types": ["UpDecoderBlock2D"] * LEVELS}
    flux = AutoencoderKL(
        **blocks, block_out_channels=[32, 64, 64], latent_channels=16, use_quant_conv=False, use_post_quant_conv=False
    ).eval()
    config = inference_yaml(
        tmp_path / "flux.yaml", {"z_channels": 16}, {"scale_factor": 0.3611, "shift_factor": 0.1159}, embed_dim=None
    )
    adapter = DiffusersAutoencoder(source=write(tmp_path / "ae.safetensors", as_original(flux)), original_config=config)
    assert_same(adapter, flux)
    z = torch.ones(1, 16, 1, 1)
    torch.testing.assert_close(adapter.scale(z), (z - 0.1159) * 0.3611)


def test_latent_statistics_in_the_checkpoint(original, config, tmp_path):
    tensors = as_original(original) | {"edm_mean": torch.arange(4.0), "edm_std": torch.arange(1.0, 5.0)}
    adapter = DiffusersAutoencoder(source=write(tmp_path / "m.safetensors", tensors), original_config=config)
    scaled = adapter.scale(torch.full((1, 4, 1, 1), 6.0)).flatten()
    torch.testing.assert_close(scaled, torch.tensor([3.0, 1.25, 4 / 6, 0.375]))


@torch.no_grad()
def test_vq_checkpoint(tmp_path):
    torch.manual_seed(7)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * LEVELS, "up_block_types": ["UpDecoderBlock2D"] * LEVELS}
    vq = VQModel(
        **blocks, block_out_channels=[32, 64, 64], latent_channels=4, vq_embed_dim=3, num_vq_embeddings=32
    ).eval()
    config = inference_yaml(tmp_path / "vq.yaml", {"double_z": False}, {"scale_factor": None}, embed_dim=3, n_embed=32)
    path = write(tmp_path / "vq.safetensors", as_original(vq), "first_stage_model.")
    adapter = DiffusersAutoencoder(source=path, original_config=config).eval()
    image = torch.rand(1, 3, 16, 16)
    latents = vq.encode(image).latents
    torch.testing.assert_close(adapter.encode(image).mean, latents, atol=1e-6, rtol=0)
    torch.testing.assert_close(adapter.decode(latents), vq.decode(latents).sample, atol=1e-6, rtol=0)
    assert adapter.config["scaling_factor"] == 1.0


class TestRandomInit:
    def test_architecture_is_the_one_diffusers_reads(self, config):
        adapter = DiffusersAutoencoder(original_config=config, seed=1, initial_logvar=-6.0)
        theirs = AutoencoderKL.from_config(
            create_vae_diffusers_config_from_ldm(yaml.safe_load(Path(config).read_text()), {})
        )
        shapes = {key: value.shape for key, value in theirs.state_dict().items()}
        assert {key: value.shape for key, value in adapter.model.state_dict().items()} == shapes
        assert adapter.downsampling == 4

    @pytest.mark.parametrize("places", [("model", "params"), ("params",), ()])
    def test_yaml_of_an_autoencoder_alone(self, config, tmp_path, places):
        stage = yaml.safe_load(Path(config).read_text())["model"]["params"]["first_stage_config"]["params"]
        for place in reversed(places):
            stage = {place: stage}
        path = tmp_path / "autoencoder.yaml"
        path.write_text(yaml.safe_dump(stage))
        assert DiffusersAutoencoder(original_config=str(path), seed=1).config["block_out_channels"] == [32, 64, 64]

    @pytest.mark.parametrize(
        ("ddconfig", "stage", "said"),
        [
            ({"attn_resolutions": [16]}, {}, r"attn_resolutions put attention into level 2"),
            ({}, {"embed_dim": 3}, r"embed_dim is 3 and its z_channels 4"),
            ({"tanh_out": True}, {}, r"asks for tanh_out"),
            ({"double_z": False}, {}, r"asks for double_z: false"),
            ({"resamp_with_conv": False}, {}, r"asks for resamp_with_conv: false"),
            ({"ch": 12}, {}, r"does not describe"),
        ],
    )
    def test_what_diffusers_cannot_hold(self, tmp_path, ddconfig, stage, said):
        path = inference_yaml(tmp_path / "odd.yaml", ddconfig, **stage)
        with pytest.raises(ConfigurationError, match=said):
            DiffusersAutoencoder(original_config=path)

    def test_attention_at_a_resolution_that_is_never_reached(self, tmp_path):
        path = inference_yaml(tmp_path / "odd.yaml", {"attn_resolutions": [8]})
        assert DiffusersAutoencoder(original_config=path).downsampling == 4

    def test_bad_yaml(self, tmp_path):
        broken, other = tmp_path / "broken.yaml", tmp_path / "other.yaml"
        broken.write_text("model: [")
        other.write_text("model: {params: {}}")
        lacking = tmp_path / "lacking.yaml"
        lacking.write_text("ddconfig: {ch: 32}")
        odd = tmp_path / "odd.yaml"
        odd.write_text("ddconfig: {ch: a, ch_mult: 3, num_res_blocks: 2, z_channels: q}")
        for path, said in (
            (tmp_path / "none.yaml", "does not exist"),
            (broken, "no YAML"),
            (other, "has no ddconfig"),
            (odd, "needs positive whole numbers"),
            (lacking, "lacks ch_mult, num_res_blocks, z_channels"),
        ):
            with pytest.raises(ConfigurationError, match=said):
                DiffusersAutoencoder(original_config=str(path))


class TestStrictness:
    def refused(self, tmp_path, tensors, config, prefix="first_stage_model."):
        path = write(tmp_path / "model.safetensors", tensors, prefix)
        with pytest.raises(WeightsError) as caught:
            DiffusersAutoencoder(source=path, original_config=config)
        assert path in str(caught.value)
        return str(caught.value)

    @pytest.mark.parametrize(
        "gone", ["decoder.up.2.block.1.conv2.weight", "quant_conv.bias", "encoder.mid.attn_1.q.weight"]
    )
    def test_incomplete(self, original, config, tmp_path, gone):
        tensors = as_original(original)
        del tensors[gone]
        assert f"Missing: {gone}." in self.refused(tmp_path, tensors, config)

    def test_decoder_missing_altogether(self, original, config, tmp_path):
        tensors = {key: value for key, value in as_original(original).items() if key.startswith("encoder")}
        assert re.search(
            r"Missing: .*decoder.*\(\d+ in all\)|Missing: .*\(\d+ in all\)", self.refused(tmp_path, tensors, config)
        )

    def test_unexpected_weights(self, original, config, tmp_path):
        tensors = as_original(original) | {"decoder.up.3.block.0.conv1.weight": torch.zeros(2)}
        assert "Unexpected: decoder.up.3.block.0.conv1.weight." in self.refused(tmp_path, tensors, config)

    def test_other_shape(self, original, config, tmp_path):
        tensors = as_original(original) | {"decoder.conv_in.bias": torch.zeros(7)}
        assert "decoder.conv_in.bias (7,) instead of (64,)" in self.refused(tmp_path, tensors, config)

    def test_attention_inside_levels(self, original, config, tmp_path):
        tensors = as_original(original) | {"encoder.down.2.attn.0.q.weight": torch.zeros(64, 64, 1, 1)}
        assert "encoder.down.2.attn.0.q.weight" in self.refused(tmp_path, tensors, config)

    def test_embed_dim_other_than_z_channels(self, original, tmp_path):
        config = inference_yaml(tmp_path / "odd.yaml", embed_dim=3)
        said = self.refused(tmp_path, as_original(original), config)
        assert "quant_conv.weight" in said
        assert "embed_dim is 3 and its z_channels 4" in said

    def test_yaml_without_embed_dim_for_a_file_with_quant_conv(self, original, tmp_path):
        config = inference_yaml(tmp_path / "odd.yaml", embed_dim=None)
        assert "Unexpected: post_quant_conv.bias" in self.refused(tmp_path, as_original(original), config)

    def test_no_autoencoder_in_the_file(self, config, tmp_path):
        said = self.refused(tmp_path, {"model.diffusion_model.out.weight": torch.zeros(2)}, config, "")
        assert "holds no autoencoder" in said
        assert "model.diffusion_model.out.weight" in said

    def test_pickled_callbacks_are_not_executed(self, original, config, tmp_path):
        fired = tmp_path / "fired"
        path = tmp_path / "model.ckpt"
        torch.save({"state_dict": as_original(original), "callbacks": Trap(str(fired))}, path)
        with pytest.raises(WeightsError, match=r"pickles Python objects.*safetensors"):
            DiffusersAutoencoder(source=str(path), original_config=config)
        assert not fired.exists()


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize(
    ("name", "pipeline", "channels", "quant", "scaling", "shift"),
    [
        ("sd_kl_f8", "Stable Diffusion", 4, True, 0.18215, None),
        ("sdxl_kl_f8", "Stable Diffusion XL", 4, True, 0.13025, None),
        ("sd3_kl_f8", "Stable Diffusion 3", 16, False, 1.5305, 0.0609),
        ("flux_kl_f8", "Flux", 16, False, 0.3611, 0.1159),
    ],
)
def test_shipped_architectures(name, pipeline, channels, quant, scaling, shift):
    """The published config.json of each VAE, in the values that matter; on the meta device, as they are large."""
    path = Path(__file__).parents[2] / f"configs/vae/architectures/{name}.yaml"
    with torch.device("meta"):
        adapter = DiffusersAutoencoder(original_config=str(path))
    config = adapter.config
    assert config["block_out_channels"] == [128, 256, 512, 512], pipeline
    assert (config["layers_per_block"], config["latent_channels"], adapter.downsampling) == (2, channels, 8)
    assert (config["use_quant_conv"], config["use_post_quant_conv"]) == (quant, quant)
    assert (config["scaling_factor"], config["shift_factor"]) == (scaling, shift)
    # 83.65 million parameters with quant_conv, as the papers say.
    if quant:
        assert sum(p.numel() for p in adapter.parameters()) == 83_653_863

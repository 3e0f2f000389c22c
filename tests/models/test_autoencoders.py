"""Every autoencoder adapter keeps the same contract and gives the numbers of the diffusers model inside."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from layerscope.errors import ConfigurationError
from layerscope.models.autoencoders import DiffusersAutoencoder
from layerscope.models.posterior import GaussianPosterior, PointPosterior
from layerscope.protocols import Autoencoder, DiscreteLatents, Posterior


def picture(size: int = 32, count: int = 2) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


class TestContract:
    """What layerscope.protocols.Autoencoder promises, for every layout in conftest.LAYOUTS."""

    @pytest.fixture
    def adapter(self, saved) -> DiffusersAutoencoder:
        return DiffusersAutoencoder(source=str(saved.folder)).eval()

    def test_satisfies_the_protocol(self, adapter, saved):
        assert isinstance(adapter, Autoencoder)
        assert adapter.latent_channels == saved.layout.latent_channels
        assert adapter.downsampling == saved.layout.downsampling
        assert isinstance(adapter, DiscreteLatents)
        assert adapter.codebook_size == saved.layout.config.get("num_vq_embeddings")

    @torch.no_grad()
    def test_encodes_and_decodes_as_the_model_inside(self, adapter, saved):
        image = picture()
        encoded = saved.model.encode(image)
        expected = encoded.latent_dist.mode() if "latent_dist" in encoded else encoded[0]
        mean = adapter.encode(image).mean
        torch.testing.assert_close(mean, expected, atol=1e-6, rtol=0)
        torch.testing.assert_close(adapter.decode(mean), saved.model.decode(expected)[0], atol=1e-6, rtol=0)

    @torch.no_grad()
    def test_shapes(self, adapter, saved):
        posterior = adapter.encode(picture(48, count=3))
        side = 48 // saved.layout.downsampling
        assert posterior.mean.shape == posterior.std.shape == (3, saved.layout.latent_channels, side, side)
        assert adapter.decode(posterior.mean).shape == (3, 3, 48, 48)

    @torch.no_grad()
    def test_posterior_std_is_the_models_or_zero(self, adapter, saved):
        posterior = adapter.encode(picture())
        assert isinstance(posterior, Posterior)
        assert (posterior.std >= 0).all()
        encoded = saved.model.encode(picture())
        if "latent_dist" in encoded:
            assert isinstance(posterior, GaussianPosterior)
            torch.testing.assert_close(posterior.std, encoded.latent_dist.std, atol=1e-6, rtol=0)
        else:
            assert isinstance(posterior, PointPosterior)
            assert (posterior.std == 0).all()

    def test_scale_is_the_pipelines_and_unscale_its_inverse(self, adapter, saved):
        z = torch.randn(2, saved.layout.latent_channels, 4, 4, generator=torch.Generator().manual_seed(1)) * 3
        torch.testing.assert_close(adapter.scale(z), saved.layout.scaled(z), atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(adapter.unscale(adapter.scale(z)), z, atol=1e-5, rtol=1e-5)

    def test_size_that_does_not_divide_is_refused(self, adapter, saved):
        step = saved.layout.downsampling
        with pytest.raises(ConfigurationError, match=rf"41 × 40 pixels.*downsampling of {step}.*image_size"):
            adapter.encode(torch.zeros(1, 3, 40, 41))

    def test_wrong_channels_are_refused(self, adapter, saved):
        with pytest.raises(ConfigurationError, match=r"images \(B, 3, H, W\).*\(1, 1, 32, 32\)"):
            adapter.encode(torch.zeros(1, 1, 32, 32))
        with pytest.raises(ConfigurationError, match=rf"latents \(B, {saved.layout.latent_channels}, h, w\)"):
            adapter.decode(torch.zeros(1, 17, 4, 4))

    def test_gradients_reach_every_part(self, adapter, saved):
        posterior = adapter.encode(picture(16, 1))
        adapter.decode(posterior.mean).square().mean().backward()
        for part in (adapter.model.encoder, adapter.model.decoder):
            assert sum(float(p.grad.abs().sum()) for p in part.parameters() if p.grad is not None) > 0

    @torch.no_grad()
    def test_half_precision_answers_in_float32(self, saved):
        adapter = DiffusersAutoencoder(source=str(saved.folder), dtype="bfloat16").eval()
        assert {p.dtype for p in adapter.parameters()} == {torch.bfloat16}
        posterior = adapter.encode(picture())
        assert posterior.mean.dtype == posterior.std.dtype == adapter.decode(posterior.mean).dtype == torch.float32

    @torch.no_grad()
    def test_saved_and_loaded_again_is_the_same(self, adapter, saved, tmp_path):
        adapter.save(tmp_path / "again")
        again = DiffusersAutoencoder(source=str(tmp_path / "again")).eval()
        torch.testing.assert_close(again.encode(picture()).mean, adapter.encode(picture()).mean, atol=0, rtol=0)

    @torch.no_grad()
    def test_random_weights_follow_the_seed_and_leave_the_global_one(self, saved):
        architecture = dict(saved.model.config)
        before = torch.random.get_rng_state()
        one, same, other = (DiffusersAutoencoder(architecture=architecture, seed=seed).eval() for seed in (1, 1, 2))
        assert torch.equal(before, torch.random.get_rng_state())
        means = [adapter.encode(picture(16, 1)).mean for adapter in (one, same, other)]
        assert torch.equal(means[0], means[1])
        assert not torch.equal(means[0], means[2])


def test_failed_save_leaves_the_old_folder(saved_autoencoders, tmp_path, monkeypatch):
    adapter = DiffusersAutoencoder(source=str(saved_autoencoders["kl_sd15"].folder))
    adapter.save(tmp_path / "vae")
    before = {path.name: path.read_bytes() for path in (tmp_path / "vae").iterdir()}
    assert set(before) == {"config.json", "diffusion_pytorch_model.safetensors"}

    def full_disk(path):
        (Path(path) / "config.json").write_text("{")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(adapter.model, "save_pretrained", full_disk)
    with pytest.raises(OSError, match="No space left"):
        adapter.save(tmp_path / "vae")
    assert {path.name: path.read_bytes() for path in (tmp_path / "vae").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["vae"]


class TestQuirks:
    """What diffusers' forward does and ours must not."""

    @torch.no_grad()
    def test_tiny_latents_are_not_quantised_to_bytes(self, saved_autoencoders):
        saved = saved_autoencoders["tiny"]
        adapter = DiffusersAutoencoder(source=str(saved.folder)).eval()
        ours = adapter.decode(adapter.encode(picture()).mean)
        assert not torch.allclose(ours, saved.model(picture()).sample, atol=1e-6)

    @torch.no_grad()
    def test_vq_decode_goes_through_the_codebook(self, saved_autoencoders):
        saved = saved_autoencoders["vq"]
        adapter = DiffusersAutoencoder(source=str(saved.folder)).eval()
        z = adapter.encode(picture()).mean
        codebook = saved.model.quantize.embedding.weight
        flat = z.permute(0, 2, 3, 1).reshape(-1, 3)
        nearest = codebook[((flat[:, None] - codebook[None]) ** 2).sum(-1).argmin(1)]
        quantised = nearest.view(2, 16, 16, 3).permute(0, 3, 1, 2)
        assert not torch.allclose(z, quantised, atol=1e-3)
        seen = []
        adapter.model.post_quant_conv.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        adapter.decode(z)
        torch.testing.assert_close(seen[0], quantised, atol=1e-6, rtol=0)


class TestInitialLogvar:
    @pytest.mark.parametrize("layout", ["kl_sd15", "kl_flux"])
    @torch.no_grad()
    def test_posterior_starts_there_and_the_mean_is_untouched(self, saved_autoencoders, layout):
        architecture = dict(saved_autoencoders[layout].model.config)
        plain = DiffusersAutoencoder(architecture=architecture, seed=4)
        started = DiffusersAutoencoder(architecture=architecture, seed=4, initial_logvar=-6.0)
        posterior = started.encode(picture())
        torch.testing.assert_close(posterior.std, torch.full_like(posterior.std, 0.0497871), atol=1e-6, rtol=0)
        torch.testing.assert_close(posterior.mean, plain.encode(picture()).mean, atol=1e-6, rtol=0)

    def test_is_refused_without_a_variance_or_with_trained_weights(self, saved_autoencoders):
        with pytest.raises(ConfigurationError, match="AutoencoderTiny has no variance"):
            DiffusersAutoencoder(architecture=dict(saved_autoencoders["tiny"].model.config), initial_logvar=-6.0)
        with pytest.raises(ConfigurationError, match="overwrite"):
            DiffusersAutoencoder(source=str(saved_autoencoders["kl_sd15"].folder), initial_logvar=-6.0)


class TestArguments:
    def test_exactly_one_origin(self, kl):
        folder, architecture = str(kl.folder), dict(kl.model.config)
        for arguments, said in (
            ({}, "exactly one.*given: none"),
            ({"source": folder, "architecture": architecture}, "exactly one.*source, architecture"),
            ({"architecture": architecture, "original_config": "x.yaml"}, "give one of them"),
            ({"architecture": architecture, "subfolder": "vae"}, "subfolder is 'vae' without a source"),
            ({"source": folder, "original_config": "x.yaml"}, "single original checkpoint file"),
            ({"source": folder, "dtype": "float8"}, "float8"),
            ({"source": folder, "tile_size": 64}, "tiling is off"),
        ):
            with pytest.raises(ConfigurationError, match=said):
                DiffusersAutoencoder(**arguments)

    def test_file_without_config(self, kl):
        file = kl.folder / "diffusion_pytorch_model.safetensors"
        with pytest.raises(ConfigurationError, match=r"config\.json beside it: give the folder"):
            DiffusersAutoencoder(source=str(file))

    def test_architecture_from_a_file(self, kl, tmp_path):
        path = tmp_path / "vae.json"
        path.write_text(json.dumps(dict(kl.model.config)))
        adapter = DiffusersAutoencoder(architecture=str(path))
        assert adapter.config["block_out_channels"] == [8, 16]

    def test_bad_architectures(self, kl, tmp_path):
        broken = tmp_path / "broken.json"
        broken.write_text("{")
        listed = tmp_path / "list.json"
        listed.write_text("[]")
        config = dict(kl.model.config)
        for architecture, said in (
            (str(tmp_path / "none.json"), "does not exist"),
            (str(broken), "no JSON"),
            (str(listed), "holds a list"),
            ({"_class_name": "UNet2DModel"}, "UNet2DModel.*knows AutoencoderKL"),
            (config | {"latent_chanels": 4}, "does not know: latent_chanels"),
            (config | {"down_block_types": ["DownEncoderBlock2D"]}, "lists of one length"),
            ({"block_out_channels": [32, 64]}, "lists of one length"),
            ({"block_out_channels": 32}, "lists of one length"),
            (config | {"norm_num_groups": 5}, "does not describe an? AutoencoderKL.*divisible"),
        ):
            with pytest.raises(ConfigurationError, match=said):
                DiffusersAutoencoder(architecture=architecture)

    def test_tiny_that_enlarges_by_another_factor_is_refused(self, saved_autoencoders):
        architecture = saved_autoencoders["tiny"].layout.config | {"upsampling_scaling_factor": 3}
        with pytest.raises(ConfigurationError, match="shrinks images by 8 and enlarges latents by 27"):
            DiffusersAutoencoder(architecture=architecture)

    def test_architecture_inside_a_shipped_configuration(self):
        path = Path(__file__).parents[2] / "configs/vae/train/phantom_base.yaml"
        arguments = yaml.safe_load(path.read_text())["model"]["init_args"]["autoencoder"]["init_args"]
        adapter = DiffusersAutoencoder(**arguments, seed=0)
        assert (adapter.downsampling, adapter.latent_channels) == (4, 4)
        assert adapter.decode(adapter.encode(picture(16, 1)).mean).shape == (1, 3, 16, 16)


def test_importing_the_adapters_does_not_import_diffusers_or_timm():
    """They cost seconds, also where a user's own model takes their place."""
    code = (
        "import sys, layerscope.models.autoencoders, layerscope.models.teachers; "
        "sys.exit(any(name in sys.modules for name in ('diffusers', 'timm', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

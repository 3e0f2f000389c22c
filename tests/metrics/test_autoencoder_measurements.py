"""Latent statistics against NumPy and against drawn latents; the activation audit against hooks set by hand."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from small_architectures import SMALL_KL
from torch import Tensor, nn

from layerscope.errors import ConfigurationError, DataError, NumericalError
from layerscope.metrics.activation_audit import activation_audit
from layerscope.metrics.latent_statistics import latent_statistics
from layerscope.models.autoencoders import DiffusersAutoencoder

ARCHITECTURE = SMALL_KL | {"block_out_channels": [8, 16], "latent_channels": 4}


@pytest.fixture(scope="module")
def random_autoencoder() -> DiffusersAutoencoder:
    return DiffusersAutoencoder(architecture=ARCHITECTURE, seed=5)


@pytest.fixture
def autoencoder(random_autoencoder: DiffusersAutoencoder) -> DiffusersAutoencoder:
    return copy.deepcopy(random_autoencoder)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(10, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


def hooks_on(module: nn.Module) -> int:
    return sum(len(one._forward_hooks) for one in module.modules())


class TestLatentStatistics:
    def test_equal_numpys_whatever_the_batches(self, autoencoder: DiffusersAutoencoder, images: Tensor) -> None:
        with torch.no_grad():
            posterior = copy.deepcopy(autoencoder).eval().model.encode(images).latent_dist
        mean, std = posterior.mean.double().numpy(), posterior.std.double().numpy()
        total = np.sqrt(mean.var(axis=(0, 2, 3)) + np.mean(std**2, axis=(0, 2, 3)))
        for size in (10, 3):
            moments = latent_statistics(autoencoder, images.split(size))
            assert moments.images == 10
            np.testing.assert_allclose(moments.mean, mean.mean(axis=(0, 2, 3)), rtol=1e-5, atol=1e-7)
            np.testing.assert_allclose(moments.std, total, rtol=1e-5)
            np.testing.assert_allclose(moments.posterior_std, np.sqrt(np.mean(std**2, axis=(0, 2, 3))), rtol=1e-5)
        assert autoencoder.training

    def test_are_those_of_latents_drawn_from_the_posterior(
        self, autoencoder: DiffusersAutoencoder, images: Tensor
    ) -> None:
        moments = latent_statistics(autoencoder, [images])
        with torch.no_grad():
            posterior = autoencoder.eval().model.encode(images).latent_dist
        generator = torch.Generator().manual_seed(0)
        drawn = torch.stack([posterior.sample(generator) for _ in range(60)]).double()
        std = drawn.std(dim=(0, 1, 3, 4), correction=0)
        np.testing.assert_allclose(moments.std, std.numpy(), rtol=5e-3)
        flat = drawn.movedim(2, 0).flatten()
        assert moments.overall_std == pytest.approx(float(flat.std(correction=0)), rel=5e-3)
        assert moments.overall_mean == pytest.approx(float(flat.mean()), abs=5e-3)

    def test_one_of_several_processes_measures_alone(
        self, autoencoder: DiffusersAutoencoder, images: Tensor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        alone = latent_statistics(autoencoder, [images])

        def gather(*_: object, **__: object) -> None:
            raise AssertionError("waits for the other processes")

        monkeypatch.setattr("torchmetrics.metric.jit_distributed_available", lambda: True)
        monkeypatch.setattr("torchmetrics.metric.gather_all_tensors", gather)
        assert latent_statistics(autoencoder, [images]) == alone

    def test_bad_images(self, autoencoder: DiffusersAutoencoder, images: Tensor) -> None:
        with pytest.raises(DataError, match="no images"):
            latent_statistics(autoencoder, [])
        with pytest.raises(DataError, match="Image 11 gives a latent"):
            latent_statistics(autoencoder, [images, images[:, :, :16]])
        with pytest.raises(ConfigurationError, match=r"no layerscope\.protocols\.Autoencoder"):
            latent_statistics(nn.Linear(2, 2), [images])
        broken = images.clone()
        broken[5, 0, 0, 0] = torch.nan
        with pytest.raises(NumericalError, match="images 6 to 10 is NaN"):
            latent_statistics(autoencoder, broken.split(5))
        assert autoencoder.training


class TestActivationAudit:
    def test_equals_hooks_set_by_hand(self, autoencoder: DiffusersAutoencoder, images: Tensor) -> None:
        audit = activation_audit(autoencoder, images.split(3))
        twin = copy.deepcopy(autoencoder.model).eval()
        blocks = {
            "encoder.conv_in": twin.encoder.conv_in,
            "encoder.down_blocks.0": twin.encoder.down_blocks[0],
            "encoder.down_blocks.1": twin.encoder.down_blocks[1],
            "encoder.mid_block": twin.encoder.mid_block,
            "encoder.conv_norm_out": twin.encoder.conv_norm_out,
            "encoder.conv_act": twin.encoder.conv_act,
            "encoder.conv_out": twin.encoder.conv_out,
            "decoder.conv_in": twin.decoder.conv_in,
            "decoder.up_blocks.0": twin.decoder.up_blocks[0],
            "decoder.up_blocks.1": twin.decoder.up_blocks[1],
            "decoder.mid_block": twin.decoder.mid_block,
            "decoder.conv_norm_out": twin.decoder.conv_norm_out,
            "decoder.conv_act": twin.decoder.conv_act,
            "decoder.conv_out": twin.decoder.conv_out,
            "quant_conv": twin.quant_conv,
            "post_quant_conv": twin.post_quant_conv,
        }
        seen: dict[str, float] = dict.fromkeys(blocks, 0.0)
        for name, block in blocks.items():
            for module in block.modules():

                def record(_: nn.Module, __: object, output: Tensor, name: str = name) -> None:
                    seen[name] = max(seen[name], float(output.abs().max()))

                module.register_forward_hook(record)
        with torch.no_grad():
            twin.decode(twin.encode(images).latent_dist.mode())
        assert set(audit.largest) == set(blocks)
        for name, value in seen.items():
            assert audit.largest[name] == pytest.approx(value, rel=1e-5), name
        assert audit.images == 10
        assert audit.silent == ()

    def test_verdict_flips_when_a_weight_is_blown_up(self, autoencoder: DiffusersAutoencoder, images: Tensor) -> None:
        assert activation_audit(autoencoder, [images]).half_precision.verdict == "safe"
        inner = autoencoder.model.decoder.up_blocks[1].resnets[0].conv1
        with torch.no_grad():
            inner.weight *= 1e6
        # Inside a residual branch: the normalisation behind it hides it from the block's own output.
        audit = activation_audit(autoencoder, [images])
        assert audit.half_precision.verdict == "overflows"
        assert audit.half_precision.block == "decoder.up_blocks.1"
        half = copy.deepcopy(autoencoder.model).half().eval()
        with torch.no_grad():
            assert not torch.isfinite(half(images[:1].half()).sample).all()

    def test_what_is_not_finite_overflows(self, autoencoder: DiffusersAutoencoder, images: Tensor) -> None:
        with torch.no_grad():
            autoencoder.model.encoder.conv_in.weight[0, 0, 0, 0] = torch.nan
        assert activation_audit(autoencoder, [images]).half_precision.verdict == "overflows"

    def test_blocks_that_are_never_called_are_named(self, autoencoder: DiffusersAutoencoder, images: Tensor) -> None:
        autoencoder.model.spare = nn.Linear(2, 2)
        assert activation_audit(autoencoder, [images]).silent == ("spare",)

    def test_hooks_are_gone_also_after_an_error(
        self, autoencoder: DiffusersAutoencoder, images: Tensor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        activation_audit(autoencoder, [images])
        assert hooks_on(autoencoder) == 0
        with pytest.raises(DataError, match="no images"):
            activation_audit(autoencoder, [])
        with pytest.raises(ConfigurationError, match="downsampling"):
            activation_audit(autoencoder, [images[:, :, :31]])
        assert hooks_on(autoencoder) == 0
        assert autoencoder.training

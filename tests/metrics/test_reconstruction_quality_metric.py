"""Reconstruction figures of a split: equal to their formulas, whatever the batches, order and precision around them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchmetrics.functional.image.lpips import learned_perceptual_image_patch_similarity
from torchvision.models import squeezenet1_1

from layerscope.errors import ConfigurationError, LayerscopeError, WeightsError
from layerscope.functional.frequency import band_error
from layerscope.functional.reconstruction import kl_per_channel, psnr, ssim
from layerscope.metrics import perceptual
from layerscope.metrics.reconstruction import ReconstructionQuality
from layerscope.types import ReconstructionOutput

N = 7


@pytest.fixture(scope="module")
def split() -> ReconstructionOutput:
    """Errors differ much between images; of three latent channels one is dead and one far from zero."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(N, 3, 32, 40, generator=generator) * 2 - 1
    noise = torch.randn(image.shape, generator=generator) * torch.logspace(-2, 0, N)[:, None, None, None]
    mean = torch.randn(N, 3, 4, 5, generator=generator) * torch.tensor([2.0, 1e-3, 0.5])[:, None, None]
    mean += torch.tensor([0.0, 0.0, 30.0])[:, None, None]
    std = torch.rand(mean.shape, generator=generator) * 0.2 + torch.tensor([0.1, 0.9, 0.1])[:, None, None]
    recon = (image + noise).clamp(-1, 1)
    return ReconstructionOutput([f"i{k}" for k in range(N)], torch.arange(N), image, recon, mean, std)


def part(split: ReconstructionOutput, rows: list[int], index: list[int] | None = None) -> ReconstructionOutput:
    return ReconstructionOutput(
        [split.id[row] for row in rows],
        torch.tensor(rows if index is None else index),
        *(getattr(split, name)[rows] for name in ("image", "recon", "mean", "std")),
    )


def measured(*batches: ReconstructionOutput) -> dict[str, float]:
    metric = ReconstructionQuality(N)
    for batch in batches:
        metric.update(batch)
    return metric.compute()


def test_figures_are_means_over_images_of_their_formulas(split: ReconstructionOutput) -> None:
    found = measured(split)
    error = split.recon - split.image
    assert found["psnr"] == pytest.approx(float(psnr(split.recon, split.image).mean()), rel=1e-6)
    assert found["ssim"] == pytest.approx(float(ssim(split.recon, split.image).mean()), rel=1e-5)
    assert found["l1"] == pytest.approx(float(error.abs().mean()), rel=1e-5)
    assert found["mse"] == pytest.approx(float(error.square().mean()), rel=1e-5)
    bands = {name: value for name, value in found.items() if name.startswith("band_")}
    assert sum(bands.values()) == pytest.approx(found["mse"], rel=1e-5)
    expected = band_error(split.recon, split.image).mean(dim=0).tolist()
    assert list(bands.values()) == pytest.approx(expected, rel=1e-5)
    kl = kl_per_channel(split.mean, split.std).mean(dim=0)
    channels = range(3)
    assert [found[f"kl_channel_{c}"] for c in channels] == pytest.approx(kl.tolist(), rel=1e-5)
    assert found["kl_per_image"] == pytest.approx(float(kl.sum()), rel=1e-5)
    assert found["kl_per_latent_element"] == pytest.approx(float(kl.sum()) / 60, rel=1e-5)
    assert found["dead_channels"] == 1
    flat = split.mean.double().transpose(0, 1).flatten(1)
    assert [found[f"latent_mean_{c}"] for c in channels] == pytest.approx(flat.mean(dim=1).tolist(), rel=1e-9)
    assert [found[f"latent_std_{c}"] for c in channels] == pytest.approx(flat.std(dim=1, correction=0).tolist())
    noise = split.std.square().mean(dim=(0, 2, 3)).sqrt()
    assert [found[f"posterior_std_{c}"] for c in channels] == pytest.approx(noise.tolist(), rel=1e-5)
    assert all(type(value) is float for value in found.values())


def test_batches_order_stand_ins_and_autocast_change_nothing(split: ReconstructionOutput) -> None:
    whole = measured(split)
    ones = [part(split, [row]) for row in (5, 2, 0, 6, 1, 4, 3)]
    with torch.autocast("cpu", torch.bfloat16):
        cut = measured(part(split, [3, 1, 0]), *ones[:2], part(split, [6, 4, 4], [6, 4, -1]), part(split, [0], [-1]))
    for found in (measured(*ones), cut):
        assert list(found) == list(whole)
        for name, value in whole.items():
            assert found[name] == pytest.approx(value, rel=1e-5, abs=1e-8), name


@pytest.mark.parametrize("rows", [[0, 1, 2], [0, 1, 2, 3, 4, 5, 6, 6]])
def test_each_image_is_needed_once(split: ReconstructionOutput, rows: list[int]) -> None:
    with pytest.raises(LayerscopeError, match="exactly once"):
        measured(part(split, rows))


def test_nothing_validated_and_images_of_two_sizes(split: ReconstructionOutput) -> None:
    with pytest.raises(LayerscopeError, match="No image was validated"):
        measured()
    smaller = ReconstructionOutput(
        ["x"], torch.tensor([1]), *(torch.rand(1, 3, 32, 32),) * 2, *(torch.ones(1, 3, 4, 4),) * 2
    )
    with pytest.raises(ConfigurationError, match="different sizes"):
        measured(part(split, [0]), smaller)


def test_a_metric_that_was_reset_begins_anew(split: ReconstructionOutput) -> None:
    metric = ReconstructionQuality(N)
    metric.update(part(split, [0, 0, 1]))
    metric.reset()
    metric.update(split)
    assert metric.compute() == measured(split)
    assert not metric.state_dict()


def test_lpips_without_weights_is_named_and_not_downloaded(
    split: ReconstructionOutput, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: pytest.fail("a download"))
    metric = ReconstructionQuality(N)
    metric.update(split)
    assert "lpips" not in metric.compute()
    (record,) = metric.not_measured()
    assert record["what"] == "LPIPS"
    assert "alexnet-owt-7be5be79.pth" in record["reason"]
    with pytest.raises(WeightsError, match=str(tmp_path)):
        perceptual.lpips(split.recon, split.image)


def test_lpips_with_weights_is_that_of_torchmetrics(
    split: ReconstructionOutput, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    perceptual._network.cache_clear()  # of another folder
    weights = tmp_path / "hub" / "checkpoints" / "squeezenet1_1-b8a52dc0.pth"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"cut off")
    assert "cannot be loaded" in ReconstructionQuality(N, "squeeze").not_measured()[0]["reason"]
    torch.save(squeezenet1_1(weights=None).state_dict(), weights)
    metric = ReconstructionQuality(N, "squeeze")
    for rows in ([0, 1, 2, 3], [4, 5], [6]):
        metric.update(part(split, rows))
    one_by_one = [
        float(learned_perceptual_image_patch_similarity(a[None], b[None], net_type="squeeze"))
        for a, b in zip(split.recon, split.image)
    ]
    assert metric.compute()["lpips"] == pytest.approx(sum(one_by_one) / N, rel=1e-4)
    assert metric.not_measured() == []
    assert not metric.state_dict()
    assert not list(metric.parameters())
    perceptual._network.cache_clear()

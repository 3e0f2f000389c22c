"""The exact phantom keeps its promise: what is measured is what the closed form says."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles import BlockMean, Contrast, EraseLabel, Identity, LatentScale
from sklearn.metrics import roc_auc_score

from layerscope.data.multilabel import MultilabelImages
from layerscope.data.phantom.exact import (
    ExactRecord,
    ExactSettings,
    auroc_noise,
    auroc_real,
    auroc_recon,
    block_mean,
    exact_image,
    layout,
    noise_gain,
    read_record,
    retained_energy,
    template,
)
from layerscope.data.phantom.matched_filter import MatchedFilterTeacher
from layerscope.data.phantom.write import write_phantom
from layerscope.errors import ConfigurationError, DataError
from layerscope.protocols import Autoencoder, Teacher

SIZES = (3.0, 6.0, 12.0, 24.0)
N = 1500


def hanley_mcneil(auroc: float, positives: int, negatives: int) -> float:
    """Standard error of an AUROC (Hanley & McNeil 1982)."""
    q1, q2 = auroc / (2 - auroc), 2 * auroc**2 / (1 + auroc)
    variance = auroc * (1 - auroc) + (positives - 1) * (q1 - auroc**2) + (negatives - 1) * (q2 - auroc**2)
    return math.sqrt(variance / (positives * negatives))


class Drawn:
    """An exact phantom as it is on disk, read back through the datamodule."""

    def __init__(self, root: Path, seed: int) -> None:
        write_phantom(root, "exact", n=N, size=64, lesion_sizes=SIZES, seed=seed, prevalence=0.5)
        self.root = root
        self.record: ExactRecord = read_record(root)
        self.teacher = MatchedFilterTeacher(str(root))
        images, targets = [], []
        for split in ("train", "val", "test"):
            files = {"root": str(root), "schema": str(root / "schema.yaml"), "table": str(root / "labels.csv")}
            module = MultilabelImages(**files, eval_split=split, batch_size=100)  # type: ignore[arg-type]
            for batch in module.test_dataloader():
                images.append(batch["image"])
                targets.append(batch["target"])
        self.images, self.targets = torch.cat(images), torch.cat(targets).numpy()

    def aurocs(self, images: torch.Tensor) -> list[float]:
        logits = self.teacher(images).numpy()
        return [roc_auc_score(self.targets[:, label], logits[:, label]) for label in range(len(SIZES))]

    def check(self, images: torch.Tensor, theory: list[float]) -> None:
        """Measured within four standard errors of the closed form, label by label."""
        for label, (measured, exact) in enumerate(zip(self.aurocs(images), theory)):
            positives = int(self.targets[:, label].sum())
            assert abs(measured - exact) < 4 * hanley_mcneil(exact, positives, N - positives), (label, measured, exact)


@pytest.fixture(scope="module", params=[0, 1])
def drawn(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    return Drawn(tmp_path_factory.mktemp("exact") / "phantom", request.param)


def test_every_label_has_the_same_auroc_on_real_images(drawn: Drawn) -> None:
    drawn.check(drawn.images, [auroc_real(2.5)] * len(SIZES))


@pytest.mark.parametrize("k", [4, 8])
def test_block_mean_loses_what_the_closed_form_says(drawn: Drawn, k: int) -> None:
    vae = BlockMean(k)
    reconstruction = vae.decode(vae.encode(drawn.images).mean)
    etas = [retained_energy(shape, k) for shape in drawn.record.templates()]
    drawn.check(reconstruction, [auroc_recon(2.5, eta) for eta in etas])


@pytest.mark.parametrize("log_snr", [2.0, -1.0])
def test_noise_in_the_latent_loses_what_the_closed_form_says(drawn: Drawn, log_snr: float) -> None:
    alpha = math.sqrt(1 / (1 + math.exp(-log_snr)))
    sigma = math.sqrt(1 - alpha**2)
    vae = BlockMean(4)
    z = vae.encode(drawn.images).mean
    std = float(z.std())
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(5))
    decoded = vae.decode((alpha * z / std + sigma * noise) * std)
    gain = noise_gain(4, std)
    theory = [
        auroc_noise(disk, shape, 4, noise=drawn.record.settings.noise, gain=gain, alpha=alpha, sigma=sigma)
        for disk, shape in zip(drawn.record.disks, drawn.record.templates())
    ]
    assert theory[0] < auroc_recon(2.5, retained_energy(drawn.record.templates()[0], 4))
    drawn.check(decoded, theory)


def test_logits_are_the_log_odds(drawn: Drawn) -> None:
    probability = torch.sigmoid(drawn.teacher(drawn.images)).numpy()
    for label in range(len(SIZES)):
        for low, high in ((0.0, 0.1), (0.3, 0.7), (0.9, 1.0)):
            chosen = (probability[:, label] >= low) & (probability[:, label] < high)
            expected = probability[chosen, label].mean()
            error = math.sqrt(expected * (1 - expected) / chosen.sum())
            assert abs(drawn.targets[chosen, label].mean() - expected) < 4 * error


def test_oracles_do_what_their_names_say(drawn: Drawn) -> None:
    images, real = drawn.images[:400], drawn.aurocs(drawn.images)
    label = drawn.record.settings.labels[2]
    for vae in (
        Identity(),
        BlockMean(4),
        EraseLabel(str(drawn.root), label),
        Contrast(0.7),
        LatentScale(3.0, BlockMean(4)),
    ):
        assert isinstance(vae, Autoencoder)
        posterior = vae.encode(images[:2])
        assert posterior.mean.shape[1:] == (vae.latent_channels, 64 // vae.downsampling, 64 // vae.downsampling)
        assert not posterior.std.any()
        assert torch.equal(vae.unscale(vae.scale(posterior.mean)), posterior.mean)
    assert isinstance(drawn.teacher, Teacher)
    assert torch.equal(Identity().decode(images), images)
    assert drawn.aurocs(Contrast(0.7).decode(drawn.images)) == pytest.approx(real, abs=1e-6)

    erased = EraseLabel(str(drawn.root), label).decode(drawn.images)
    after = drawn.aurocs(erased)
    assert abs(after[2] - 0.5) < 4 * hanley_mcneil(0.5, N // 2, N // 2)
    assert after[:2] + after[3:] == real[:2] + real[3:]

    inner, scaled = BlockMean(4), LatentScale(2.0, BlockMean(4))
    torch.testing.assert_close(scaled.decode(scaled.encode(images).mean), inner.decode(inner.encode(images).mean))
    torch.testing.assert_close(scaled.encode(images).mean, 2 * inner.encode(images).mean)


@pytest.mark.parametrize(("diameter", "energy"), [(2, 0.06), (4, 0.17), (8, 0.43), (16, 0.70), (32, 0.85)])
def test_mean_energy_behind_a_block_mean_of_8_at_random_places(diameter: float, energy: float) -> None:
    rng = np.random.default_rng(0)
    etas = [retained_energy(template(112, *(48 + 16 * rng.random(2)), diameter), 8) for _ in range(200)]
    assert np.mean(etas) == pytest.approx(energy, abs=0.02)
    assert max(etas) - min(etas) > 0.05


def test_block_mean_in_numpy_is_the_oracle() -> None:
    image = np.random.default_rng(0).random((2, 16, 24))
    vae = BlockMean(8)
    through = vae.decode(vae.encode(torch.from_numpy(image)[:, None]).mean)[:, 0].numpy()
    np.testing.assert_allclose(block_mean(image, 8), through, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_disks_keep_apart_and_have_one_detectability(seed: int) -> None:
    settings = ExactSettings(seed=seed)
    disks = layout(settings)
    for first in disks:
        shape = template(128, first.x, first.y, first.diameter).astype(np.float64)
        assert first.contrast * np.linalg.norm(shape) / settings.noise == pytest.approx(2.5)
        assert not shape[[0, -1]].any()
        assert not shape[:, [0, -1]].any()
        for second in disks:
            if first != second:
                distance = math.hypot(first.x - second.x, first.y - second.y)
                assert distance >= (first.diameter + second.diameter) / 2 + 10 - 0.01
    assert layout(settings) == disks
    assert layout(ExactSettings(seed=seed + 100)) != disks


def test_an_image_is_noise_plus_its_disks() -> None:
    settings = ExactSettings(size=64, lesion_sizes=SIZES, seed=4)
    disks = layout(settings)
    shapes = ExactRecord(settings, disks).templates()
    residuals = []
    for index in range(20):
        stored, present = exact_image(settings, disks, shapes, index)
        assert stored.dtype == np.uint16
        image = stored / 65535 * 2 - 1
        for disk in present:
            image -= disk.contrast * template(64, disk.x, disk.y, disk.diameter)
        residuals.append(image)
    assert np.std(residuals) == pytest.approx(settings.noise, rel=0.01)
    assert abs(np.mean(residuals)) < 4 * settings.noise / math.sqrt(np.size(residuals))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lesion_sizes": (3.0, 3.0)}, "must differ"),
        ({"lesion_sizes": ()}, "must differ"),
        ({"lesion_sizes": (0.5,)}, "at least 1 pixel"),
        ({"prevalence": 1.0}, "prevalence"),
    ],
)
def test_impossible_settings(settings: dict, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ExactSettings(**settings)


def test_disks_that_do_not_fit() -> None:
    with pytest.raises(ConfigurationError, match=r"Disks of 20, 24 pixels .* do not fit into an image of 32"):
        layout(ExactSettings(size=32, lesion_sizes=(20.0, 24.0)))


def test_teacher_says_what_it_needs(tmp_path: Path, drawn: Drawn) -> None:
    with pytest.raises(DataError, match=r"is no phantom: it has no phantom\.json"):
        MatchedFilterTeacher(str(tmp_path))
    fundus = write_phantom(tmp_path / "fundus", "fundus", n=12, size=32)
    with pytest.raises(DataError, match="does not describe an exact phantom"):
        MatchedFilterTeacher(str(fundus))
    with pytest.raises(ConfigurationError, match="images of 64×64 pixels and got 32×32"):
        drawn.teacher(torch.zeros(1, 3, 32, 32))

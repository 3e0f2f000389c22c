"""A teacher trained with reconstructions mixed in: which images it sees, and that val and test stay real."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from mixing_runs import Run, data, half, same
from oracles import BlockMean
from PIL import Image
from small_autoencoder import SmallAutoencoder
from torch import Tensor, nn
from torch.utils.data import DataLoader

from layerscope.callbacks.averaging import EMA
from layerscope.callbacks.reconstructed_files import ReconstructedFiles
from layerscope.data.hashing import weights_hash
from layerscope.data.multilabel import MultilabelImages
from layerscope.errors import ConfigurationError, DataError, NumericalError
from layerscope.functional.controls import from_uint8
from layerscope.functional.mixing import mixed_in
from layerscope.tasks.diagnosis.latent_space import NoiseProcess
from layerscope.tasks.reconstruction import Reconstruction

STEPS = 10
"""Of one epoch: 29 images of train in batches of three."""


class Spy(SmallAutoencoder):
    """Keeps every image that it encodes."""

    def __init__(self) -> None:
        super().__init__()
        self.met: list[Tensor] = []

    def encode(self, x: Tensor) -> Any:
        self.met += list(x.clone())
        return super().encode(x)


def split(root: Path, name: str) -> Tensor:
    return torch.stack([sample["image"] for sample in data(root).dataset(name)])


def found_in(images: Tensor, known: Tensor) -> list[bool]:
    return [bool((known == image).flatten(1).all(dim=1).any()) for image in images]


# -- what is mixed in ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("timestep", "posterior"), [(0, "mode"), (0, "sample"), (153, "mode")])
def test_what_is_mixed_in_is_what_the_reconstruction_job_writes(
    fundus_phantom: Path, tmp_path: Path, timestep: int, posterior: Any
) -> None:
    """At mix 1, where no real image is left; one image a batch, so that both do the same arithmetic."""
    noise = NoiseProcess(seed=7, latent_statistics_images=9)
    run = Run(
        data(fundus_phantom, 1),
        half(mix=1.0, noisy=float(timestep > 0), timesteps=[153], draws=1, noise=noise, posterior=posterior),
        epochs=1,
    )
    job = Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
        default_root_dir=tmp_path / "job",
        callbacks=[ReconstructedFiles()],
    )
    job.predict(
        Reconstruction(SmallAutoencoder(), posterior, timestep, noise),
        datamodule=data(fundus_phantom, 1, eval_split="train"),
    )
    files = sorted((tmp_path / "job" / "images").rglob("*.png"))
    pictures = [torch.from_numpy(np.asarray(Image.open(file)).copy()).permute(2, 0, 1) for file in files]
    written = from_uint8(torch.stack(pictures))
    assert len(run.seen) == len(written) == len(run.data.dataset("train"))
    # Augmentation goes through [0, 1] and back also where it changes nothing.
    written = (written + 1) / 2 * 2 - 1
    assert all(found_in(run.seen, written))
    assert all(found_in(written, run.seen))
    assert not any(found_in(run.seen, (split(fundus_phantom, "train") + 1) / 2 * 2 - 1))
    assert run.figure("mixed_fraction") == 1


def test_samples_follow_the_decisions_of_their_ids(fundus_phantom: Path) -> None:
    """Whichever batch they are in: each image seen is the one that (seed, epoch, id) says."""
    mixing = half(autoencoder=BlockMean(4), noisy=0.0, seed=11)
    run = Run(fundus_phantom, mixing, epochs=2)
    train, ids = split(fundus_phantom, "train"), run.data.split_ids("train")
    blocks = BlockMean(4)
    worn = torch.stack([blocks.decode(blocks.encode(one[None]).mean)[0] for one in train])
    shares = []
    for epoch in range(2):
        seen = run.seen[epoch * len(ids) : (epoch + 1) * len(ids)]
        chosen = mixed_in(ids, epoch, 11, 0.5, 0.0, [52], 2)
        shares.append(sum(choice is not None for choice in chosen) / len(ids))
        for choice, image, blocked in zip(chosen, train, worn, strict=True):
            expected = image if choice is None else blocked
            # Within half a level of 8 bits.
            assert ((seen - expected).abs().amax(dim=(1, 2, 3)) <= 1 / 255 + 1e-6).any()
    assert run.figure("mixed_fraction") == pytest.approx(shares[-1])
    assert 0 < min(shares) <= max(shares) < 1


def test_a_share_of_zero_trains_as_without_mixing(fundus_phantom: Path) -> None:
    spy = Spy()
    without = Run(fundus_phantom, None, flip=True)
    zero = Run(fundus_phantom, half(autoencoder=spy, mix=0.0), flip=True)
    assert same(without, zero)
    assert spy.met == []
    assert zero.figure("mixed_fraction") == 0
    assert not same(without, Run(fundus_phantom, half(), flip=True))


# -- real images stay real -------------------------------------------------------------------------------------------


def test_the_autoencoder_meets_images_of_train_alone(fundus_phantom: Path) -> None:
    """Through sanity check, statistics, training, validation and test."""
    spy = Spy()
    run = Run(fundus_phantom, half(autoencoder=spy), sanity=2)
    after_fit = len(spy.met)
    run.trainer.test(run.task, datamodule=run.data, verbose=False)
    run.trainer.predict(run.task, datamodule=run.data)
    run.trainer.validate(run.task, datamodule=run.data, verbose=False)
    assert len(spy.met) == after_fit
    met = torch.stack(spy.met)
    assert all(found_in(met, split(fundus_phantom, "train")))
    for name in ("val", "test"):
        assert not any(found_in(split(fundus_phantom, name), met))
    assert len(met) > len(run.data.dataset("train"))


class LeakyLoader(MultilabelImages):
    """Trains on val."""

    def train_dataloader(self) -> DataLoader:
        return self.val_dataloader()


class LeakyTable(MultilabelImages):
    """Counts one image of test to train."""

    def split_ids(self, split: str) -> list[str]:
        return super().split_ids(split) + (super().split_ids("test")[:1] if split == "train" else [])


def test_other_images_than_those_of_train_are_refused(fundus_phantom: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"met 3 images that the datamodule does not count to train"):
        Run(data(fundus_phantom, kind=LeakyLoader), half())
    with pytest.raises(ConfigurationError, match=r"1 images are in train and in test \(first: "):
        Run(data(fundus_phantom, kind=LeakyTable), half())


# -- the training around it ------------------------------------------------------------------------------------------


def test_a_training_resumed_within_an_epoch_goes_on_bit_by_bit(fundus_phantom: Path, tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=5, save_top_k=-1)
    whole = Run(fundus_phantom, half(), keep)
    [stored] = tmp_path.glob("step=5.ckpt")
    resumed = Run(fundus_phantom, half(tmp_path / "cache"), resume=stored)
    assert whole.trainer.global_step == resumed.trainer.global_step == 2 * STEPS
    assert torch.equal(whole.seen[5 * 3 :], resumed.seen)
    weights = zip(whole.teacher.state_dict().values(), resumed.teacher.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)


def test_the_autoencoder_is_in_no_checkpoint_and_no_average(fundus_phantom: Path, tmp_path: Path) -> None:
    autoencoder = SmallAutoencoder()
    before = weights_hash(autoencoder)
    run = Run(fundus_phantom, half(autoencoder=autoencoder), EMA(0.5), ModelCheckpoint(tmp_path, "last"), epochs=1)
    stored = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert {name.split(".")[0] for name in stored["state_dict"]} == {"teacher"}
    assert sum(p.numel() for p in run.task.parameters()) == sum(p.numel() for p in run.teacher.parameters())
    assert copy.deepcopy(run.task).mixer is run.task.mixer
    assert weights_hash(autoencoder) == before
    assert not any(module.training for module in autoencoder.modules())
    said = run.task.describe()["mixing"]
    assert said["fractions"] == {"image": 0.5, "reconstruction": 0.25, "noisy_reconstruction": 0.25}
    assert said["autoencoder_weights"] == before


def test_sizes_that_do_not_divide_are_an_error_before_the_first_step(fundus_phantom: Path) -> None:
    with pytest.raises(DataError, match=r"has 32×32 pixels, which the downsampling of mixing.autoencoder, 5"):
        Run(fundus_phantom, half(autoencoder=BlockMean(5)))


def test_a_reconstruction_that_is_not_finite_names_its_image(fundus_phantom: Path) -> None:
    with pytest.raises(NumericalError, match=r"reconstruction of 1 images is NaN or infinite \(first: "):
        Run(fundus_phantom, half(autoencoder=SmallAutoencoder(broken=True)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"autoencoder": nn.Identity()}, "mixing.autoencoder is a Identity"),
        ({"mix": 1.2}, "mixing.mix is 1.2"),
        ({"mix": math.nan}, "mixing.mix is nan"),
        ({"noisy": -0.1}, "mixing.noisy is -0.1"),
        ({"timesteps": []}, "mixing.timesteps names no step"),
        ({"timesteps": [0, 52]}, "expected different steps of the ddpm schedule, 1 to 999"),
        ({"timesteps": [52, 52]}, "expected different steps"),
        ({"timesteps": [1000]}, "expected different steps"),
        ({"draws": 0}, "mixing.draws is 0"),
        ({"posterior": "mean"}, "mixing.posterior is 'mean'"),
        ({"cache_gigabytes": 0.0}, "mixing.cache_gigabytes is 0.0"),
        ({"cache_gigabytes": math.inf}, "mixing.cache_gigabytes is inf"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        half(**change)

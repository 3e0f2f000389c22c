"""Training that stops within an epoch goes on with exactly the images it has not seen."""

from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint, ModelCheckpoint, OnExceptionCheckpoint
from PIL import Image
from torch.utils.data import SequentialSampler

from layerscope.data.folder import ImageFolder
from layerscope.data.loader import ResumableDataLoader
from layerscope.data.sampler import ResumableSampler
from layerscope.errors import ConfigurationError


def loaders(size: int, world: int, batch_size: int, workers: int = 0) -> list[ResumableDataLoader]:
    """The loaders of all processes, in epoch 1."""
    made = [
        ResumableDataLoader(
            range(size),
            batch_size=batch_size,
            sampler=ResumableSampler(range(size), 5, rank, world),
            num_workers=workers,
        )
        for rank in range(world)
    ]
    for loader in made:
        loader.sampler.set_epoch(1)
    return made


def rows(loader: ResumableDataLoader) -> list[list[int]]:
    return [batch.tolist() for batch in loader]


@pytest.mark.parametrize("size", [1, 2, 5, 7, 8])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_one_permutation_equally(size: int, world: int) -> None:
    samplers = [ResumableSampler(range(size), 5, rank, world) for rank in range(world)]
    shares = [list(sampler) for sampler in samplers]
    assert {len(share) for share in shares} == {len(samplers[0])} == {-(-size // world)}
    seen = Counter(chain(*shares))
    assert set(seen) == set(range(size))
    assert seen.total() - size < world
    # Dealt out one by one, the shares are the order of a single process, continued from its beginning.
    dealt = [row for step in zip(*shares) for row in step]
    alone = list(ResumableSampler(range(size), 5, 0, 1))
    assert dealt == (alone * world)[: len(dealt)]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world", [1, 2])
def test_a_stopped_epoch_goes_on_where_batches_were_consumed(world: int, workers: int) -> None:
    whole = [rows(loader) for loader in loaders(20, world, 3)]
    assert Counter(chain(*chain(*whole))) == Counter(range(20))

    first, states = [], []
    for loader in loaders(20, world, 3, workers):
        batches = iter(loader)
        first.append([next(batches).tolist() for _ in range(2)])
        states.append(loader.state_dict())
    # Lightning keeps the first process's state only, so they must be one.
    assert all(state == states[0] for state in states)
    resumed = loaders(20, world, 3, workers)
    for loader in resumed:
        loader.load_state_dict(states[0])
        loader.sampler.set_epoch(1)
    assert [len(loader) for loader in resumed] == [len(batches) for batches in whole]
    assert [start + rows(loader) for start, loader in zip(first, resumed)] == whole
    # What was loaded holds for one iteration.
    assert [rows(loader) for loader in resumed] == whole


def test_one_process_goes_on_for_two() -> None:
    two = loaders(21, 2, 3)
    seen = []
    for loader in two:
        batches = iter(loader)
        seen += [row for _ in range(2) for row in next(batches).tolist()]
    (one,) = loaders(21, 1, 6)
    one.load_state_dict(two[0].state_dict())
    assert sorted(seen + list(chain(*rows(one)))) == list(range(21))


def test_orders_differ_by_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> tuple[int, ...]:
        sampler = ResumableSampler(range(30), seed, 0, 1)
        sampler.set_epoch(epoch)
        return tuple(sampler)

    # Also where seed + epoch, torch's way, is the same.
    assert len({order(seed, epoch) for seed in (-1, 0, 1, 2) for epoch in (0, 1, 2)}) == 12


def test_a_new_epoch_begins_at_its_beginning() -> None:
    (loader,) = loaders(20, 1, 3)
    loader.load_state_dict({**loader.state_dict(), "consumed": 9})
    loader.sampler.set_epoch(2)
    assert sorted(chain(*rows(loader))) == list(range(20))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 19}, r"epoch 1, after 6 of 19 images, when the number of training images was 19; now it is 20"),
        ({"seed": 6}, r"data\.init_args\.seed was 6; now it is 5, .* or from a checkpoint saved at the end"),
        ({"global_batch": 8}, r"with 8 images in a batch over all processes; now there are 3 \(3 on each of 1\)"),
    ],
)
def test_other_data_or_batches_within_an_epoch_are_refused(change: dict[str, int], message: str) -> None:
    (loader,) = loaders(20, 1, 3)
    state = {**loader.state_dict(), "consumed": 6, **change}
    with pytest.raises(ConfigurationError, match=message):
        loader.load_state_dict(state)
    # Between epochs anything may change.
    loader.load_state_dict({**state, "consumed": 20})


def test_another_sampler_is_refused() -> None:
    loader = ResumableDataLoader(range(4), sampler=SequentialSampler(range(4)))
    with pytest.raises(ConfigurationError, match=r"ResumableSampler; got SequentialSampler"):
        next(iter(loader))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 images to train on and two to validate."""
    root = tmp_path_factory.mktemp("images")
    for number in range(22):
        path = root / ("train" if number < 20 else "val") / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(path)
    return root


class Recorder(LightningModule):
    """Notes epoch, batch number and ids of each step; may ask for the number of steps; fails in a given step."""

    def __init__(self, asks: bool, fails_in: int | None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.asks = asks
        self.fails_in = fails_in
        self.steps: list[tuple[int, int, list[str]]] = []

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        if len(self.steps) == self.fails_in:
            raise RuntimeError("as asked")
        self.steps.append((self.current_epoch, batch_idx, batch["id"]))
        return self.weight * batch["image"].mean()

    def validation_step(self, batch: dict, batch_idx: int) -> None: ...

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self.asks:
            assert self.trainer.estimated_stepping_batches
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(
    folder: Path,
    *callbacks: Callback,
    workers: int = 0,
    asks: bool = True,
    fails_in: int | None = None,
    max_steps: int = -1,
    resume: Path | None = None,
) -> list[tuple[int, int, list[str]]]:
    """Three epochs of seven batches, or until ``max_steps``."""
    model = Recorder(asks, fails_in)
    trainer = Trainer(
        max_epochs=3,
        max_steps=max_steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        callbacks=list(callbacks),
        default_root_dir=folder,
    )
    data = ImageFolder(str(folder), batch_size=3, num_workers=workers)
    if fails_in is None:
        trainer.fit(model, datamodule=data, ckpt_path=resume)
    else:
        with pytest.raises(RuntimeError, match="as asked"):
            trainer.fit(model, datamodule=data, ckpt_path=resume)
    return model.steps


@pytest.fixture(scope="module")
def uninterrupted(folder: Path) -> list[tuple[int, int, list[str]]]:
    steps = fit(folder)
    for epoch in range(3):
        ids = list(chain(*(step[2] for step in steps if step[0] == epoch)))
        assert len(ids) == len(set(ids)) == 20
    return steps


def by_step(directory: Path, every: int) -> ModelCheckpoint:
    return ModelCheckpoint(dirpath=directory, every_n_train_steps=every, save_top_k=-1, filename="{step}")


@pytest.mark.parametrize("asks", [False, True], ids=["", "estimated_stepping_batches"])
@pytest.mark.parametrize("workers", [0, 2])
def test_lightning_resumes_within_an_epoch(
    folder: Path, tmp_path: Path, uninterrupted: list, workers: int, asks: bool
) -> None:
    first = fit(folder, by_step(tmp_path, 9), workers=workers, asks=asks, max_steps=9)
    second = fit(folder, workers=workers, asks=asks, resume=tmp_path / "step=9.ckpt")
    assert first + second == uninterrupted


@pytest.mark.parametrize("asks", [False, True], ids=["", "estimated_stepping_batches"])
def test_lightning_resumes_between_epochs(folder: Path, tmp_path: Path, uninterrupted: list, asks: bool) -> None:
    at_end = ModelCheckpoint(dirpath=tmp_path, filename="end", every_n_epochs=2, save_on_train_epoch_end=True)
    fit(folder, by_step(tmp_path, 7), at_end, asks=asks)
    assert fit(folder, asks=asks, resume=tmp_path / "step=7.ckpt") == uninterrupted[7:]
    assert fit(folder, asks=asks, resume=tmp_path / "end.ckpt") == uninterrupted[14:]


@pytest.mark.parametrize("fails_in", [4, 7])
def test_a_batch_whose_step_failed_is_taken_again(
    folder: Path, tmp_path: Path, uninterrupted: list, fails_in: int
) -> None:
    first = fit(folder, OnExceptionCheckpoint(tmp_path, "failed"), fails_in=fails_in)
    assert len(first) == fails_in
    assert first + fit(folder, resume=tmp_path / "failed.ckpt") == uninterrupted


class ReadsTraining(Callback):
    """Reads the training images aside, as for statistics of them."""

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        batches = list(trainer.datamodule.train_dataloader())
        self.seen = sorted(name for batch in batches for name in batch["id"])


def test_others_may_read_the_training_images_meanwhile(folder: Path, tmp_path: Path, uninterrupted: list) -> None:
    reads = ReadsTraining()
    first = fit(folder, by_step(tmp_path, 2), reads, max_steps=2)
    assert first + fit(folder, reads, resume=tmp_path / "step=2.ckpt") == uninterrupted
    assert reads.seen == sorted(f"train/{number}" for number in range(20))


def test_a_checkpoint_without_the_position_is_refused(folder: Path, tmp_path: Path) -> None:
    fit(folder, by_step(tmp_path, 2), max_steps=2)
    checkpoint = torch.load(tmp_path / "step=2.ckpt", weights_only=True)
    assert checkpoint.pop("ImageFolder")["train"]["consumed"] == 6
    torch.save(checkpoint, tmp_path / "other.ckpt")
    with pytest.raises(ConfigurationError, match=r"after batch 2 of epoch 0, .* that 0 batches of the data were read"):
        fit(folder, resume=tmp_path / "other.ckpt")


def test_only_fit_takes_notice_of_the_position(folder: Path, tmp_path: Path, uninterrupted: list) -> None:
    fit(folder, by_step(tmp_path, 2), max_steps=2)
    data, model = ImageFolder(str(folder), batch_size=3), Recorder(asks=True, fails_in=None)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(accelerator="cpu", max_steps=7, enable_model_summary=False, default_root_dir=tmp_path, **quiet)
    trainer.validate(model, datamodule=data, ckpt_path=tmp_path / "step=2.ckpt", verbose=False)
    trainer.fit(model, datamodule=data)
    assert model.steps == uninterrupted[:7]


@pytest.mark.parametrize("workers", [0, 1])
def test_reading_draws_no_random_numbers(folder: Path, workers: int) -> None:
    data = ImageFolder(str(folder), num_workers=workers)
    before = torch.get_rng_state()
    for loader in (data.train_dataloader(), data.val_dataloader()):
        assert len(list(loader)) == len(loader)
    assert torch.equal(torch.get_rng_state(), before)

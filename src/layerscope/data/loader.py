"""How loaders of image files are made, and one for training that can be stopped within an epoch and go on there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from layerscope.data.sampler import ResumableSampler
from layerscope.errors import ConfigurationError

T = TypeVar("T")
_Loader = TypeVar("_Loader", bound=DataLoader)


def image_loader(
    kind: type[_Loader],
    dataset: Dataset[Any],
    sampler: Sampler[int],
    collate: Callable[[list[Any]], Any],
    batch_size: int,
    num_workers: int,
    seed: int,
) -> _Loader:
    """A loader of ``kind``. ``seed`` is that of its workers."""
    return kind(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
        # Each iteration draws a seed for its workers. From torch's own generator that would shift the random
        # numbers of a run that was resumed, or validated more often, against another's.
        generator=torch.Generator().manual_seed(seed),
    )


class ResumableDataLoader(DataLoader[T]):
    """A DataLoader over a ``ResumableSampler`` whose state is the samples that training has consumed.

    Workers draw ahead, so the sampler cannot tell what was consumed. A batch counts when it is handed out, and with
    ``trained`` only when the step on it is done: a checkpoint saved while a step is interrupted (Ctrl-C, an exception)
    takes the batch again. Lightning stores this state with the trainer's (``state_dict`` and ``load_state_dict`` are
    all it asks for) and ``data.datamodule.ImageDataModule`` once more, see there.

    Nothing is drawn before the first batch is asked for: Lightning calls ``iter`` long before, when neither the epoch
    nor the stored state is set. A loaded state holds for one iteration; the next one begins at the beginning.

    Attributes:
        trained: tells how many batches of the running epoch a trainer is done with on this process, None if it does
            not know.
    """

    trained: Callable[[], int | None] | None = None
    _loaded = False

    @property
    def position(self) -> ResumableSampler:
        """The sampler."""
        if not isinstance(self.sampler, ResumableSampler):
            raise ConfigurationError(
                f"A ResumableDataLoader needs a layerscope.data.sampler.ResumableSampler; got "
                f"{type(self.sampler).__name__}. Give it one, and the Trainer use_distributed_sampler=False."
            )
        return self.sampler

    @property
    def global_batch(self) -> int:
        """Samples of a batch over all processes."""
        return (self.batch_size or 1) * self.position.num_replicas

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        sampler = self.position
        if not self._loaded:
            sampler.consumed = 0
        self._loaded = False
        self._check_start()
        for batch in super().__iter__():
            sampler.consumed = min(sampler.consumed + self.global_batch, sampler.total_size)
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Plain integers, equal on all processes."""
        state = self.position.state_dict()
        trained = self.trained() if self.trained is not None else None
        if trained is not None:
            state["consumed"] = min(state["consumed"], trained * self.global_batch)
        return {**state, "global_batch": self.global_batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on where ``state`` was saved, also on another number of processes with batches of another size.

        Raises:
            ConfigurationError: it was saved within an epoch, and the images, the seed, or the samples of a batch over
                all processes are not the same. Trainers count batches, and would end the epoch too early or too late.
        """
        if 0 < state["consumed"] < state["size"] and state["global_batch"] != self.global_batch:
            raise ConfigurationError(
                f"The checkpoint was saved within epoch {state['epoch']}, with {state['global_batch']} images in a "
                f"batch over all processes; now there are {self.global_batch} ({self.batch_size} on each of "
                f"{self.position.num_replicas}). Choose batch_size and processes so that their product stays "
                f"{state['global_batch']}, or resume from a checkpoint saved at the end of an epoch."
            )
        self.position.load_state_dict(state)
        self._loaded = True

    def _check_start(self) -> None:
        """Raises where the trainer is in the middle of an epoch of which the loader knows nothing."""
        trained = self.trained() if self.trained is not None else None
        batches = -(-self.position.consumed // self.global_batch)
        if trained is not None and trained != batches:
            raise ConfigurationError(
                f"Training goes on after batch {trained} of epoch {self.position.epoch}, but the checkpoint says "
                f"that {batches} batches of the data were read: it was saved with another datamodule, and images would "
                "be repeated or left out. Resume with the datamodule it was saved with, or from a checkpoint saved at "
                "the end of an epoch."
            )

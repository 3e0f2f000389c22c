"""The loops that ``benchmarks.training`` compares: the shipped training, a plain one, one in the manner of a script.

All of them read the same image files through the same loader, train a copy of the same model with AdamW, clip the
gradient to norm 1, follow the same learning rate and save weights and optimizer after each epoch.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Precision = Literal["32-true", "bf16-mixed"]
LEARNING_RATE = 1e-4
KL_WEIGHT = 1e-6
LOGGED_EVERY = 20


@dataclass(frozen=True)
class Setting:
    """A model and a batch: an AutoencoderKL of ``widths`` with a latent of 4 channels, on whole images."""

    widths: tuple[int, ...]
    layers: int
    batch: int

    def autoencoder(self) -> Any:
        from layerscope.models.autoencoders import DiffusersAutoencoder

        levels = len(self.widths)
        architecture = {
            "_class_name": "AutoencoderKL",
            "block_out_channels": list(self.widths),
            "down_block_types": ["DownEncoderBlock2D"] * levels,
            "up_block_types": ["UpDecoderBlock2D"] * levels,
            "layers_per_block": self.layers,
            "norm_num_groups": 8,
            "latent_channels": 4,
        }
        return DiffusersAutoencoder(architecture=architecture, seed=0)


def images_of(folder: Path, batch: int, workers: int = 0) -> Any:
    """The datamodule of both sides."""
    from layerscope.data.folder import ImageFolder

    return ImageFolder(str(folder), val_fraction=0.1, batch_size=batch, num_workers=workers)


class PlainLoop:
    """What someone would write without a framework: L1 and KL summed per image, in nats, with weight 1e-6."""

    def __init__(self, autoencoder: Any, folder: Path, batch: int, precision: Precision, steps: int, out: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        from layerscope.functional.schedules import warmup_cosine

        self.vae = autoencoder.model
        self.optimizer = torch.optim.AdamW(self.vae.parameters(), lr=LEARNING_RATE)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, warmup_cosine(steps, 0.05))
        data = images_of(folder, batch)
        data.setup("fit")
        self.loader = data.train_dataloader()
        self.batches = iter(self.loader)
        self.half = precision == "bf16-mixed"
        self.writer = SummaryWriter(str(out))
        self.saved = out / "last.pt"
        self.steps = 0

    def step(self) -> None:
        image = next(self.batches)["image"]
        self.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            posterior = self.vae.encode(image).latent_dist
            recon = self.vae.decode(posterior.sample()).sample
        loss, values = self.losses(recon.float(), image, posterior)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.vae.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.steps += 1
        self.tell(values)

    def losses(self, recon: Tensor, image: Tensor, posterior: Any) -> tuple[Tensor, dict[str, Tensor]]:
        l1, kl = F.l1_loss(recon, image), posterior.kl().mean()
        loss = l1 + KL_WEIGHT * kl
        return loss, {"loss": loss, "l1": l1, "kl": kl}

    def tell(self, values: dict[str, Tensor]) -> None:
        if self.steps % LOGGED_EVERY == 0:
            for name, value in values.items():
                self.writer.add_scalar(name, value.item(), self.steps)

    def end_epoch(self) -> None:
        torch.save({"vae": self.vae.state_dict(), "optimizer": self.optimizer.state_dict()}, self.saved)
        self.batches = iter(self.loader)


class ScriptLoop(PlainLoop):
    """In the manner of diffusers' training script for AutoencoderKL, without perceptual and adversarial loss.

    Squared error and KL are summed per image, and every step tells its losses and learning rate to the tracker and
    moves the progress bar.
    """

    def __init__(self, *arguments: Any) -> None:
        from tqdm.auto import tqdm

        super().__init__(*arguments)
        self.bar = tqdm(desc="Steps", file=sys.stdout)  # where Lightning's bar goes

    def losses(self, recon: Tensor, image: Tensor, posterior: Any) -> tuple[Tensor, dict[str, Tensor]]:
        squared = F.mse_loss(recon, image, reduction="none").sum() / len(image)
        kl = posterior.kl().sum() / len(image)
        loss = squared + KL_WEIGHT * kl
        return loss, {"loss": loss, "mse": squared, "kl": kl}

    def tell(self, values: dict[str, Tensor]) -> None:
        told = {name: value.item() for name, value in values.items()} | {"lr": self.schedule.get_last_lr()[0]}
        for name, value in told.items():
            self.writer.add_scalar(name, value, self.steps)
        self.bar.update(1)
        self.bar.set_postfix(**told)


class Clocks:
    """Seconds of the shipped training's steps, and of the steps of another loop between them.

    ours, others: each step within an epoch, with the fetching of its images. ends: of both sides, the end of an epoch
    with the first step of the next.
    """

    def __init__(self, other: PlainLoop | None) -> None:
        self.other = other
        self.ours: list[float] = []
        self.others: list[float] = []
        self.ends: list[tuple[float, float]] = []
        self._since: float | None = None

    def batch_ends(self, first_of_epoch: bool) -> None:
        """Called by the last callback: all until the next call is the other loop's or the next step of ours."""
        now = time.perf_counter()
        seconds = None if self._since is None else now - self._since
        if self.other is not None:
            if first_of_epoch and seconds is not None:
                self.other.end_epoch()
            self.other.step()
        others = time.perf_counter() - now
        if seconds is not None and first_of_epoch:
            self.ends.append((seconds, others))
        elif seconds is not None:
            self.ours.append(seconds)
            self.others.append(others)
        self._since = time.perf_counter()


def shipped_training(
    setting: Setting,
    folder: Path,
    out: Path,
    steps: int,
    precision: Precision = "32-true",
    squared: bool = False,
    autoencoder: Any = None,
    other: PlainLoop | None = None,
    workers: int = 0,
    channels_last: bool = False,
) -> tuple[Clocks, float]:
    """Lightning's loop over ``AutoencoderTraining`` with the shipped callbacks; without validation, which others lack.

    Returns the clocks of its steps and of the other loop's, run in turn, and, with workers, the share of time that
    waited for their images.
    """
    from lightning.pytorch import Callback, Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.loggers import TensorBoardLogger
    from lightning.pytorch.profilers import SimpleProfiler

    from layerscope.artifacts import open_run_directory
    from layerscope.callbacks.progress import ConditionProgressBar
    from layerscope.callbacks.run_folder import RunFolder
    from layerscope.callbacks.training_history import TrainingHistory
    from layerscope.losses import KL, MSE
    from layerscope.tasks.vae import AutoencoderTraining

    clocks = Clocks(other)

    class Turns(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            clocks.batch_ends(first_of_epoch=batch_idx == 0)

    task = AutoencoderTraining(
        setting.autoencoder() if autoencoder is None else autoencoder,
        losses=[MSE(reduction="sum_per_image"), KL(weight=KL_WEIGHT)] if squared else None,
        optimizer=partial(torch.optim.AdamW, lr=LEARNING_RATE),  # type: ignore[arg-type]
        channels_last=channels_last,
    )
    profiler = SimpleProfiler() if workers else None
    trainer = Trainer(
        accelerator="cpu",
        precision=precision,
        max_steps=steps,
        log_every_n_steps=LOGGED_EVERY,
        gradient_clip_val=1.0,
        limit_val_batches=0,
        use_distributed_sampler=False,
        enable_model_summary=False,
        profiler=profiler,
        logger=TensorBoardLogger(str(out), name="", version="", sub_dir="tensorboard", default_hp_metric=False),
        callbacks=[
            ConditionProgressBar(),
            ModelCheckpoint(out / "checkpoints", filename="last", enable_version_counter=False),
            TrainingHistory(),
            RunFolder(open_run_directory(out, True)),
            Turns(),
        ],
    )
    trainer.fit(task, datamodule=images_of(folder, setting.batch, workers))
    if profiler is None:
        return clocks, 0.0
    # Without the first step's, which starts the workers.
    waited = sum(profiler.recorded_durations["[_TrainingEpochLoop].train_dataloader_next"][1:])
    worked = sum(profiler.recorded_durations["run_training_batch"][1:])
    return clocks, waited / (waited + worked)


def alternating(
    setting: Setting,
    folder: Path,
    out: Path,
    steps: int,
    kind: type[PlainLoop] = PlainLoop,
    precision: Precision = "32-true",
    other_precision: Precision = "32-true",
    channels_last: bool = False,
) -> Clocks:
    """The shipped training and the other loop, a step of each in turn, so that a busy machine slows both alike."""
    autoencoder = setting.autoencoder()
    other = kind(copy.deepcopy(autoencoder), folder, setting.batch, other_precision, steps, out / "other")
    clocks, _ = shipped_training(
        setting,
        folder,
        out / "ours",
        steps,
        precision,
        kind is ScriptLoop,
        autoencoder,
        other,
        channels_last=channels_last,
    )
    return clocks


def plain_training(setting: Setting, folder: Path, out: Path, steps: int) -> None:
    """The plain loop by itself, for its memory."""
    loop = PlainLoop(setting.autoencoder(), folder, setting.batch, "32-true", steps, out)
    for done in range(steps):
        if done and done % len(loop.loader) == 0:
            loop.end_epoch()
        loop.step()
    loop.end_epoch()


def loader_rate(folder: Path, batch: int, workers: int, batches: int) -> float:
    """Images per second of the loader by itself, from the first batch on."""
    data = images_of(folder, batch, workers)
    data.setup("fit")
    read: Iterator[Any] = iter(data.train_dataloader())
    next(read)
    begun, images = time.perf_counter(), 0
    for _, found in zip(range(batches), read):
        images += len(found["image"])
    return images / (time.perf_counter() - begun)

"""Subjects of a pair diagnosis that fail, or are no autoencoder; they plug in by class_path, as a user's own would."""

from __future__ import annotations

import os
import signal
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from small_architectures import SMALL_KL
from torch import Tensor, nn

from layerscope.models.autoencoders import DiffusersAutoencoder


class FailingVae(DiffusersAutoencoder):
    """A small autoencoder that decodes ``after`` batches well, then fails.

    how: ``raise``, ``memory`` (as a device without memory does), ``sigint`` (the signal that Ctrl-C sends) or ``nan``:
        from then on a layer in the middle of the decoder gives NaN for the last image of a batch.
    """

    def __init__(self, how: str = "", after: int = 0) -> None:
        super().__init__(architecture=SMALL_KL | {"latent_channels": 4}, seed=0)
        self.how = how
        self.left = after
        if how == "nan":
            # Not by a hook: tests count those.
            layer = self.model.get_submodule("decoder.mid_block.resnets.1")
            whole = layer.forward
            layer.forward = lambda *given: self._spoiled(whole(*given))

    def decode(self, z: Tensor) -> Tensor:
        self.left -= 1
        if self.left < 0:
            match self.how:
                case "raise":
                    raise RuntimeError("the decoder broke")
                case "memory":
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
                case "sigint":
                    os.kill(os.getpid(), signal.SIGINT)
        return super().decode(z)

    def _spoiled(self, output: Tensor) -> Tensor:
        return torch.cat([output[:-1], output[-1:] * torch.nan]) if self.left < 0 else output


class FailingCallback(Callback):
    """Raises at the end of the batch ``after``."""

    def __init__(self, after: int = 1) -> None:
        self.after = after

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if batch_idx == self.after:
            raise RuntimeError("the callback broke")


class SmallNet(nn.Module):
    """A classifier whose layers are watched all, among them what a pair of images cannot be compared in.

    ``spare`` is never called, ``bias`` gives a table of ``heads`` rows, whatever the images.
    """

    def __init__(self, heads: int = 8) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.heads = heads
        self.conv = nn.Conv2d(3, heads, 3, stride=2, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.spare = nn.Linear(2, 2)
        self.bias = nn.Embedding(heads, 4)
        self.head = nn.Linear(heads, 3)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) / 3

    def forward(self, images: Tensor) -> Tensor:
        table = self.bias(torch.arange(self.heads, device=images.device))
        features = self.act(self.conv(images)) + table.mean()
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits


class OneLayer(nn.Module):
    """A single convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3, padding=1)
        nn.init.constant_(self.conv.weight, 0.1)

    def forward(self, images: Tensor) -> Tensor:
        answer: Tensor = self.conv(images)
        return answer


class AllSilent(nn.Module):
    """Has a layer and does not call it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)

    def forward(self, images: Tensor) -> Tensor:
        return images


class LargestChange:
    """A layer metric of a user's own: the largest change of one number of the activation."""

    name = "largest_change"

    def compare(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b).abs().flatten(1).amax(dim=1)

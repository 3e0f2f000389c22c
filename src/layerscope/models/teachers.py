"""Classifiers of timm as teachers: they judge images and show what they saw."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from layerscope.errors import ConfigurationError
from layerscope.models.image_input import IMAGENET_MEAN, IMAGENET_STD, channel_values, standardise
from layerscope.models.timm_models import create_timm_model, input_size_explained, load_timm_weights
from layerscope.models.weight_files import write_tensors
from layerscope.shipped import here_or_shipped
from layerscope.types import TeacherFeatures

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class TimmTeacher(nn.Module):
    """A timm classifier with one logit per label.

    It takes the datamodule's tensor, resizes and normalises it itself, and computes the last linear layer in float32
    whatever the precision of the rest. Like any new module it is in training mode; tasks call ``eval()``.

    Args:
        name: timm's name of the model, such as ``resnet10t`` or ``vit_small_patch16_224``.
        num_labels: number of logits; must be the schema's number of labels.
        checkpoint: file with trained weights: safetensors, a Lightning checkpoint, or a plain state dict. Loaded
            strictly and without executing anything; a common prefix of the keys (``model.``, ``teacher.model.``) is
            recognised.
        pretrained: start from timm's own weights with a new head; needs the network or timm's cache.
        model_kwargs: further arguments of ``timm.create_model``, such as ``img_size`` or ``drop_path_rate``.
        input_size: side of the square the images are resized to; None takes them as they come.
        mean, std: of the three channels in [0, 1], which the model expects to be subtracted and divided by.
        resize_filter: how ``input_size`` is reached, always antialiased.
        stages: how many of the deepest stages ``features`` shows; None shows all that timm knows.
        dtype: precision of everything but the last layer.

    Attributes:
        model: the timm module.

    Raises:
        ConfigurationError: a name or argument that timm does not know.
        WeightsError: weights that are missing, incomplete, of another model or of another number of labels.
    """

    def __init__(
        self,
        name: str,
        num_labels: int,
        checkpoint: str | None = None,
        pretrained: bool = False,
        model_kwargs: dict[str, Any] | None = None,
        input_size: int | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        resize_filter: Literal["bicubic", "bilinear"] = "bicubic",
        stages: int | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    ) -> None:
        super().__init__()
        if num_labels < 1:
            raise ConfigurationError(f"num_labels is {num_labels}: a teacher needs at least one label.")
        if input_size is not None and input_size < 1:
            raise ConfigurationError(f"input_size is {input_size}: expected a number of pixels, or null.")
        if stages is not None and stages < 0:
            raise ConfigurationError(f"stages is {stages}: expected how many of the deepest stages to show, or null.")
        if resize_filter not in ("bicubic", "bilinear"):
            raise ConfigurationError(f"resize_filter is {resize_filter!r}: expected bicubic or bilinear.")
        if dtype not in DTYPES:
            raise ConfigurationError(f"dtype is {dtype!r}: expected one of {', '.join(DTYPES)}.")
        if checkpoint is not None and pretrained:
            raise ConfigurationError("checkpoint and pretrained both say where weights come from: give one of them.")
        self.name = name
        self._num_labels = num_labels
        self.input_size = input_size
        self.resize_filter = resize_filter
        self.model = create_timm_model(
            name, num_labels, pretrained, model_kwargs or {}, reserved="num_labels, pretrained and checkpoint"
        )
        if checkpoint is not None:
            load_timm_weights(self.model, here_or_shipped(checkpoint), "teacher", num_labels)
        self._stage_names = _stage_names(self.model, stages)
        self.register_buffer("_mean", channel_values(mean or IMAGENET_MEAN, "mean"), persistent=False)
        self.register_buffer("_std", channel_values(std or IMAGENET_STD, "std"), persistent=False)
        if dtype != "float32":
            self.model.to(DTYPES[dtype])
            if (head := self._head()) is not None:
                head.float()

    @property
    def num_labels(self) -> int:
        """Number of logits."""
        return self._num_labels

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Names of the feature maps that ``features`` gives, shallow to deep, as timm names the modules."""
        return self._stage_names

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to logits float32 (B, L)."""
        x = self.normalise(image)
        with self._size_explained(x):
            last = self.model.forward_features(x)  # type: ignore[operator]
        return self._judge(last)[0]

    def features(self, image: Tensor) -> TeacherFeatures:
        """(B, 3, H, W) in [-1, 1] to logits, embedding (what the last layer reads) and the stages' feature maps."""
        x = self.normalise(image)
        with self._size_explained(x):
            if self._stage_names:
                last, maps = self.model.forward_intermediates(x, indices=len(self._stage_names))  # type: ignore[operator]
            else:
                last, maps = self.model.forward_features(x), []  # type: ignore[operator]
        logits, embedding = self._judge(last)
        return TeacherFeatures(logits, embedding, dict(zip(self._stage_names, maps, strict=True)))

    def normalise(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to what the model expects: resized, mean and std removed, in its precision."""
        size = None if self.input_size is None else (self.input_size, self.input_size)
        x = standardise(image, self._mean, self._std, size, self.resize_filter)  # type: ignore[arg-type]
        # Channels last: convolutions are faster for it (on a CPU 1.7 times for resnet10t).
        return x.to(next(self.model.parameters()).dtype, memory_format=torch.channels_last)

    def save(self, path: str | Path) -> None:
        """Writes the weights as one safetensors file, whole or not at all, which ``checkpoint`` reads."""
        write_tensors(path, self.model.state_dict())

    def _judge(self, last: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and embedding from the last feature map, the last layer in float32 also under autocast."""
        pre_logits: Tensor = self.model.forward_head(last, pre_logits=True)  # type: ignore[operator]
        embedding = pre_logits.float()
        head = self._head()
        if head is None:
            # Distilled models average two heads: only timm's own code knows how.
            logits: Tensor = self.model.forward_head(last)  # type: ignore[operator]
            return logits.float(), embedding
        with torch.autocast(embedding.device.type, enabled=False):
            if head.weight.dtype == torch.float32:
                return head(embedding), embedding
            # Lightning's bf16-true converts every weight, ours included.
            weights = {name: value.float() for name, value in head.named_parameters()}
            logits = torch.func.functional_call(head, weights, (embedding,))
        return logits, embedding

    def _head(self) -> nn.Linear | None:
        """The last layer, where it is one linear layer over the embedding."""
        head = self.model.get_classifier()  # type: ignore[operator]
        return head if isinstance(head, nn.Linear) else None

    def _size_explained(self, x: Tensor) -> AbstractContextManager[None]:
        return input_size_explained(
            self.name,
            x,
            "teacher",
            "Set the teacher's input_size to its size, or model_kwargs: {img_size: …} to build it for another one.",
        )


def _stage_names(model: nn.Module, stages: int | None) -> tuple[str, ...]:
    """timm's names of the deepest stages; numbered where several share one, none where the model shows none."""
    if not hasattr(model, "forward_intermediates"):
        return ()
    names = [str(info["module"]) for info in getattr(model, "feature_info", [])]
    if len(set(names)) < len(names):
        names = [f"stage{number}" for number in range(len(names))]
    return tuple(names if stages is None else names[max(len(names) - stages, 0) :])

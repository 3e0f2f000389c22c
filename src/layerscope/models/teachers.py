"""Classifiers of timm as teachers: they judge images and show what they saw."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layerscope.errors import ConfigurationError, WeightsError
from layerscope.models.weight_files import first_line, key_mismatch, name_keys, read_tensors, write_tensors
from layerscope.shipped import here_or_shipped
from layerscope.types import TeacherFeatures

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
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
        self.model = _create(name, num_labels, pretrained, model_kwargs or {})
        if checkpoint is not None:
            load_teacher_weights(self.model, here_or_shipped(checkpoint), num_labels)
        self._stage_names = _stage_names(self.model, stages)
        self.register_buffer("_mean", _channels(mean or list(IMAGENET_MEAN), "mean"), persistent=False)
        self.register_buffer("_std", _channels(std or list(IMAGENET_STD), "std"), persistent=False)
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
        if image.ndim != 4 or image.shape[1] != 3:
            raise ConfigurationError(f"A teacher takes images (B, 3, H, W) and was given {tuple(image.shape)}.")
        x = image.float()
        if self.input_size is not None and tuple(x.shape[-2:]) != (self.input_size, self.input_size):
            size = (self.input_size, self.input_size)
            x = F.interpolate(x, size=size, mode=self.resize_filter, align_corners=False, antialias=True)
        x = ((x + 1) / 2 - self._mean.float()) / self._std.float()  # type: ignore[operator]
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

    @contextlib.contextmanager
    def _size_explained(self, x: Tensor) -> Iterator[None]:
        """timm asserts the input size of models with fixed position tables."""
        try:
            yield
        except AssertionError as error:
            raise ConfigurationError(
                f"The teacher {self.name} does not take images of {x.shape[-1]} × {x.shape[-2]} pixels: "
                f"{str(error).rstrip('.')}. Set the teacher's input_size to its size, or model_kwargs: {{img_size: …}} "
                "to build it for another one."
            ) from error


def load_teacher_weights(model: nn.Module, path: str | Path, num_labels: int) -> None:
    """Copies the weights in a file into a timm model, all of them or none.

    Stored half-precision weights become those of the model's precision.

    Raises:
        WeightsError: as ``read_tensors``; or keys or shapes differ, or the file holds several such models.
    """
    stored = read_tensors(path)
    expected = dict(model.state_dict())
    found = _without_prefix(stored, expected, path)
    heads = {
        key: value.shape[0]
        for key in _head_weights(model)
        if (value := found.get(key)) is not None and value.shape[:1] != expected[key].shape[:1]
    }
    if heads:
        key, outputs = next(iter(heads.items()))
        raise WeightsError(
            f"The teacher's checkpoint {path} has {outputs} outputs ({key}) and the configuration asks for "
            f"{num_labels} labels. Set num_labels to {outputs} and give the label schema it was trained with, or train "
            f"a teacher for these {num_labels} labels."
        )
    # Counters of batches seen while training; they change no answer, and old files lack them.
    for key, value in expected.items():
        if key.endswith("num_batches_tracked"):
            found.setdefault(key, value)
    if problem := key_mismatch(expected, found):
        raise WeightsError(
            f"The teacher's checkpoint {path} does not fit the model. {problem} Check the teacher's name and "
            "model_kwargs against those it was trained with."
        )
    model.load_state_dict(found, strict=True)


def _without_prefix(
    stored: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: str | Path
) -> dict[str, Tensor]:
    """The part of the file that holds the model: under the prefix where most of the expected names are found."""
    hits: dict[str, int] = {}
    for key in stored:
        parts = key.split(".")
        for depth in range(len(parts)):
            if ".".join(parts[depth:]) in expected:
                prefix = "".join(f"{part}." for part in parts[:depth])
                hits[prefix] = hits.get(prefix, 0) + 1
    if not hits:
        raise WeightsError(
            f"The teacher's checkpoint {path} has none of the model's weights. Looked for {name_keys(expected)} after "
            f"any prefix; found {name_keys(stored)}. Check the teacher's name."
        )
    most = max(hits.values())
    best = [prefix for prefix, count in hits.items() if count == most]
    if len(best) > 1 and most > 1:
        raise WeightsError(
            f"The teacher's checkpoint {path} holds several such models, under {', '.join(repr(p) for p in best)}. "
            "Save the state dict of the one you mean alone."
        )
    prefix = best[0]
    return {key[len(prefix) :]: value for key, value in stored.items() if key.startswith(prefix)}


def _head_weights(model: nn.Module) -> list[str]:
    """Names of the weight of the last layer (of both, in distilled models)."""
    classifier = model.get_classifier()  # type: ignore[operator]
    heads = classifier if isinstance(classifier, tuple) else (classifier,)
    modules = {id(module): name for name, module in model.named_modules()}
    return [f"{modules[id(head)]}.weight" for head in heads if isinstance(head, nn.Linear) and id(head) in modules]


def _create(name: str, num_labels: int, pretrained: bool, model_kwargs: Mapping[str, Any]) -> nn.Module:
    """``timm.create_model``, imported here because that takes seconds."""
    import timm

    is_known = name.startswith(("hf-hub:", "hf_hub:", "local-dir:")) or timm.is_model(name)
    if not is_known:
        near = difflib.get_close_matches(name.split(".")[0], timm.list_models(), n=3)
        raise ConfigurationError(
            f"timm {timm.__version__} has no model {name!r}. "
            + (f"Did you mean {' or '.join(near)}?" if near else "timm.list_models() lists them.")
        )
    if taken := {"num_classes", "pretrained", "checkpoint_path"} & set(model_kwargs):
        raise ConfigurationError(
            f"model_kwargs sets {', '.join(sorted(taken))}, which the teacher sets itself: use num_labels, pretrained "
            "and checkpoint."
        )
    try:
        model: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=num_labels, **model_kwargs)
    except Exception as error:  # with the network involved, errors of several libraries
        reason = first_line(error)
        if pretrained:
            raise WeightsError(
                f"timm's weights of {name} could not be had: {reason} Without network, download the model's "
                "safetensors on another machine and give it as checkpoint, or train without pretrained."
            ) from error
        raise ConfigurationError(f"timm cannot build {name} with {dict(model_kwargs)}: {reason}") from error
    return model


def _stage_names(model: nn.Module, stages: int | None) -> tuple[str, ...]:
    """timm's names of the deepest stages; numbered where several share one, none where the model shows none."""
    if not hasattr(model, "forward_intermediates"):
        return ()
    names = [str(info["module"]) for info in getattr(model, "feature_info", [])]
    if len(set(names)) < len(names):
        names = [f"stage{number}" for number in range(len(names))]
    return tuple(names if stages is None else names[max(len(names) - stages, 0) :])


def _channels(values: list[float], what: str) -> Tensor:
    if len(values) != 3 or (what == "std" and min(values) <= 0):
        raise ConfigurationError(
            f"The teacher's {what} is {values}: expected three numbers{', positive' * (what == 'std')}."
        )
    return torch.tensor(values).view(1, 3, 1, 1)

"""What layerscope asks of the models and data it is given.

Anything importable that has these methods can be named by ``class_path`` in a configuration; no base class is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from layerscope.types import InputGeometry, LabelSet, PositionGrid, TeacherFeatures, TokenLayout


@runtime_checkable
class Posterior(Protocol):
    """The distribution an encoder gives for a batch of images; a deterministic encoder has ``std`` zero."""

    @property
    def mean(self) -> Tensor:
        """(B, C, h, w); the mode of a Gaussian posterior is its mean."""

    @property
    def std(self) -> Tensor:
        """(B, C, h, w), not negative."""


@runtime_checkable
class Autoencoder(Protocol):
    """An image autoencoder (a ``torch.nn.Module``) with a spatial latent."""

    @property
    def latent_channels(self) -> int: ...

    @property
    def downsampling(self) -> int:
        """Image pixels per latent position along each side."""

    def encode(self, x: Tensor) -> Posterior:
        """(B, 3, H, W) in [-1, 1], H and W multiples of ``downsampling``, to the posterior over raw latents."""

    def decode(self, z: Tensor) -> Tensor:
        """Raw latents (B, C, h, w) to images (B, 3, H, W), nominally in [-1, 1], not clamped."""

    def scale(self, z: Tensor) -> Tensor:
        """Raw latents to the units in which a diffusion model sees them (scaling and shift factors)."""

    def unscale(self, z: Tensor) -> Tensor:
        """The inverse of ``scale``."""


@runtime_checkable
class DiscreteLatents(Protocol):
    """An autoencoder that says whether its ``decode`` puts latents in the place of the nearest entry of a codebook."""

    @property
    def codebook_size(self) -> int | None:
        """Entries of the codebook, one of which stands at each latent position; None for a continuous latent."""


@runtime_checkable
class Teacher(Protocol):
    """A fixed multi-label classifier (a ``torch.nn.Module``) that judges images.

    It takes the datamodule's tensor, in [-1, 1] at any size, and does its own resizing and normalisation.
    """

    @property
    def num_labels(self) -> int: ...

    def __call__(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to logits (B, L)."""


@runtime_checkable
class FeatureTeacher(Teacher, Protocol):
    """A teacher that also shows its embedding and the feature maps of its stages."""

    def features(self, image: Tensor) -> TeacherFeatures:
        """(B, 3, H, W) in [-1, 1], in any memory layout.

        Maps of one layout whatever the image's are compared several times as fast (``TimmTeacher``: channels last).
        """


@runtime_checkable
class Denoiser(Protocol):
    """Estimates the clean latent from a noisy one, in the normalised units of the noise schedule."""

    def __call__(self, z: Tensor, alpha: float, sigma: float) -> Tensor:
        """z = alpha·z0 + sigma·eps (B, C, h, w) to an estimate of z0."""


@runtime_checkable
class LabelledData(Protocol):
    """The part of a datamodule that diagnosis and reports read besides the batches."""

    @property
    def labels(self) -> LabelSet: ...

    def evaluated_groups(self) -> list[str] | None:
        """Group (patient) of each row of the evaluated split; None where the data has no groups."""

    def data_hash(self, split: str) -> str:
        """SHA-256 over ids, image sizes and labels of a split."""


@runtime_checkable
class SplitIds(Protocol):
    """A datamodule that tells which images belong to which split without reading any."""

    def split_ids(self, split: str) -> list[str]:
        """Ids of train, val or test; none where the split is empty."""


@runtime_checkable
class NamedLayers(Protocol):
    """A model (a ``torch.nn.Module``) that says by which names users know its layers; any other is its own root."""

    @property
    def layer_root(self) -> nn.Module:
        """The module inside the adapter whose ``named_modules`` are the layers' names."""

    @property
    def default_layers(self) -> tuple[str, ...]:
        """Patterns (``layerscope.probes``) of the layers that are watched unless the user names others."""


@runtime_checkable
class GridLayers(Protocol):
    """A model whose activations are not (B, C, h, w) and that says where their image positions are."""

    def position_grid(self, shape: tuple[int, ...], image_size: tuple[int, int]) -> PositionGrid | None:
        """Of an activation of ``shape`` (B, ...) for images of (H, W) pixels; None where it has no positions."""


@runtime_checkable
class TokenEncoder(NamedLayers, Protocol):
    """A vision transformer (a ``torch.nn.Module``) whose tokens can be read after each of its blocks.

    ``default_layers`` names the blocks in the order of the computation; the output of each is all tokens, (B, T, D).
    It is called with images (B, 3, H, W) in [-1, 1] of the size that ``input_geometry`` gives, and normalises them.
    """

    @property
    def input_geometry(self) -> InputGeometry:
        """How pictures of any size become what the model sees."""

    def token_layout(self, image_size: tuple[int, int]) -> TokenLayout:
        """Of the T tokens for images of (H, W) pixels."""

    def final_norm(self, tokens: Tensor) -> Tensor:
        """The model's last normalisation of tokens (B, T, D) of any layer; the same tokens where it has none."""

    def __call__(self, image: Tensor) -> Any: ...


@runtime_checkable
class PooledTokens(Protocol):
    """A vision transformer that makes one token of all: an attention pooling head, or their mean."""

    def pool(self, tokens: Tensor) -> Tensor:
        """Tokens (B, T, D) after the final norm to (B, D)."""


@runtime_checkable
class TextAligned(Protocol):
    """A vision transformer whose tokens can be brought into the space of a text encoder."""

    def embed_text(self, text: str) -> Tensor:
        """(E,), on the device of the model."""

    def project(self, tokens: Tensor) -> Tensor:
        """Tokens (B, T, D) after the final norm to (B, T, E)."""


@runtime_checkable
class ProbedTask(Protocol):
    """A task (a ``LightningModule``) that watches layers; ``layerscope layers`` lists those it can watch."""

    def look(self, images: Tensor) -> dict[str, Tensor]:
        """Runs what is watched on images (B, 3, H, W) in [-1, 1], without gradient; activations of no module."""

    def watched_layers(self) -> tuple[nn.Module, Sequence[str] | None, Sequence[str]]:
        """The module whose ``named_modules`` are the layers' names, the layers to watch, and those to leave out.

        The latter two as ``layerscope.probes.selection.choose_layers`` takes them.
        """


@runtime_checkable
class LayerMetric(Protocol):
    """A figure of two activations of one layer, besides layerscope's own; computed inside the hook.

    name: unique, as it stands in the tables.
    """

    name: str

    def compare(self, a: Tensor, b: Tensor) -> Tensor:
        """Activations (B, ...) of the positives and of the negatives, in the run's precision, to (B,)."""


@runtime_checkable
class LossTerm(Protocol):
    """A part of a training loss (a ``torch.nn.Module``); ``layerscope.losses.LossTerm`` is a base class to derive from.

    name: unique within a sum; the value is logged under it. weight: factor in the sum.
    needs_noisy_recon, needs_labels: whether the term reads those parts of its inputs.
    """

    name: str
    weight: float
    needs_noisy_recon: bool
    needs_labels: bool

    def current_weight(self, batches: int) -> float:
        """The factor in the sum after so many training batches."""

    def __call__(self, inputs: Any) -> Tensor:
        """``layerscope.losses.LossInputs`` to a scalar, not weighted."""

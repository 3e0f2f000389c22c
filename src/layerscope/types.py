"""The typed values that travel between datamodules, tasks and callbacks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

ConditionKind = Literal["real", "recon", "noise", "control"]
PairRole = Literal["pair", "floor"]
ResizeFilter = Literal["bilinear", "bicubic", "lanczos", "box"]
TokenMetric = Literal["cosine", "dot_product"]
NormStage = Literal["before", "after"]

NEIGHBOUR_PAIRS = ("horizontal_right", "vertical_down")
"""Maps that between them hold each pair of patches with a common edge once."""

NEIGHBOUR_DIAGONALS = ("diagonal_down_right", "diagonal_down_left")

PATCH_REFERENCES = ("cls_similarity", "seed_similarity", "box_similarity", "text_similarity")
"""Maps of similarities of each patch with one token, region or text; those that exist."""

CKA_GROUP: int = 4
"""Rows of image pairs that are compared with one another by linear CKA, whose unbiased HSIC needs at least four.

Rows 0 to 3, 4 to 7, ... of a split are a group. Datamodules of pairs keep each on one process; it is whole in one batch
where ``batch_size`` is a multiple of this.
"""


class Batch(TypedDict):
    """What every image datamodule yields.

    image: float32 (B, 3, H, W) in [-1, 1].
    target: float32 (B, L) in {0, 1}; 0 where unknown.
    known: bool (B, L); False where the label is missing or uncertain.
    id: B strings, unique and stable.
    index: int64 (B,), the row in the split.
    """

    image: Tensor
    target: Tensor
    known: Tensor
    id: list[str]
    index: Tensor


@dataclass(frozen=True)
class Condition:
    """One version of the images that the teacher judges: the original, a reconstruction, a noise draw or a control.

    name: stable and printable: ``real``, ``recon``, ``t153``, ``jpeg_q75``; all draws of one step share it.
    t: step of the noise schedule; None unless ``kind == "noise"``.
    draw: number of the noise draw; None unless ``kind == "noise"``.
    log_snr: ln(alpha² / sigma²) of the schedule, in nats; None unless ``kind == "noise"``.
    """

    name: str
    kind: ConditionKind
    t: int | None = None
    draw: int | None = None
    log_snr: float | None = None


@dataclass(frozen=True)
class TeacherFeatures:
    """What a teacher saw.

    logits: (B, L), before the sigmoid.
    embedding: (B, D), the vector the classifier head reads; None where the teacher does not show it.
    stages: name to feature map (B, C, h, w), shallow to deep; empty where the teacher does not show them.
    """

    logits: Tensor
    embedding: Tensor | None = None
    stages: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class LabelSet:
    """The labels of a data set, in the order of the columns of ``target``."""

    names: tuple[str, ...]
    display_names: tuple[str, ...]
    evaluated: tuple[bool, ...]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class DiagnosisOutput:
    """What a bottleneck diagnosis saw of one batch; callbacks read it and never recompute.

    id: B sample ids; index: (B,) rows in the split; target, known: (B, L).
    logits: float32 (B, C, L), one row per condition, the original first and the reconstruction second.
    images: name of a condition to its images (B, 3, H, W) in [-1, 1]: "real", "recon" and the pictured noise steps.
    """

    id: list[str]
    index: Tensor
    target: Tensor
    known: Tensor
    logits: Tensor
    images: dict[str, Tensor]


@dataclass
class ReconstructedBatch:
    """What a reconstruction task saw of one batch; not frozen, since Lightning moves predictions by setting fields.

    id: B sample ids; index: (B,) rows in the split, -1 for the stand-in of a process without images.
    original: (B, 3, H, W) in [-1, 1]. recon: the same, on the 256 levels of an 8-bit file.
    psnr, ssim: (B,) of ``recon`` against ``original``; psnr in dB.
    """

    id: list[str]
    index: Tensor
    original: Tensor
    recon: Tensor
    psnr: Tensor
    ssim: Tensor


class AutoencoderRecord(TypedDict):
    """What a checkpoint of VAE training says of its autoencoder, under ``layerscope_autoencoder``; plain types only.

    config: its diffusers config with ``_class_name``, as it was when training began.
    start_hash: ``data.hashing.weights_hash`` of the starting autoencoder; None where weights were random.
    trained: which part learned. data_hash: of the train split; None where the data has none.
    losses, metrics: name to the last value. command: the command line of the training.
    """

    config: dict[str, Any]
    start_hash: str | None
    trained: Literal["all", "decoder", "encoder"]
    data_hash: str | None
    losses: dict[str, Any]
    metrics: dict[str, Any]
    command: str | None


@dataclass(frozen=True)
class ReconstructionOutput:
    """What a VAE's validation saw of one batch; callbacks read it and never recompute.

    id: B sample ids; index: int64 (B,), rows in the split, −1 for a stand-in.
    image, recon: float32 (B, 3, H, W) in [-1, 1]; the reconstruction is clamped to it.
    mean, std: (B, C, h, w) of the posterior, in raw latent units.
    """

    id: list[str]
    index: Tensor
    image: Tensor
    recon: Tensor
    mean: Tensor
    std: Tensor


class SkippedSample(NamedTuple):
    """An image or pair that could not be measured, and why; its row in the split counts as visited."""

    id: str
    row: int
    reason: str


class PairBatch(TypedDict):
    """What a datamodule of image pairs yields.

    role: "pair" for a positive image and its negative; "floor" for two images between which there is no finding.
    positive, negative: float32 (B, 3, H, W) in [-1, 1]; B may be 0 where every pair of the batch was skipped.
    mask: bool (B, H, W), True on the lesion; all False where there is none.
    has_mask: bool (B,), whether the pair came with a mask, be it an empty one.
    id: B strings, unique and stable. index: int64 (B,), the row in the split, −1 for a stand-in.
    skipped: pairs that belong to this batch and are not in it.
    """

    role: PairRole
    positive: Tensor
    negative: Tensor
    mask: Tensor
    has_mask: Tensor
    id: list[str]
    index: Tensor
    skipped: list[SkippedSample]


@dataclass(frozen=True)
class PairOutput:
    """What a pair diagnosis saw of one batch; callbacks read it and never recompute.

    role, id, index, positive, negative, mask, has_mask, skipped: as in ``PairBatch``.
    points: activations that belong to no module, in the order of the computation: "input" and, of an autoencoder,
        "latent" and "reconstruction"; each (2B, C, h, w), the B positives first.
    """

    role: PairRole
    id: list[str]
    index: Tensor
    positive: Tensor
    negative: Tensor
    mask: Tensor
    has_mask: Tensor
    points: dict[str, Tensor]
    skipped: list[SkippedSample]


class PositionGrid(NamedTuple):
    """Where the image positions of an activation are.

    channel_dim: dimension that holds the channels, never 0; the others behind the batch are positions.
    prefix: positions before the image's (CLS, registers). rows, columns: of the image's positions, row by row.
    """

    channel_dim: int
    prefix: int
    rows: int
    columns: int


@dataclass(frozen=True)
class InputGeometry:
    """How a picture of any size becomes the pixels that a model sees; all sizes are (H, W) in pixels.

    resize: what the whole picture is resized to; a single number is the shorter side, the proportions being kept; None
        leaves its size. step: with kept proportions, both sides become the nearest multiple of this, at least one.
    crop: size of the central part that is kept after resizing; None keeps all. crop_rounding: where an odd number of
        pixels is cut off, half of it is rounded ``down``, as in transformers, or to the ``even`` number, as in
        torchvision and timm.
    resize_filter: antialiased.
    smallest: pictures with fewer pixels along a side are refused: a patch of the model.
    """

    resize: int | tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    step: tuple[int, int] = (1, 1)
    resize_filter: ResizeFilter = "bicubic"
    smallest: tuple[int, int] = (1, 1)
    crop_rounding: Literal["down", "even"] = "down"

    def resized(self, picture: tuple[int, int]) -> tuple[int, int]:
        """(H, W) of a picture of (H, W) pixels after resizing; the longer side is rounded down, as torchvision does.

        >>> InputGeometry(resize=224).resized((300, 451)), InputGeometry(resize=224, step=(14, 14)).resized((300, 451))
        ((224, 336), (224, 336))
        """
        if isinstance(self.resize, tuple):
            return self.resize
        height, width = picture
        if self.resize is not None:
            short = min(picture)
            height, width = (self.resize * side // short for side in picture)
        tall, wide = (max(1, (2 * side + step) // (2 * step)) * step for side, step in zip((height, width), self.step))
        return tall, wide

    def size_of(self, picture: tuple[int, int]) -> tuple[int, int]:
        """(H, W) of what the model sees of a picture of (H, W) pixels."""
        return self.crop or self.resized(picture)


class TokenLayout(NamedTuple):
    """How a vision transformer's tokens stand in its sequence: the prefix, then the patches row by row.

    prefix: what each token before the patches is: ``cls``, ``distillation``, ``register``; empty for SigLIP.
    rows, columns: of the patches. covered: the upper left part of the image that they cover, (H, W) in pixels; None
        where they cover all of it.
    """

    prefix: tuple[str, ...]
    rows: int
    columns: int
    covered: tuple[int, int] | None = None


class TokenBatch(TypedDict):
    """What a datamodule yields whose images are looked at by vision transformers.

    image: float32 (B, 3, H, W) in [-1, 1], resized and cropped as the model takes it; B may be 0.
    other: what these are compared with: other images of the same shape, or the same ones as another model takes them;
        None where they are compared with neither. other_id: names of the other images, else None. other_mask,
        other_shown: as ``mask`` and ``shown``, of the same images as another model takes them; None without one.
    mask: bool (B, H, W), True on the lesion, placed as the image is; all False where there is none.
    has_mask: bool (B,).
    shown: float64 (B, 4), left, top, right and bottom of the part that ``image`` shows, in pixels of the picture in
        the file (upright, by EXIF). NumPy's: Lightning brings every tensor to the precision of the run, and in bfloat16
        pixel 1,501 is 1,504.
    id: B strings, unique and stable. index: int64 (B,), the row in the split, −1 for a stand-in.
    skipped: images that belong to this batch and are not in it.
    """

    image: Tensor
    other: Tensor | None
    other_id: list[str] | None
    other_mask: Tensor | None
    other_shown: NDArray[np.float64] | None
    mask: Tensor
    has_mask: Tensor
    shown: NDArray[np.float64]
    id: list[str]
    index: Tensor
    skipped: list[SkippedSample]


@dataclass(frozen=True)
class LayerTokens:
    """The tokens of one layer of B images, reduced.

    maps: name to (B, h, w) for a grid of R × C patches:
        ``horizontal_right`` (R, C−1), ``vertical_down`` (R−1, C), ``diagonal_down_right`` and ``diagonal_down_left``
        (R−1, C−1), similarity of a patch with its neighbour in that direction, at the place of the pair's left or upper
        one, for down-left at the place of its column less one;
        ``cls_similarity``, ``seed_similarity``, ``box_similarity``, ``text_similarity`` (R, C);
        ``seed_patches``, ``box_patches`` bool (R, C), which patches these are compared with;
        ``norms`` (R, C), Euclidean; ``high_norm`` bool (R, C);
        ``token_change`` (R, C), 1 − cosine of the token with that of the first view at the same place.
        Names are left out that do not exist or were not asked for.
    prefix_norms: (B, P), of CLS and registers.
    figures: name to (B,), what one image comes to in this layer; NaN where undefined.
    """

    maps: dict[str, Tensor]
    prefix_norms: Tensor
    figures: dict[str, Tensor]


@dataclass(frozen=True)
class TokenView:
    """One version of B images as one model sees it.

    name: ``image``; what it is compared with: ``other``, ``reconstruction``, ``other_model``, or a control's name.
    id: B names of what is shown, those of the images but for ``other``. model: its source. cls_source: what
        ``cls_similarity`` compares patches with, ``cls``, ``pooled`` or "" without one.
    image: (B, 3, H, W) in [-1, 1], the part that its patches cover. mask: bool (B, H, W), the lesion there. shown:
        float64 (B, 4), left, top, right and bottom of that part in pixels of the picture in the file.
    layout: of its tokens. layers: name to what was measured, in order.
    """

    name: str
    id: list[str]
    model: str
    cls_source: str
    image: Tensor
    mask: Tensor
    shown: NDArray[np.float64]
    layout: TokenLayout
    layers: dict[str, LayerTokens]


@dataclass(frozen=True)
class TokenOutput:
    """What a token diagnosis saw of one batch; callbacks read it and never recompute.

    id, index, has_mask, skipped: as in ``TokenBatch``. views: the images first, then what they are compared with;
    empty where B is 0. metric: of the similarities. norm: whether tokens were taken before or after the final norm.
    """

    id: list[str]
    index: Tensor
    has_mask: Tensor
    skipped: list[SkippedSample]
    views: list[TokenView]
    metric: TokenMetric
    norm: NormStage

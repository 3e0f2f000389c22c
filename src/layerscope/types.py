"""The typed values that travel between datamodules, tasks and callbacks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict

if TYPE_CHECKING:
    from torch import Tensor

ConditionKind = Literal["real", "recon", "noise", "control"]
PairRole = Literal["pair", "floor"]

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


class SkippedPair(NamedTuple):
    """A pair that could not be measured, and why; its row in the split counts as visited."""

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
    skipped: list[SkippedPair]


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
    skipped: list[SkippedPair]


class PositionGrid(NamedTuple):
    """Where the image positions of an activation are.

    channel_dim: dimension that holds the channels, never 0; the others behind the batch are positions.
    prefix: positions before the image's (CLS, registers). rows, columns: of the image's positions, row by row.
    """

    channel_dim: int
    prefix: int
    rows: int
    columns: int

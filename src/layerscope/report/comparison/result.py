"""What a comparison found: two tables, from which its figures, texts and files are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from layerscope.report.rows import MACRO, Row

ComparisonKind = Literal["bottleneck", "classifier"]

RECON = "recon"
"""The condition of a reconstruction without latent noise."""

REAL = "real"
"""The condition of the original images, under which classifiers are compared."""

FORCED_FLAG = "forced: runs are not comparable"
"""In every row of a comparison whose runs differ where they ought to be equal."""

SEED_FLAGS: Mapping[int, str] = {
    1: "one training seed: spread between seeds unknown",
    2: "two training seeds: the interval holds the truth less often than it says",
}
"""Fewer training seeds on either side to what the row of a difference says on them."""

HIGHER_IS_BETTER: Mapping[str, bool] = {
    "auroc": True,
    "delta_auroc": True,
    "ap": True,
    "delta_ap": True,
    "flip_rate": False,
    "negative_flip_rate": False,
    "mean_abs_delta_p": False,
    "collapse_log_snr_eff": False,
    "retained_area": True,
    "psnr_db": True,
    "ssim": True,
    "lpips": False,
    "latent_elements": False,
    "latent_bits": False,
    "rate_bits": False,
    "encode_seconds": False,
    "decode_seconds": False,
}
"""Metrics of a comparison and their direction.

auroc, ap: of the teacher under a condition; delta_auroc, delta_ap: less that on real images, negative is a loss.
collapse_log_snr_eff: the effective log-SNR at which half of what the teacher knew is lost; lower stands more noise.
retained_area: share of the area under the t-curve above chance that is left. latent_elements, latent_bits, rate_bits:
of one image; encode_seconds, decode_seconds: of one image, on the device of the run.
"""


@dataclass(frozen=True)
class Comparison:
    """Candidates of one teacher on the same images.

    candidates: names in the order given. runs: candidate to the names of its runs, one a training seed.
    baseline: the candidate that others are held against, or None.
    labels: evaluated labels in the order of the data; display: label to what figures show. left_out: label to why it
        is in no average.
    figures: rows of comparison.csv; pairwise: rows of pairwise.csv (``artifacts.tables`` has the columns).
    controls: known degradations to their change of macro AUROC, from the first run; empty without any.
    auroc_real: of the teacher on real images, macro over the labels that are averaged.
    margin: a difference of macro AUROC that would matter. level: of all intervals.
    n_samples, n_groups: images, and patients; None where the data names none.
    mismatches: what differs between runs that ought to be equal; only where the comparison was forced.
    not_measured: records ``what`` and ``reason``.
    """

    kind: ComparisonKind
    candidates: Sequence[str]
    runs: Mapping[str, Sequence[str]]
    baseline: str | None
    labels: Sequence[str]
    display: Mapping[str, str]
    left_out: Mapping[str, str]
    figures: Sequence[Row]
    pairwise: Sequence[Row]
    controls: Mapping[str, float]
    auroc_real: float
    margin: float
    level: float
    n_samples: int
    n_groups: int | None
    mismatches: Sequence[str]
    not_measured: Sequence[Mapping[str, str]]

    def of(self, candidate: str, metric: str, label: str = MACRO, condition: str = RECON) -> Row | None:
        """The candidate's own row; None where the metric was not measured."""
        wanted = ("", candidate, metric, label, condition)
        for row in self.figures:
            if tuple(row[name] for name in ("run", "candidate", "metric", "label", "condition")) == wanted:
                return row
        return None

    def pair(self, candidate: str, other: str, metric: str, label: str = MACRO, condition: str = RECON) -> Row | None:
        """The row of ``candidate`` minus ``other``, as it is stored; None where it was not measured."""
        wanted = (candidate, other, metric, label, condition)
        for row in self.pairwise:
            if tuple(row[name] for name in ("candidate", "other", "metric", "label", "condition")) == wanted:
                return row
        return None

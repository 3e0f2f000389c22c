"""Linear CKA of every layer over groups of pairs, with bootstrap intervals, and why it is missing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from layerscope.artifacts.layer_scores import FloatArray, LayerScores
from layerscope.functional.bootstrap import percentile_interval, resample_weights
from layerscope.functional.resampled_moments import resampled_moments
from layerscope.types import CKA_GROUP

FEW_GROUPS = 10
"""With fewer groups of pairs an interval is rough, and CKA ranks no layers.

Simulated pairs of 16 features with a CKA of .67: 95 % intervals of 2, 5, 10 and 40 groups held it in 52, 80, 90 and
94 % of runs, and the values' standard deviation was .32, .19, .13 and .07.
"""


@dataclass(frozen=True)
class LayerCKA:
    """All (L,); 1 where a layer represents both sides of the pairs alike.

    value: NaN where undefined. lo, hi: percentile interval over groups; NaN with fewer than two.
    groups: of pairs, behind it. flag: L texts, what is undefined or rough, and why; empty where nothing is.
    """

    value: FloatArray
    lo: FloatArray
    hi: FloatArray
    groups: NDArray[np.int64]
    flag: list[str]

    @property
    def to_rank(self) -> FloatArray:
        """(L,), the values that may rank layers; NaN where fewer than ``FEW_GROUPS`` groups are behind one."""
        return np.where(self.groups >= FEW_GROUPS, self.value, np.nan)

    @property
    def ranks(self) -> bool:
        """Whether there is anything to rank by."""
        return bool(np.isfinite(self.to_rank).any())


def layer_cka(hsic: FloatArray, level: float, n_resamples: int, seed: int) -> LayerCKA:
    """ΣHSIC₁(K, L) / √(ΣHSIC₁(K, K)·ΣHSIC₁(L, L)) over groups, the sums first and the ratio last.

    HSIC₁ is unbiased for any number of samples (Song et al. 2012; sums over minibatches: Nguyen et al. 2021, arXiv
    2010.15327), so sums over groups estimate what one group of all pairs would give; a mean of groups' ratios, or
    of the biased estimate, is another and larger number. NaN where a sum below the root is not positive. At most about
    1; noise of few groups can take it beyond, or below 0. Resamples draw whole groups.

    Args:
        hsic: (G, L, 3), see ``LayerScores.cka_hsic``; where one of the three is not finite a layer's group is left out.
        level: of the interval, in (0, 1); n_resamples, seed: of the bootstrap.
    """
    known: NDArray[np.bool_] = np.asarray(np.isfinite(hsic).all(axis=2))
    hsic = np.where(known[:, :, None], hsic, np.nan)
    groups = known.sum(axis=0).astype(np.int64)
    value = _ratio(hsic, np.ones((1, len(hsic))))[0]
    lo, hi, undefined = percentile_interval(_ratio(hsic, resample_weights(len(hsic), n_resamples, seed)), level)
    no_interval = np.isnan(value) | (groups < 2)
    return LayerCKA(
        value=value,
        lo=np.where(no_interval, np.nan, lo),
        hi=np.where(no_interval, np.nan, hi),
        groups=groups,
        flag=[_flag(*one, n_resamples) for one in zip(value.tolist(), groups.tolist(), undefined.tolist())],
    )


def cka_not_measured(scores: LayerScores, cka: LayerCKA) -> list[dict[str, str]]:
    """Rows of the summary: what of linear CKA is missing, and why."""
    lost, possible = scores.cka_possible - len(scores.cka_hsic), scores.cka_possible
    broken = (
        f"{lost} of {possible} groups of {CKA_GROUP} pairs {'is' if lost == 1 else 'are'} broken by skipped pairs: a "
        f"skipped pair takes its group's up to {CKA_GROUP - 1} others along"
    )
    if not len(scores.cka_hsic):
        if len(scores.id) < CKA_GROUP:
            reason = f"too few pairs: {len(scores.id)}, and a group takes {CKA_GROUP}"
        elif not possible:
            reason = f"no batch holds whole groups: data.init_args.batch_size must be a multiple of {CKA_GROUP}"
        else:
            reason = broken
        return [{"what": "linear CKA", "reason": reason}]
    missing = [{"what": "part of linear CKA", "reason": broken}] if lost else []
    undefined = np.flatnonzero(np.isnan(cka.value))
    if len(undefined):
        names = ", ".join(scores.layer[row] for row in undefined)
        what = "linear CKA" if len(undefined) == len(scores.layer) else f"linear CKA of {names}"
        missing.append({"what": what, "reason": "; ".join(dict.fromkeys(cka.flag[row] for row in undefined))})
    if np.isfinite(cka.value).any() and not cka.ranks:
        missing.append({"what": "rank by linear CKA", "reason": few_groups(cka)})
    return missing


def few_groups(cka: LayerCKA) -> str:
    """Why linear CKA ranks no layers, for tables."""
    most = int(cka.groups.max(initial=0))
    return f"{most} group{'s' * (most != 1)} of {CKA_GROUP} pairs, and a rank takes {FEW_GROUPS}"


def _ratio(hsic: FloatArray, weights: NDArray[np.floating]) -> FloatArray:
    """(B, L) from hsic (G, L, 3) and weights (B, G); means in place of sums, whose number cancels."""
    _, mean, _ = resampled_moments(hsic, weights)
    kl, kk, ll = np.moveaxis(mean, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where((kk > 0) & (ll > 0), kl / (np.sqrt(kk) * np.sqrt(ll)), np.nan))


def _flag(value: float, groups: int, undefined: int, n_resamples: int) -> str:
    if not groups:
        return "no group has a value"
    if np.isnan(value):
        return "the layer does not vary over pairs, or too few groups tell whether it does"
    if groups < 2:
        return "one group: no interval"
    parts = [f"fewer than {FEW_GROUPS} groups: interval is rough"] if groups < FEW_GROUPS else []
    if undefined:
        parts.append(f"undefined in {undefined} of {n_resamples} resamples, which the interval leaves out")
    return "; ".join(parts)

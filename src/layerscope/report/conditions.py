"""The conditions of a diagnosis, each with the score rows of its noise draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from layerscope.artifacts.scores import BottleneckScores


@dataclass(frozen=True)
class ConditionGroup:
    """One condition: its name, where it lies on the noise schedule, and its rows in ``BottleneckScores.logits``.

    t: step, or None without noise. log_snr, log_snr_eff: nats, NaN without noise. rows: one per draw;
    draws: their numbers.
    """

    name: str
    kind: str
    t: int | None
    log_snr: float
    log_snr_eff: float
    rows: tuple[int, ...]
    draws: tuple[int, ...] = ()


def group_conditions(scores: BottleneckScores) -> list[ConditionGroup]:
    """Real, recon, the noise steps from little to much noise, then the controls in their own order."""
    rows: dict[tuple[str, str], list[int]] = {}
    for row, (kind, name) in enumerate(zip(scores.kind, scores.condition)):
        rows.setdefault((str(kind), str(name)), []).append(row)
    groups = []
    for (kind, name), members in rows.items():
        first = members[0]
        groups.append(
            ConditionGroup(
                name=name,
                kind=kind,
                t=int(scores.t[first]) if kind == "noise" else None,
                log_snr=float(scores.log_snr[first]),
                # Measured per draw where the latent's own scale enters; one number serves as the axis.
                log_snr_eff=float(np.mean(scores.log_snr_eff[members])),
                rows=tuple(members),
                draws=tuple(int(scores.draw[row]) for row in members) if kind == "noise" else (),
            )
        )
    order = {"real": 0, "recon": 1, "noise": 2, "control": 3}
    return sorted(groups, key=lambda g: (order[g.kind], -g.log_snr if g.kind == "noise" else 0.0))

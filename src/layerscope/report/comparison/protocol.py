"""How runs were made, where that does not forbid a comparison but limits it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from layerscope.artifacts.scores import BottleneckScores
from layerscope.errors import listed
from layerscope.report.comparison.runs import ComparedRun
from layerscope.report.conditions import ConditionGroup, group_conditions
from layerscope.report.sentences import joined

STEP_PROTOCOL = ("schedule", "convention", "noise_seed", "latent_normalisation", "denoiser")
"""Must be equal for two runs to be compared step by step."""
CURVE_PROTOCOL = ("convention", "latent_normalisation", "denoiser")
"""Must be equal for curves over effective log-SNR: they need neither the same steps nor the same draws."""

# Nats. One schedule computes its log-SNR twice alike; effective ones are measured.
_EXACT, _MEASURED = 1e-6, 0.1

OTHER_NOISE = "noise differs: other latent shape"


def noise(run: ComparedRun, name: str) -> Any:
    """An entry of what the run's summary says on its noise; None where it says nothing."""
    return (run.summary.get("noise") or {}).get(name)


def differing(runs: Sequence[ComparedRun], names: Sequence[str]) -> list[str]:
    """Those of the names whose entry on noise is not the same in all runs."""
    return [name for name in names if any(noise(run, name) != noise(runs[0], name) for run in runs[1:])]


def same_noise(steps: Sequence[ConditionGroup]) -> bool:
    """Whether noise steps of one name are one noise: a name tells the step of a schedule, not what it does to latents.

    Effective log-SNR is measured where latents have a scale of their own, and may differ by a tenth of a nat.
    """
    first = steps[0]
    return all(
        np.isclose(one.log_snr, first.log_snr, rtol=_EXACT, atol=_EXACT, equal_nan=True) for one in steps[1:]
    ) and all(
        # Held against each other, not the first: three may lie apart by more than two do.
        np.isclose(one.log_snr_eff, other.log_snr_eff, rtol=0, atol=_MEASURED, equal_nan=True)
        for one, other in combinations(steps, 2)
    )


def unequal_steps(runs: Sequence[ComparedRun]) -> dict[str, dict[str, ConditionGroup]]:
    """Noise steps that are not one noise in all runs that have them: name to what it is in each run, by title."""
    found: dict[str, dict[str, ConditionGroup]] = {}
    for run in runs:
        for step in _noise_steps(run):
            found.setdefault(step.name, {})[run.title] = step
    return {name: steps for name, steps in found.items() if not same_noise(list(steps.values()))}


def unranked_steps(runs: Sequence[ComparedRun]) -> set[str]:
    """Noise steps at which not all runs can be held against each other."""
    if differing(runs, STEP_PROTOCOL):
        return {step.name for run in runs for step in _noise_steps(run)}
    return set(unequal_steps(runs))


def device_of_times(run: ComparedRun) -> str | None:
    """Where the run's times were taken."""
    device = (run.summary.get("cost") or {}).get("device") or run.summary.get("device")
    return None if device is None else str(device)


def caveats(runs: Sequence[ComparedRun]) -> list[dict[str, str]]:
    """Records ``what`` and ``reason`` on everything that differs and limits what can be compared."""
    missing = _unchecked(runs)
    for name in ("precision", "device"):
        values = {run.title: run.summary.get(name) for run in runs}
        if len(set(values.values())) > 1:
            missing.append({"what": f"the same {name}", "reason": _values(values)})
    if runs[0].kind == "classifier":
        return missing
    if "posterior" in differing(runs, ["posterior"]):
        missing.append(
            {"what": "the same posterior", "reason": _values({r.title: noise(r, "posterior") for r in runs})}
        )
    for name in differing(runs, STEP_PROTOCOL):
        reason = f"{_values({run.title: noise(run, name) for run in runs})}; steps are compared only where it is equal"
        missing.append({"what": f"noise steps with the same {name}", "reason": reason})
    if differing(runs, ["latent_shape"]):
        reason = f"{_values({run.title: noise(run, 'latent_shape') for run in runs})}; still paired by image"
        missing.append({"what": "the same noise for latents of other shapes", "reason": reason})
    unequal = unequal_steps(runs)
    if unequal:
        name = next(iter(unequal))
        at = {title: f"{one.log_snr:.2f} ({one.log_snr_eff:.2f})" for title, one in unequal[name].items()}
        reason = f"log-SNR (effective) of {name} is {_values(at)}; steps are compared only where both agree"
        missing.append({"what": f"noise steps {listed(list(unequal))} as one noise", "reason": reason})
    steps = {run.title: _steps(run) for run in runs}
    if len(set(steps.values())) > 1:
        missing.append({"what": "noise steps or draws that not all runs have", "reason": _values(steps)})
    return missing


def _unchecked(runs: Sequence[ComparedRun]) -> list[dict[str, str]]:
    """What ought to be equal and cannot be held against each other."""
    hashes: dict[str, list[Any]] = {"data": [run.summary.get("data_hash") for run in runs]}
    if runs[0].kind == "bottleneck":
        hashes["teacher"] = [(run.summary.get("model_hashes") or {}).get("teacher") for run in runs]
    missing = []
    for what, values in hashes.items():
        without = [run.title for run, value in zip(runs, values) if not value]
        if without:
            reason = f"no hash in the summary of {listed(without)}: not checked there"
            missing.append({"what": f"whether the {what} is the same", "reason": reason})
    if runs[0].kind == "classifier":
        reason = "no run records the pixels that its classifier saw: cropping, resizing and colours may differ"
        missing.append({"what": "whether images were preprocessed alike", "reason": reason})
    return missing


def _steps(run: ComparedRun) -> str:
    return ", ".join(f"{one.name} ×{len(one.rows)}" for one in _noise_steps(run)) or "none"


def _noise_steps(run: ComparedRun) -> list[ConditionGroup]:
    if not isinstance(run.scores, BottleneckScores):
        return []
    return [one for one in group_conditions(run.scores) if one.kind == "noise"]


def _values(values: dict[str, Any]) -> str:
    """What the runs have, those of one value together: ``a: 1; b, c and d: 2``."""
    of: dict[str, list[str]] = {}
    for title, value in values.items():
        of.setdefault("not known" if value is None else str(value), []).append(title)
    return "; ".join(f"{joined(titles)}: {value}" for value, titles in of.items())

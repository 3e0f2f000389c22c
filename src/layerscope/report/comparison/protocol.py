"""How runs were made, where that does not forbid a comparison but limits it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from layerscope.report.comparison.runs import ComparedRun
from layerscope.report.conditions import group_conditions
from layerscope.report.sentences import joined

STEP_PROTOCOL = ("schedule", "convention", "noise_seed", "latent_normalisation", "denoiser")
"""Must be equal for two runs to be compared step by step."""
CURVE_PROTOCOL = ("convention", "latent_normalisation", "denoiser")
"""Must be equal for curves over effective log-SNR: they need neither the same steps nor the same draws."""

OTHER_NOISE = "noise differs: other latent shape"


def noise(run: ComparedRun, name: str) -> Any:
    """An entry of what the run's summary says on its noise; None where it says nothing."""
    return (run.summary.get("noise") or {}).get(name)


def differing(runs: Sequence[ComparedRun], names: Sequence[str]) -> list[str]:
    """Those of the names whose entry on noise is not the same in all runs."""
    return [name for name in names if any(noise(run, name) != noise(runs[0], name) for run in runs[1:])]


def device_of_times(run: ComparedRun) -> str | None:
    """Where the run's times were taken."""
    device = (run.summary.get("cost") or {}).get("device") or run.summary.get("device")
    return None if device is None else str(device)


def caveats(runs: Sequence[ComparedRun]) -> list[dict[str, str]]:
    """Records ``what`` and ``reason`` on everything that differs and limits what can be compared."""
    missing = []
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
    steps = {run.title: _steps(run) for run in runs}
    if len(set(steps.values())) > 1:
        missing.append({"what": "noise steps or draws that not all runs have", "reason": _values(steps)})
    return missing


def _steps(run: ComparedRun) -> str:
    found = [one for one in group_conditions(run.scores) if one.kind == "noise"]  # type: ignore[arg-type]
    return ", ".join(f"{one.name} ×{len(one.rows)}" for one in found) or "none"


def _values(values: dict[str, Any]) -> str:
    """What the runs have, those of one value together: ``a: 1; b, c and d: 2``."""
    of: dict[str, list[str]] = {}
    for title, value in values.items():
        of.setdefault("not known" if value is None else str(value), []).append(title)
    return "; ".join(f"{joined(titles)}: {value}" for value, titles in of.items())

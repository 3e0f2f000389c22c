"""The one figure of a result that stands for it in a table of runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Headline:
    """``headline`` of summary.json; every task writes one.

    figure: what the value is. value: None where it is not defined, or infinite. ci_lo, ci_hi: its interval; None
    where there is none. NaN and infinities become null in JSON (``to_plain``).
    """

    figure: str
    value: float | None = None
    ci_lo: float | None = None
    ci_hi: float | None = None

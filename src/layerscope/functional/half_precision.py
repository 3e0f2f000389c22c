"""Whether activations fit float16, judged by the largest ones seen in float32."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

FP16_MAX = 65504.0
"""The largest finite float16."""

FP16_MARGIN = 4.0
"""How many times the largest activation seen must fit: other images give larger ones than those that were tried."""

HalfPrecisionWord = Literal["safe", "marginal", "overflows"]


@dataclass(frozen=True)
class HalfPrecisionVerdict:
    """``safe``: ``FP16_MARGIN`` times the largest activation fits float16; ``marginal``: it fits, the margin does not;
    ``overflows``: it is larger than ``FP16_MAX`` or not finite.

    block: where the largest was seen. largest: max |activation|. limit, margin: the two numbers above.
    """

    verdict: HalfPrecisionWord
    block: str
    largest: float
    limit: float = FP16_MAX
    margin: float = FP16_MARGIN


def half_precision_verdict(largest: Mapping[str, float]) -> HalfPrecisionVerdict:
    """The verdict over blocks; ``largest`` gives max |activation| of each, in float32.

    >>> half_precision_verdict({"encoder.conv_in": 12.0, "decoder.mid_block": 20000.0})
    HalfPrecisionVerdict(verdict='marginal', block='decoder.mid_block', largest=20000.0, limit=65504.0, margin=4.0)
    """
    block = max(largest, key=lambda name: math.inf if math.isnan(largest[name]) else largest[name])
    value = largest[block]
    word: HalfPrecisionWord
    if not math.isfinite(value) or value > FP16_MAX:
        word = "overflows"
    else:
        word = "marginal" if value * FP16_MARGIN > FP16_MAX else "safe"
    return HalfPrecisionVerdict(word, block, value)

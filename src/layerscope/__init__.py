"""layerscope trains image VAEs and finds out where a vision model loses what matters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layerscope.token_similarity import TokenSimilarityAnalyzer as TokenSimilarityAnalyzer

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Imported when first asked for: torch and Lightning take seconds, and the command's help needs neither."""
    if name == "TokenSimilarityAnalyzer":
        from layerscope.token_similarity import TokenSimilarityAnalyzer

        return TokenSimilarityAnalyzer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

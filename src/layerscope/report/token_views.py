"""How the versions of an image that were compared are called."""

from __future__ import annotations

from layerscope.report.sentences import control_in_words

_WORDS = {"image": "image", "other": "other image", "reconstruction": "reconstruction", "other_model": "other model"}


def view_words(view: str) -> str:
    """A view (``types.TokenView``) without an article.

    >>> view_words("other"), view_words("jpeg_q75")
    ('other image', 'JPEG at quality 75')
    """
    return _WORDS.get(view) or control_in_words(view)


def is_control(view: str) -> bool:
    """Whether a view is a known degradation, and no comparison that was asked for."""
    return view not in _WORDS

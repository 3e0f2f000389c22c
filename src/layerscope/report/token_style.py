"""How the pictures of token similarities look, as a user sets it."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from typing import get_args

import matplotlib

from layerscope.errors import ConfigurationError
from layerscope.report.figure_style import FigureFormat


@dataclass
class TokenPictures:
    """Which pictures are made of an image's token similarities, and how they look.

    Args:
        cmap: name of a matplotlib colour map, for maps of similarities and norms. Differences have a map of their own,
            with white at 0.
        figsize: width and height of the combined figure in inches; None chooses what fits. Where it is too small for
            the text, the text gets smaller with it.
        dpi: pixels an inch.
        format: of figures; overlays on the image are always PNG.
        save_individual: a file for every map, its overlay on the image and, with several layers, its layers.
        save_combined: all maps of an image in one figure.
        limit: only the first so many images, by row, get pictures; 0: none.

    Raises:
        ConfigurationError: a colour map that matplotlib does not have, or a size that is not positive.
    """

    cmap: str = "viridis"
    figsize: tuple[float, float] | None = None
    dpi: int = 150
    format: FigureFormat = "png"
    save_individual: bool = True
    save_combined: bool = True
    limit: int = 20

    def __post_init__(self) -> None:
        if self.cmap not in matplotlib.colormaps:
            close = difflib.get_close_matches(str(self.cmap), list(matplotlib.colormaps), n=3, cutoff=0.5)
            raise ConfigurationError(
                f"matplotlib {matplotlib.__version__} has no colour map named {self.cmap!r}, which cmap asks for. "
                + (f"Names like it: {', '.join(close)}." if close else "Take for example viridis, cividis or magma.")
            )
        if self.figsize is not None and not (
            len(self.figsize) == 2 and all(math.isfinite(side) and side > 0 for side in self.figsize)
        ):
            raise ConfigurationError(
                f"figsize is {list(self.figsize)}. It has to be two positive numbers, the width and height of the "
                "combined figure in inches; leave it out for a size that fits."
            )
        if self.dpi < 1:
            raise ConfigurationError(
                f"dpi is {self.dpi}. It has to be positive, the pixels an inch of the figures; 150 suits a screen, "
                "300 a print."
            )
        if self.format not in get_args(FigureFormat):
            raise ConfigurationError(
                f"format is {self.format!r}, and figures can be written as {', '.join(get_args(FigureFormat))}."
            )
        if self.limit < 0:
            raise ConfigurationError(
                f"limit is {self.limit}. It has to be the number of images that get pictures; 0 makes none."
            )

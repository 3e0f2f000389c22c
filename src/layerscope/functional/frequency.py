"""At which detail a reconstruction errs: the squared error split into octaves of spatial frequency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from layerscope.errors import ConfigurationError


@dataclass(frozen=True)
class Band:
    """The waves from ``shortest`` (included) to ``longest`` (excluded) pixels; without a longest, all longer ones.

    A spot of d pixels has most of its energy in waves around 2·d pixels, and little in those much shorter than d.
    """

    shortest: int
    longest: int | None

    @property
    def name(self) -> str:
        """``band_2_4`` for waves of 2 to 4 pixels, ``band_64_up`` for the last."""
        return f"band_{self.shortest}_{'up' if self.longest is None else self.longest}"

    @property
    def cycles_per_pixel(self) -> tuple[float, float]:
        """Radial frequency, from (excluded; 0 itself is in the last band) and to (included)."""
        return (0.0 if self.longest is None else 1 / self.longest, 1 / self.shortest)


OCTAVES = (*(Band(2**k, 2 ** (k + 1)) for k in range(6)), Band(64, None))
"""``band_1_2`` to ``band_32_64`` and ``band_64_up``: the same names at every image size.

``band_1_2`` holds frequencies above the Nyquist frequency of a row or column, (½, 1/√2], which only diagonal patterns
have. ``band_64_up`` holds the mean as well; a band that has no frequency in a small image has no error there: zero.
"""


def band_error(recon: Tensor, image: Tensor, bands: Sequence[Band] = OCTAVES) -> Tensor:
    """Mean squared error of each image by band, (B, 3, H, W) twice to (B, K); lower is better.

    With E the two-dimensional discrete Fourier transform of recon − image, frequencies (k_y/H, k_x/W) in cycles per
    pixel and f their radius, band k gets Σ |E|² over f in its range, divided by 3·H·W and by the H·W of the
    transform. By Parseval's theorem the bands sum to the mean squared error of the image, whatever its shape; the
    unit is that of the squared error, (half of the peak-to-peak range)² for images in [-1, 1]. Since frequencies are
    per pixel, an image that is not square has the same bands, with more frequencies along its longer side.

    >>> x = torch.arange(8.0)
    >>> wave = torch.cos(2 * torch.pi * x / 4).expand(1, 3, 8, 8)  # 4 pixels long: in band_4_8, mean square ½
    >>> band_error(wave, torch.zeros(1, 3, 8, 8)).round(decimals=4).tolist()
    [[0.0, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0]]
    """
    if bands[0].shortest != 1 or [band.longest for band in bands] != [*(band.shortest for band in bands[1:]), None]:
        raise ConfigurationError(
            f"The frequency bands {[band.name for band in bands]} leave gaps or overlap, so their errors would not sum "
            "to the mean squared error: begin at 1 pixel, let each begin where the one before ends, and leave the last "
            "without an end."
        )
    height, width = image.shape[-2:]
    spectrum = torch.fft.rfft2(recon.float() - image.float(), norm="ortho")
    power = (spectrum.real.square() + spectrum.imag.square()).mean(dim=1) / (height * width)
    of_band = _band_of_frequency(height, width, bands).to(power.device)
    weight = _times_in_the_whole_transform(width).to(power)
    return torch.stack([(power * (weight * (of_band == k))).sum(dim=(1, 2)) for k in range(len(bands))], dim=1)


def _band_of_frequency(height: int, width: int, bands: Sequence[Band]) -> Tensor:
    """Number of the band of each frequency of ``rfft2``, int64 (H, W // 2 + 1).

    In whole numbers: f ≤ 1/s is k_y²·W² + k_x²·H² ≤ H²·W²/s², so that no rounding moves a frequency on an edge.
    """
    rows = torch.arange(height)
    rows = torch.minimum(rows, height - rows)[:, None]
    columns = torch.arange(width // 2 + 1)[None, :]
    radius = (rows * width).square() + (columns * height).square()
    return sum(radius <= (height * width) ** 2 // band.shortest**2 for band in bands).long() - 1  # type: ignore[union-attr]


def _times_in_the_whole_transform(width: int) -> Tensor:
    """How often a column of ``rfft2`` stands in the full transform of a real image: with its mirror image, or alone."""
    times = torch.full((width // 2 + 1,), 2.0)
    times[0] = 1
    if width % 2 == 0:
        times[-1] = 1
    return times

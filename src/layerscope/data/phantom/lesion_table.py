"""The rows of a phantom's ``lesions.csv``."""

from __future__ import annotations

from layerscope.data.phantom.exact import Disk
from layerscope.data.phantom.fundus import Lesion

LESION_COLUMNS = ("id", "label", "x", "y", "diameter", "diameter_um", "contrast")


def lesion_row(name: str, lesion: Disk | Lesion, um_per_px: float) -> list[str]:
    """One row, in the order of ``LESION_COLUMNS``: a lesion of the image ``name``."""
    return [
        name,
        lesion.label,
        f"{lesion.x:.3f}",
        f"{lesion.y:.3f}",
        f"{lesion.diameter:.3f}",
        f"{lesion.diameter * um_per_px:.1f}",
        f"{lesion.contrast:.4f}",
    ]

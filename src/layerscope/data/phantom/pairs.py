"""The pair phantom on disk: fundus photographs with lesions of one kind, and the same without, for ``PairFolder``."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from PIL import Image

from layerscope.data.phantom.exact import RECORD
from layerscope.data.phantom.fundus import LESIONS, FundusSettings, fundus_pair
from layerscope.data.phantom.lesion_table import LESION_COLUMNS, lesion_row
from layerscope.data.phantom.patients import patients
from layerscope.errors import ConfigurationError

KINDS = tuple(kind.label for kind in LESIONS)


def known_lesions(lesions: Sequence[str] | None) -> tuple[str, ...]:
    """The kinds of lesion by name, all of them by default. Raises ConfigurationError for any other, and for none."""
    if lesions is None:
        return KINDS
    unknown = [name for name in lesions if name not in KINDS]
    if unknown or not lesions:
        raise ConfigurationError(
            f"The kinds of lesion of a phantom are {', '.join(KINDS)}; got {', '.join(unknown) or 'none'}."
        )
    return tuple(lesions)


def write_pairs(
    settings: FundusSettings,
    lesions: tuple[str, ...],
    stage: Path,
    n: int,
    um_per_px: float,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Writes ``n`` pairs into the directory ``stage``; pair i has lesions of the kind ``lesions[i % len(lesions)]``.

    Its file is called by its patient and i, so that ``PairFolder`` finds patients by ``patient: '(p[0-9]+)_'``.
    """
    folders = [stage / name for name in ("positive", "negative", "masks")]
    for folder in folders:
        folder.mkdir()
    with (stage / "lesions.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(LESION_COLUMNS)
        for index, (patient, _) in zip(range(n), patients(settings.seed)):
            name = f"p{patient:05d}_{index:05d}"
            pair = fundus_pair(settings, index, patient, lesions[index % len(lesions)])
            for folder, pixels in zip(folders, (pair.positive, pair.negative, pair.mask)):
                # Noise hardly compresses, so a higher level would only cost time.
                Image.fromarray(pixels).save(folder / f"{name}.png", compress_level=1)
            table.writerows(lesion_row(name, lesion, um_per_px) for lesion in pair.lesions)
            if progress is not None:
                progress(index + 1, n)
    record = {"kind": "pairs", "n": n, "um_per_px": um_per_px, "lesions": lesions, "settings": asdict(settings)}
    (stage / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (stage / "README.txt").write_text(_readme(n, settings.seed, um_per_px), encoding="utf-8")


def _readme(n: int, seed: int, um_per_px: float) -> str:
    return (
        f"Phantom data set of layerscope, kind pairs, {n} pairs, seed {seed}, {um_per_px:.2f} micrometres a px.\n"
        "Computed images that look like photographs of the retina. No patient was ever photographed.\n\n"
        "positive/    with lesions of one kind; the part of the name before _ is the patient\n"
        "negative/    the same photograph, its noise included, without the lesions\n"
        "masks/       white where a lesion covers more than half of a pixel, or, where it does so of none, what it\n"
        "             covers at all; else black. Edges are soft, so the images also differ a little around it\n"
        "lesions.csv  one row per lesion: centre x, y and diameter in pixels (x to the right, y down, from the upper\n"
        "             left corner), diameter_um in micrometres, contrast (mean change of the green channel, whose\n"
        "             range is [0, 1])\n"
        "phantom.json every setting\n"
    )

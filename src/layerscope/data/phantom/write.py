"""Writing a phantom as a data set on disk, in the layout that ``MultilabelImages`` or ``PairFolder`` reads."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import yaml
from numpy.typing import NDArray
from PIL import Image

from layerscope.data.phantom.exact import DIAMETERS, RECORD, Disk, ExactRecord, ExactSettings, exact_image, layout
from layerscope.data.phantom.fundus import FIELD_OF_VIEW_UM, LESIONS, FundusSettings, Lesion, fundus_image
from layerscope.data.phantom.lesion_table import LESION_COLUMNS, lesion_row
from layerscope.data.phantom.pairs import known_lesions, write_pairs
from layerscope.data.phantom.patients import patients
from layerscope.data.phantom.whole import written_whole
from layerscope.errors import ConfigurationError

PhantomKind = Literal["exact", "fundus", "pairs"]
SMALLEST = 12
IMAGES, PAIRS = 2000, 100


def write_phantom(
    out: str | Path,
    kind: PhantomKind = "fundus",
    n: int | None = None,
    size: int = 128,
    lesion_sizes: Sequence[float] | None = None,
    seed: int = 0,
    um_per_px: float | None = None,
    noise: float = 0.12,
    d_prime: float = 2.5,
    prevalence: float = 0.3,
    lesions: Sequence[str] | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes a phantom data set into the new directory ``out`` and returns it.

    ::

        out/
          images/00000.png ...  8-bit RGB (fundus) or 16-bit grey (exact)
          labels.csv            id, path, split, group, one column per label
          lesions.csv           id, label, x, y, diameter, diameter_um, contrast: one row per lesion
          schema.yaml           the label schema
          phantom.json          kind, seed and every setting
          README.txt            what this is

    Of ``pairs`` it is instead::

        out/
          positive/p00000_00000.png ...  8-bit RGB, with lesions of one kind
          negative/p00000_00000.png ...  the same photograph without them
          masks/p00000_00000.png ...     white on the lesions, else black
          lesions.csv, phantom.json, README.txt as above

    Image i, its labels, patient and split depend on the seed and i only, not on ``n``. Patients have one to three
    images and one split; about 60 % of them are train, 15 % val and 25 % test. Everything is written to a temporary
    directory beside ``out`` and renamed at the end.

    Args:
        kind: exact (disks in white noise, closed form), fundus (photographs of the retina) or pairs (the same, with
            lesions and without).
        n: images, at least 12, with which no split is empty; 2000 by default. Of pairs 100, at least 1.
        size: side in pixels.
        lesion_sizes: diameters in pixels; exact: one label each; fundus and pairs: one per kind of lesion. By default
            3, 6, 12, 24, 48 (exact) and 2, 4, 8, 16, 32 (the others) at 128 px, in proportion at other sizes.
        seed: same seed, same data set.
        um_per_px: micrometres per pixel for ``diameter_um``; by default a field of view of 12 mm.
        noise, d_prime, prevalence: of the exact phantom, see ``ExactSettings``.
        lesions: of pairs: the kinds of lesion that the pairs take turns with; all five by default.
        overwrite: replace an earlier phantom; any other directory is left alone.
        progress: called with (images written, n).

    Raises:
        ConfigurationError: impossible settings. DataError: ``out`` exists, or cannot be written.
    """
    out = Path(out)
    if lesions is not None and kind != "pairs":
        raise ConfigurationError(f"lesions chooses the kinds of lesion of a phantom of pairs; got kind {kind!r}.")
    if n is None:
        n = PAIRS if kind == "pairs" else IMAGES
    if n < 1 and kind == "pairs":
        raise ConfigurationError(f"A phantom of pairs needs at least one pair, got n={n}.")
    if n < SMALLEST and kind != "pairs":
        raise ConfigurationError(f"A phantom needs at least {SMALLEST} images so that no split is empty, got n={n}.")
    if um_per_px is None:
        um_per_px = FIELD_OF_VIEW_UM / (0.94 * size)
    if not um_per_px > 0 or not math.isfinite(um_per_px):
        raise ConfigurationError(f"um_per_px is {um_per_px}; expected micrometres per pixel, above 0.")
    write: Callable[[Path, int, float, Callable[[int, int], None] | None], None]
    match kind:
        case "exact":
            sizes = _sizes(lesion_sizes, DIAMETERS, size, smallest=1.0)
            write = partial(_write, _exact(ExactSettings(size, sizes, seed, noise, d_prime, prevalence)), seed)
        case "fundus":
            write = partial(_write, _fundus(_fundus_settings(lesion_sizes, size, seed)), seed)
        case "pairs":
            write = partial(write_pairs, _fundus_settings(lesion_sizes, size, seed), known_lesions(lesions))
        case _:
            raise ConfigurationError(f"There is no phantom of kind {kind!r}: expected exact, fundus or pairs.")
    with written_whole(out, overwrite) as stage:
        write(stage, n, um_per_px, progress)
    return out


@dataclass(frozen=True)
class _Phantom:
    """A kind of phantom: how to draw image i of patient p, its labels, and what to record."""

    kind: PhantomKind
    draw: Callable[[int, int], tuple[NDArray[Any], Sequence[Disk | Lesion]]]
    labels: list[dict[str, Any]]
    record: dict[str, Any]


def _exact(settings: ExactSettings) -> _Phantom:
    disks = layout(settings)
    shapes = ExactRecord(settings, disks).templates()
    labels = [{"name": disk.label, "group": "disk", "display_name": f"Disk of {disk.diameter:g} px"} for disk in disks]
    record = {"settings": asdict(settings), "disks": [asdict(disk) for disk in disks]}
    return _Phantom("exact", lambda index, patient: exact_image(settings, disks, shapes, index), labels, record)


def _fundus(settings: FundusSettings) -> _Phantom:
    labels = [{"name": kind.label, "group": kind.group, "display_name": kind.display_name} for kind in LESIONS]
    record = {"settings": asdict(settings)}
    return _Phantom("fundus", lambda index, patient: fundus_image(settings, index, patient), labels, record)


def _fundus_settings(lesion_sizes: Sequence[float] | None, size: int, seed: int) -> FundusSettings:
    default = tuple(each.diameter for each in LESIONS)
    return FundusSettings(size, _sizes(lesion_sizes, default, size, smallest=1.0), seed)


def _sizes(given: Sequence[float] | None, default: Sequence[float], size: int, smallest: float) -> tuple[float, ...]:
    if given is not None:
        return tuple(float(each) for each in given)
    return tuple(max(smallest, round(each * size / 128, 2)) for each in default)


def _write(
    phantom: _Phantom,
    seed: int,
    stage: Path,
    n: int,
    um_per_px: float,
    progress: Callable[[int, int], None] | None,
) -> None:
    images = stage / "images"
    images.mkdir()
    names = [label["name"] for label in phantom.labels]
    with (
        (stage / "labels.csv").open("w", newline="", encoding="utf-8") as label_file,
        (stage / "lesions.csv").open("w", newline="", encoding="utf-8") as lesion_file,
    ):
        labels = csv.writer(label_file, lineterminator="\n")
        lesions = csv.writer(lesion_file, lineterminator="\n")
        labels.writerow(["id", "path", "split", "group", *names])
        lesions.writerow(LESION_COLUMNS)
        for index, (patient, split) in zip(range(n), patients(seed)):
            name = f"{index:05d}"
            pixels, drawn = phantom.draw(index, patient)
            # Noise hardly compresses, so a higher level would only cost time.
            Image.fromarray(pixels).save(images / f"{name}.png", compress_level=1)
            present = {lesion.label for lesion in drawn}
            labels.writerow([name, f"images/{name}.png", split, f"p{patient:05d}", *(int(x in present) for x in names)])
            lesions.writerows(lesion_row(name, lesion, um_per_px) for lesion in drawn)
            if progress is not None:
                progress(index + 1, n)
    schema = {"name": f"{phantom.kind}_phantom", "labels": phantom.labels}
    (stage / "schema.yaml").write_text(yaml.safe_dump(schema, sort_keys=False), encoding="utf-8")
    record = {"kind": phantom.kind, "n": n, "um_per_px": um_per_px, **phantom.record}
    (stage / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (stage / "README.txt").write_text(_readme(phantom.kind, n, seed, um_per_px), encoding="utf-8")


def _readme(kind: PhantomKind, n: int, seed: int, um_per_px: float) -> str:
    about = {
        "exact": "Disks in white noise, one per positive label; the answer of a diagnosis is known in closed form.",
        "fundus": "Computed images that look like photographs of the retina. No patient was ever photographed.",
    }[kind]
    return (
        f"Phantom data set of layerscope, kind {kind}, {n} images, seed {seed}, {um_per_px:.2f} micrometres a px.\n"
        f"{about}\n\n"
        "labels.csv   id, path, split, group (the patient), one column per label: 1 present, 0 absent\n"
        "lesions.csv  one row per lesion: centre x, y and diameter in pixels (x to the right, y down, from the upper\n"
        "             left corner), diameter_um in micrometres, contrast ("
        + (
            "added brightness in units of [-1, 1]"
            if kind == "exact"
            else "mean change of the green channel, whose range is [0, 1]"
        )
        + ")\n"
        "schema.yaml  the label schema; phantom.json every setting\n"
    )

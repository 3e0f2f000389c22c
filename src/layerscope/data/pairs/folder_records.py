"""Which images of the folders positive and negative are pairs."""

from __future__ import annotations

from pathlib import Path

from layerscope.data.files import image_files
from layerscope.data.pairs.names import all_of, images_by_stem, masks_by_image
from layerscope.data.pairs.records import PairRecord, PairRecords
from layerscope.data.patients import patient_pattern, patients_of
from layerscope.errors import DataError


def read_pair_folder(root: Path, patient: str | None = None) -> PairRecords:
    """The pairs below ``root``, as ``PairFolder`` documents them, in the order of their ids.

    Raises:
        ConfigurationError: ``patient`` is no regular expression with a group.
        DataError: a folder is missing or empty, images have no partner, masks no image (all are listed), two files of
            a folder have the same stem, or ``patient`` does not name the patient of an image.
    """
    pattern = patient_pattern(patient)
    positive_folder, negative_folder, mask_folder = root / "positive", root / "negative", root / "masks"
    missing = [folder.name for folder in (positive_folder, negative_folder) if not folder.is_dir()]
    if missing:
        raise DataError(
            f"{root} has no folder {' and no folder '.join(missing)}. Images with the finding belong into positive/, "
            "those without into negative/, under the same names. Make the folders, or correct data.init_args.root."
        )
    positive_files, negative_files, mask_files = image_files(positive_folder, negative_folder, mask_folder)
    positives = images_by_stem(positive_folder, positive_files)
    negatives = images_by_stem(negative_folder, negative_files)
    _check_partners(root, positives, negatives)
    masks, strangers = masks_by_image(mask_folder, mask_files, positives)
    if strangers:
        raise DataError(
            f"{len(strangers)} masks below {mask_folder} belong to no image of positive/: {all_of(strangers)}. A mask "
            "has the name of its image, or that with _mask, _mask_1, ... at its end: rename them, or take them out."
        )
    stems = sorted(positives)
    patients = patients_of(positive_folder, [positives[stem] for stem in stems], pattern)
    records = [
        PairRecord(stem, positives[stem], negatives[stem], masks.get(stem, ()), group)
        for stem, group in zip(stems, patients)
    ]
    return PairRecords(tuple(records), "positive and negative folders")


def _check_partners(root: Path, positives: dict[str, Path], negatives: dict[str, Path]) -> None:
    sides = {
        "positive": sorted(positives.keys() - negatives.keys()),
        "negative": sorted(negatives.keys() - positives.keys()),
    }
    if any(sides.values()):
        lone = "; ".join(f"only in {side}/ ({len(stems)}): {all_of(stems)}" for side, stems in sides.items() if stems)
        raise DataError(
            f"Images below {root} have no partner of the same name (folders and suffix aside): {lone}. Add or rename "
            "the missing ones, or take these out."
        )

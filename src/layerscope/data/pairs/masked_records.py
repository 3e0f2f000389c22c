"""Which images have which lesion masks, beside them or in a folder of their own."""

from __future__ import annotations

from pathlib import Path

from layerscope.data.files import image_files, relative_stem
from layerscope.data.images import SUFFIXES
from layerscope.data.pairs.names import all_of, image_of_mask, images_by_stem, masks_by_image
from layerscope.data.pairs.records import PairRecord, PairRecords
from layerscope.data.patients import patient_pattern, patients_of
from layerscope.errors import DataError


def read_masked_images(root: Path, patient: str | None = None) -> PairRecords:
    """The images below ``root`` and their masks, as ``MaskedImages`` documents them, in the order of their ids.

    Raises:
        ConfigurationError: ``patient`` is no regular expression with a group.
        DataError: there are no images, images have no mask or masks no image (all are listed), two images have the
            same stem, or ``patient`` does not name the patient of an image.
    """
    pattern = patient_pattern(patient)
    image_folder, mask_folder, files, mask_files, layout = _layout(root)
    images = images_by_stem(image_folder, files)
    masks, strangers = masks_by_image(mask_folder, mask_files, images)
    _check_partners(root, sorted(images.keys() - masks.keys()), strangers)
    stems = sorted(images)
    patients = patients_of(image_folder, [images[stem] for stem in stems], pattern)
    records = [PairRecord(stem, images[stem], None, masks[stem], group) for stem, group in zip(stems, patients)]
    return PairRecords(tuple(records), layout)


def _layout(root: Path) -> tuple[Path, Path, list[Path], list[Path], str]:
    """The folders of images and masks, the files of each, and the name of the layout."""
    image_folder, mask_folder = root / "images", root / "masks"
    if mask_folder.is_dir():
        if not image_folder.is_dir():
            raise DataError(
                f"{root} has a folder masks, but no folder images beside it. Put the images there under the names of "
                "their masks, or correct data.init_args.root."
            )
        files, mask_files = image_files(image_folder, mask_folder)
        return image_folder, mask_folder, files, mask_files, "images and masks folders"
    (every,) = image_files(root)
    if not every:
        raise DataError(
            f"No images were found below {root}. Correct data.init_args.root; images end in {', '.join(SUFFIXES)}."
        )
    files = [path for path in every if image_of_mask(relative_stem(root, path)) is None]
    mask_files = [path for path in every if image_of_mask(relative_stem(root, path)) is not None]
    return root, root, files, mask_files, "masks beside images"


def _check_partners(root: Path, unmasked: list[str], strangers: list[str]) -> None:
    lone = []
    if unmasked:
        lone.append(f"images without a mask ({len(unmasked)}): {all_of(unmasked)}")
    if strangers:
        lone.append(f"masks without an image ({len(strangers)}): {all_of(strangers)}")
    if lone:
        raise DataError(
            f"Below {root} are {'; '.join(lone)}. The mask of a.png is called a_mask.png, and further ones "
            "a_mask_1.png, ...; in a folder masks also a.png. Add or rename the missing ones, or take these out."
        )

"""Images with lesion masks only: both layouts, and the negatives made of them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import break_file, write_mask, write_noise
from PIL import Image

from layerscope.data.images import fit_pixels, image_tensor, read_image, read_pixels
from layerscope.data.pairs.filling import Fill, fill_in
from layerscope.data.pairs.masked import MaskedImages
from layerscope.data.pairs.masked_records import read_masked_images
from layerscope.errors import ConfigurationError, DataError


@pytest.fixture
def busi(tmp_path: Path) -> Path:
    """The layout of BUSI: masks beside the images, several for one image, an empty one for a normal image."""
    for number in (1, 2):
        write_noise(tmp_path / "benign" / f"benign ({number}).png", seed=number, size=(20, 16))
        write_mask(tmp_path / "benign" / f"benign ({number})_mask.png", (2, 3, 8, 9), size=(20, 16))
    write_mask(tmp_path / "benign" / "benign (1)_mask_1.png", (12, 10, 15, 14), size=(20, 16))
    write_noise(tmp_path / "malignant" / "malignant (1).png", seed=5, size=(20, 16))
    write_mask(tmp_path / "malignant" / "malignant (1)_mask.png", (5, 5, 15, 15), size=(20, 16))
    write_noise(tmp_path / "normal" / "normal (1).png", seed=9, size=(20, 16))
    write_mask(tmp_path / "normal" / "normal (1)_mask.png", size=(20, 16))
    return tmp_path


@pytest.mark.parametrize("fill", ["mean", "blur", "telea"])
def test_busi_is_filled_at_full_size_and_then_resized(busi: Path, fill: Fill) -> None:
    data = MaskedImages(str(busi), fill, image_size=8)
    (batch,) = data.test_dataloader()[0]
    assert sorted(batch["id"]) == ["benign/benign (1)", "benign/benign (2)", "malignant/malignant (1)"]
    place = batch["id"].index("benign/benign (1)")
    path = busi / "benign" / "benign (1).png"
    mask = np.zeros((16, 20), bool)
    mask[3:9, 2:8] = True
    mask[10:14, 12:15] = True
    assert torch.equal(batch["positive"][place], read_image(path, image_size=8, fit="stretch"))
    negative = image_tensor(fit_pixels(fill_in(read_pixels(path), mask, fill), 8, "stretch"))
    assert torch.equal(batch["negative"][place], negative)
    assert not torch.equal(batch["negative"][place], batch["positive"][place])
    assert batch["mask"][place].any()
    assert batch["has_mask"].all()
    about = data.describe()
    assert (about["layout"], about["fill"], about["pairs"], about["masks"]) == ("masks beside images", fill, 4, 4)


def test_at_the_files_size_all_but_the_lesion_is_equal(busi: Path) -> None:
    (batch,) = MaskedImages(str(busi), "telea", image_size=None).test_dataloader()[0]
    differ = (batch["positive"] != batch["negative"]).any(dim=1)
    assert not (differ & ~batch["mask"]).any()
    assert (differ & batch["mask"]).flatten(1).any(dim=1).all()


@pytest.mark.parametrize("on_bad_image", ["error", "skip"])
def test_an_empty_mask_is_skipped_and_never_an_error(busi: Path, on_bad_image: str) -> None:
    data = MaskedImages(str(busi), "mean", image_size=8, on_bad_image=on_bad_image)
    pairs, floor = data.test_dataloader()
    row = pairs.dataset.ids.index("normal/normal (1)")
    (batch,) = pairs
    assert batch["skipped"] == [("normal/normal (1)", row, "empty mask")]
    # An image without a lesion is a negative all the same.
    (couples,) = floor
    assert len(couples["id"]) == 2
    assert couples["skipped"] == []
    names = [name.split(" | ") for name in couples["id"]]
    (place,) = (place for place, couple in enumerate(names) if "normal/normal (1)" in couple)
    side = ("positive", "negative")[names[place].index("normal/normal (1)")]
    expected = read_image(busi / "normal" / "normal (1).png", image_size=8, fit="stretch")
    assert torch.equal(couples[side][place], expected)


def test_a_lesion_that_is_cropped_away_is_skipped(tmp_path: Path) -> None:
    write_noise(tmp_path / "a.png", size=(30, 10))
    write_mask(tmp_path / "a_mask.png", (0, 0, 5, 10), size=(30, 10))
    (batch,) = MaskedImages(str(tmp_path), "mean", image_size=8, fit="crop").test_dataloader()[0]
    assert [pair.reason for pair in batch["skipped"]] == [
        "the mask lies outside the central square that fit: crop keeps"
    ]
    (batch,) = MaskedImages(str(tmp_path), "mean", image_size=8, fit="stretch").test_dataloader()[0]
    assert batch["id"] == ["a"]


def test_a_folder_of_masks(tmp_path: Path) -> None:
    for name, mask in (("a/1", "a/1.png"), ("2", "2_mask.png")):
        write_noise(tmp_path / "images" / f"{name}.jpg")
        write_mask(tmp_path / "masks" / mask, (3, 3, 6, 6))
    write_mask(tmp_path / "masks" / "2_mask_1.png", (8, 8, 9, 9))
    found = read_masked_images(tmp_path)
    assert found.layout == "images and masks folders"
    assert [(record.id, len(record.masks)) for record in found.records] == [("2", 2), ("a/1", 1)]
    assert len(read_masked_images(tmp_path, "([0-9])").groups() or []) == 2


def test_all_lone_images_and_masks_are_listed(busi: Path) -> None:
    for name in ("b", "a"):
        write_noise(busi / f"{name}.png")
        write_mask(busi / f"lost {name}_mask_1.png")
    with pytest.raises(DataError) as error:
        read_masked_images(busi)
    assert "images without a mask (2): 'a', 'b'" in str(error.value)
    assert "masks without an image (2): 'lost a_mask_1.png', 'lost b_mask_1.png'" in str(error.value)


def test_folders_that_hold_no_images_with_masks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No images were found below"):
        read_masked_images(tmp_path)
    write_mask(tmp_path / "masks" / "1.png")
    with pytest.raises(DataError, match="a folder masks, but no folder images"):
        read_masked_images(tmp_path)
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match=r"No images were found below .*images"):
        read_masked_images(tmp_path)
    for name in ("1.png", "1.jpg"):
        write_noise(tmp_path / "images" / name)
    with pytest.raises(DataError, match=r"differ only in their suffix.*'1\.jpg', '1\.png'"):
        read_masked_images(tmp_path)


def test_what_cannot_be_filled_or_read_is_an_error_or_skipped(busi: Path) -> None:
    Image.new("L", (20, 16), 255).save(busi / "benign" / "benign (2)_mask.png")
    with pytest.raises(DataError, match=r"benign \(2\)\.png cannot be filled in: the mask covers the whole image"):
        list(MaskedImages(str(busi), "mean", image_size=8).test_dataloader()[0])
    break_file(busi / "malignant" / "malignant (1)_mask.png")
    data = MaskedImages(str(busi), "mean", image_size=8, on_bad_image="skip", noise_floor="same_image")
    (batch,) = data.test_dataloader()[0]
    assert batch["id"] == ["benign/benign (1)"]
    assert {pair.id: pair.reason.split(".png ")[-1][:16] for pair in batch["skipped"]} == {
        "benign/benign (2)": "cannot be filled",
        "malignant/malignant (1)": "cannot be decode",
        "normal/normal (1)": "empty mask",
    }
    (floor,) = data.test_dataloader()[1]
    assert len(floor["id"]) == 2
    assert len(floor["skipped"]) == 2


def test_16_bits_stay_16_bits(tmp_path: Path) -> None:
    levels = (np.arange(400, dtype=np.uint16).reshape(20, 20) + 30000).astype(np.uint16)
    Image.fromarray(levels).save(tmp_path / "a.png")
    write_mask(tmp_path / "a_mask.png", (5, 5, 12, 12), size=(20, 20))
    (batch,) = MaskedImages(str(tmp_path), "telea", image_size=None).test_dataloader()[0]
    inside = ((batch["negative"][0, 0][batch["mask"][0]] + 1) / 2 * 65535).round()
    assert len(inside.unique()) > 20
    assert inside.min() >= 30000
    assert inside.max() < 30400


def test_the_way_of_filling_is_part_of_the_hash_and_checked(busi: Path) -> None:
    hashes = {MaskedImages(str(busi), fill).data_hash("pairs") for fill in ("mean", "blur", "telea")}
    assert len(hashes) == 3
    with pytest.raises(ConfigurationError, match="fill is 'median': expected mean, blur, telea"):
        MaskedImages(str(busi), "median")  # type: ignore[arg-type]

"""One pair of images, as ``layerscope pair`` reads it."""

from pathlib import Path

import pytest
import torch
from image_files import break_file, write_mask, write_noise

from layerscope.data.images import read_image
from layerscope.data.pairs.single import ImagePair
from layerscope.errors import ConfigurationError, DataError
from layerscope.protocols import LabelledData


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    return (
        str(write_noise(tmp_path / "tumour.png", seed=1, size=(20, 12))),
        str(write_noise(tmp_path / "without.png", seed=2, size=(20, 12))),
    )


@pytest.mark.parametrize("fit", ["stretch", "crop"])
@pytest.mark.parametrize("resize_filter", ["bicubic", "box"])
def test_the_batch_is_what_read_image_reads(files: tuple[str, str], fit: str, resize_filter: str) -> None:
    data = ImagePair(*files, image_size=8, fit=fit, resize_filter=resize_filter)
    assert isinstance(data, LabelledData)
    pairs, floor = data.test_dataloader()
    (batch,) = pairs
    for side, path in zip(("positive", "negative"), files):
        expected = read_image(path, image_size=8, fit=fit, resize_filter=resize_filter)
        assert torch.equal(batch[side], expected[None])
    assert batch["id"] == ["tumour"]
    assert batch["has_mask"].tolist() == [False]
    assert not batch["mask"].any()
    (rest,) = floor
    assert rest["role"] == "floor"
    assert rest["id"] == ["tumour"]
    assert torch.equal(rest["positive"], batch["negative"])
    assert torch.equal(rest["negative"], batch["negative"])


def test_stretch_takes_in_the_whole_image_and_crop_the_central_square(tmp_path: Path) -> None:
    mask = str(write_mask(tmp_path / "left_half.png", (0, 0, 10, 12), size=(20, 12)))
    stretched, cropped = (read_image(mask, image_size=4, fit=fit, resize_filter="box") for fit in ("stretch", "crop"))
    assert stretched[0, 0].tolist() == [1, 1, -1, -1]
    assert torch.equal(cropped, read_image(mask, image_size=4, resize_filter="box"))
    assert read_image(mask, image_size=5, fit="stretch").shape == (3, 5, 5)
    with pytest.raises(ConfigurationError, match="fit is 'pad': expected stretch or crop"):
        read_image(mask, image_size=4, fit="pad")  # type: ignore[arg-type]


def test_the_mask_goes_through_the_same_fit(files: tuple[str, str], tmp_path: Path) -> None:
    mask = str(write_mask(tmp_path / "mask.png", (0, 0, 10, 12), size=(20, 12)))
    (batch,) = ImagePair(*files, mask, image_size=4).test_dataloader()[0]
    assert batch["mask"][0].tolist() == [[True, True, False, False]] * 4
    (batch,) = ImagePair(*files, mask, image_size=None, size_multiple=4).test_dataloader()[0]
    assert batch["mask"].shape == (1, 12, 20)
    assert batch["mask"].sum() == 120
    assert batch["has_mask"].tolist() == [True]


def test_without_a_noise_floor_there_is_one_loader(files: tuple[str, str]) -> None:
    data = ImagePair(*files, noise_floor="none")
    assert len(data.test_dataloader()) == 1
    about = data.describe()
    assert (about["layout"], about["noise_floor"], about["floor_rows"]) == ("one pair", "none", 0)
    assert data.evaluated_groups() is None


def test_files_that_cannot_be_used_are_named(files: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"img2 is .*nowhere\.png, which is no file"):
        ImagePair(files[0], str(tmp_path / "nowhere.png"))
    with pytest.raises(DataError, match=r"mask is .*nowhere\.png, which is no file"):
        ImagePair(*files, str(tmp_path / "nowhere.png"))
    break_file(Path(files[1]))
    with pytest.raises(DataError, match=r"without\.png cannot be decoded"):
        list(ImagePair(*files).test_dataloader()[0])

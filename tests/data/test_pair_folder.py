"""Two folders of images: which are pairs, which files are refused, and how batches look."""

import re
from pathlib import Path

import pytest
import torch
from image_files import break_file, write_mask, write_noise
from lightning.pytorch import LightningModule, Trainer
from PIL import Image

from layerscope.data.images import read_image
from layerscope.data.pairs.folder import PairFolder
from layerscope.data.pairs.folder_records import read_pair_folder
from layerscope.errors import ConfigurationError, DataError
from layerscope.protocols import LabelledData
from layerscope.types import PairBatch, SkippedSample


def touch(root: Path, *paths: str) -> Path:
    """Files that only look like images, for what is decided by path."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def write_pairs(root: Path, count: int, size: tuple[int, int] = (12, 12)) -> Path:
    for number in range(count):
        write_noise(root / "positive" / f"{number:03}.png", seed=2 * number, size=size)
        write_noise(root / "negative" / f"{number:03}.png", seed=2 * number + 1, size=size)
    return root


def batches(data: PairFolder, loader: int = 0) -> list[PairBatch]:
    return list(data.test_dataloader()[loader])


def test_files_are_paired_by_path_whatever_their_suffix(tmp_path: Path) -> None:
    touch(tmp_path, "positive/a/1.png", "positive/a/2.JPG", "positive/1.tif", "positive/b.c.png", "positive/note.txt")
    touch(tmp_path, "negative/a/1.jpeg", "negative/a/2.png", "negative/1.tif", "negative/b.c.bmp")
    touch(tmp_path, "masks/a/1.png", "masks/1_mask.png", "masks/1_mask_1.png", "masks/1_mask_12.bmp")
    found = {record.id: record for record in read_pair_folder(tmp_path).records}
    assert list(found) == ["1", "a/1", "a/2", "b.c"]
    assert found["a/2"].positive == tmp_path / "positive/a/2.JPG"
    assert found["a/2"].negative == tmp_path / "negative/a/2.png"
    assert [path.name for path in found["1"].masks] == ["1_mask.png", "1_mask_1.png", "1_mask_12.bmp"]
    assert [path.name for path in found["a/1"].masks] == ["1.png"]
    assert found["a/2"].masks == found["b.c"].masks == ()


def test_a_name_that_ends_like_a_masks_is_found_by_its_whole_name(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{side}/{name}.png" for side in ("positive", "negative") for name in ("a", "a_mask")))
    touch(tmp_path, "masks/a_mask.png", "masks/a_mask_1.png")
    found = {record.id: [path.name for path in record.masks] for record in read_pair_folder(tmp_path).records}
    assert found == {"a": ["a_mask_1.png"], "a_mask": ["a_mask.png"]}


def test_every_image_without_a_partner_is_listed_by_side(tmp_path: Path) -> None:
    touch(tmp_path, *(f"positive/p{number}.png" for number in range(30)), "positive/x/both.png")
    touch(tmp_path, *(f"negative/n{number}.png" for number in range(30)), "negative/x/both.jpg", "negative/both.png")
    with pytest.raises(DataError) as error:
        read_pair_folder(tmp_path)
    positive, negative = str(error.value).split("only in negative/ (31): ")
    assert re.findall(r"'(.*?)'", positive) == sorted(f"p{number}" for number in range(30))
    assert re.findall(r"'(.*?)'", negative) == ["both", *sorted(f"n{number}" for number in range(30))]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], "no folder positive and no folder negative"),
        (["positive/1.png"], "has no folder negative"),
        (["positive/1.txt", "negative/1.png"], r"No images were found below .*positive\."),
        (["positive/1.png", "negative/1.txt"], r"No images were found below .*negative\."),
        (
            [
                "positive/1.png",
                "positive/1.jpg",
                "positive/2.tif",
                "positive/2.bmp",
                "negative/1.png",
                "negative/2.png",
            ],
            r"positive differ only in their suffix.*'1\.jpg', '1\.png', '2\.bmp', '2\.tif'",
        ),
        (["positive/1.png", "negative/1.png", "negative/1.bmp"], r"negative differ only.*'1\.bmp', '1\.png'"),
        (
            ["positive/1.png", "negative/1.png", "masks/1.png", "masks/2.png", "masks/a/3_mask.png"],
            r"2 masks below .*masks belong to no image of positive/: '2\.png', 'a/3_mask\.png'",
        ),
        (["positive/a'b.png", "negative/a'b.png"], "the id"),
    ],
)
def test_folders_that_are_no_pairs_are_refused(tmp_path: Path, paths: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_pair_folder(touch(tmp_path, *paths))


def test_batches_hold_what_the_files_hold(tmp_path: Path) -> None:
    write_pairs(tmp_path, 5, size=(20, 12))
    write_mask(tmp_path / "masks" / "003.png", (0, 0, 10, 6), size=(20, 12))
    write_mask(tmp_path / "masks" / "001_mask.png", size=(20, 12))
    data = PairFolder(str(tmp_path), image_size=8, batch_size=2, noise_floor="none")
    assert isinstance(data, LabelledData)
    assert len(data.test_dataloader()) == 1
    read = batches(data)
    assert [len(batch["id"]) for batch in read] == [2, 2, 1]
    assert torch.cat([batch["index"] for batch in read]).tolist() == [0, 1, 2, 3, 4]
    rows = [name for batch in read for name in batch["id"]]
    assert rows == data.test_dataloader()[0].dataset.ids
    assert sorted(rows) == ["000", "001", "002", "003", "004"]
    for batch in read:
        assert batch["role"] == "pair"
        assert batch["skipped"] == []
        assert batch["mask"].dtype == batch["has_mask"].dtype == torch.bool
        for place, name in enumerate(batch["id"]):
            for side in ("positive", "negative"):
                expected = read_image(tmp_path / side / f"{name}.png", image_size=8, fit="stretch")
                assert torch.equal(batch[side][place], expected)
            assert batch["has_mask"][place] == (name in ("001", "003"))
            expected_mask = torch.zeros(8, 8, dtype=torch.bool)
            expected_mask[:4, :4] = name == "003"
            assert torch.equal(batch["mask"][place], expected_mask)


def test_rows_are_in_one_order_and_limit_takes_the_first(tmp_path: Path) -> None:
    write_pairs(tmp_path, 12)
    ids = PairFolder(str(tmp_path), image_size=4).test_dataloader()[0].dataset.ids
    assert ids != sorted(ids)
    few = PairFolder(str(tmp_path), image_size=4, limit=5)
    assert few.test_dataloader()[0].dataset.ids == ids[:5]
    (tmp_path / "positive" / f"{ids[0]}.png").unlink()
    (tmp_path / "negative" / f"{ids[0]}.png").unlink()
    assert PairFolder(str(tmp_path), image_size=4).test_dataloader()[0].dataset.ids == ids[1:]


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_do_not_depend_on_workers_or_their_size(tmp_path: Path, workers: int) -> None:
    write_pairs(tmp_path, 5)
    whole = batches(PairFolder(str(tmp_path), image_size=8, batch_size=5))[0]
    parts = batches(PairFolder(str(tmp_path), image_size=8, batch_size=2, num_workers=workers))
    for name in ("positive", "negative", "mask", "index"):
        assert torch.equal(torch.cat([part[name] for part in parts]), whole[name])


def test_sizes_that_differ_within_a_pair_are_an_error_that_names_both(tmp_path: Path) -> None:
    write_noise(tmp_path / "positive" / "1.png", size=(12, 10))
    write_noise(tmp_path / "negative" / "1.png", size=(12, 11))
    with pytest.raises(DataError, match=r"positive image .*1\.png has 12×10 pixels and its negative .* has 12×11"):
        batches(PairFolder(str(tmp_path), image_size=8))
    write_noise(tmp_path / "negative" / "1.png", size=(12, 10))
    write_mask(tmp_path / "masks" / "1.png", size=(10, 12))
    with pytest.raises(DataError, match=r"has 12×10 pixels and its mask .* has 10×12"):
        batches(PairFolder(str(tmp_path), image_size=8))


@pytest.mark.parametrize("grey_side", ["positive", "negative"])
def test_grey_against_colour_is_refused_but_not_against_grey_in_rgb(tmp_path: Path, grey_side: str) -> None:
    sides = {"positive", "negative"}
    (other,) = sides - {grey_side}
    grey = write_noise(tmp_path / grey_side / "1.png", mode="L")
    write_noise(tmp_path / other / "1.png", mode="RGB")
    with pytest.raises(DataError, match=rf"{grey_side}/1\.png is a grey image and .*{other}/1\.png, .* has colours"):
        batches(PairFolder(str(tmp_path), image_size=8))
    Image.open(grey).convert("RGB").save(tmp_path / other / "1.png")
    (batch,) = batches(PairFolder(str(tmp_path), image_size=8))
    assert torch.equal(batch["positive"], batch["negative"])


def test_a_broken_file_ends_the_run_or_is_left_out(tmp_path: Path) -> None:
    write_pairs(tmp_path, 40)
    broken = break_file(tmp_path / "negative" / "017.png")
    with pytest.raises(DataError, match=r"negative/017\.png cannot be decoded"):
        batches(PairFolder(str(tmp_path), image_size=8))
    data = PairFolder(str(tmp_path), image_size=8, on_bad_image="skip")
    ids = data.test_dataloader()[0].dataset.ids
    read = batches(data)
    assert [name for batch in read for name in batch["id"]] == [name for name in ids if name != "017"]
    (skipped,) = [pair for batch in read for pair in batch["skipped"]]
    assert isinstance(skipped, SkippedSample)
    assert (skipped.id, skipped.row) == ("017", ids.index("017"))
    assert str(broken) in skipped.reason
    # The floor compares the same file.
    (couple,) = [pair for batch in batches(data, 1) for pair in batch["skipped"]]
    assert "017" in couple.id.split(" | ")
    assert len(data.data_hash("pairs")) == 64


def test_a_batch_of_skipped_pairs_only_has_no_pairs_but_shapes(tmp_path: Path) -> None:
    write_pairs(tmp_path, 1)
    break_file(tmp_path / "positive" / "000.png")
    for image_size, side in ((8, 8), (None, 0)):
        (batch,) = batches(PairFolder(str(tmp_path), image_size=image_size, on_bad_image="skip"))
        assert batch["positive"].shape == batch["negative"].shape == (0, 3, side, side)
        assert batch["mask"].shape == (0, side, side)
        assert batch["has_mask"].shape == batch["index"].shape == (0,)
        assert batch["mask"].dtype == torch.bool
        assert batch["index"].dtype == torch.int64
        assert batch["id"] == []
        assert [pair.id for pair in batch["skipped"]] == ["000"]


def test_a_stand_in_that_is_skipped_is_not_told_twice(tmp_path: Path) -> None:
    write_pairs(tmp_path, 1)
    break_file(tmp_path / "positive" / "000.png")
    dataset = PairFolder(str(tmp_path), image_size=8, on_bad_image="skip").test_dataloader()[0].dataset
    assert dataset.collate([dataset[-1]])["skipped"] == []
    assert [pair.row for pair in dataset.collate([dataset[0], dataset[-1]])["skipped"]] == [0]


def test_images_of_different_sizes_share_no_batch(tmp_path: Path) -> None:
    for number, side in enumerate((8, 12)):
        for folder in ("positive", "negative"):
            write_noise(tmp_path / folder / f"{number}.png", size=(side, side))
    with pytest.raises(DataError, match=r"cannot share a batch\. Set data\.init_args\.image_size, or batch_size: 1"):
        batches(PairFolder(str(tmp_path), image_size=None))
    sizes = [batch["positive"].shape[-1] for batch in batches(PairFolder(str(tmp_path), image_size=None, batch_size=1))]
    assert sorted(sizes) == [8, 12]
    with pytest.raises(DataError, match="12×12 pixels, which the model's downsampling of 8 does not divide"):
        batches(PairFolder(str(tmp_path), None, batch_size=1, size_multiple=8, on_bad_image="skip"))


def test_patients_group_the_rows(tmp_path: Path) -> None:
    for name in ("p1_a", "p1_b", "p2_a"):
        touch(tmp_path, f"positive/{name}.png", f"negative/{name}.png")
    data = PairFolder(str(tmp_path), patient="(p[0-9])_")
    assert data.evaluated_groups() == [name[:2] for name in data.test_dataloader()[0].dataset.ids]
    assert PairFolder(str(tmp_path)).evaluated_groups() is None
    with pytest.raises(DataError, match="names no patient in 3 of 3 paths"):
        PairFolder(str(tmp_path), patient="(q)")
    with pytest.raises(ConfigurationError, match="no regular expression"):
        PairFolder(str(tmp_path), patient="(")


def test_the_hash_tells_data_sets_apart(tmp_path: Path) -> None:
    write_pairs(tmp_path, 3)

    def now() -> str:
        return PairFolder(str(tmp_path)).data_hash("pairs")

    hashes = [now()]
    assert now() == hashes[0]
    assert PairFolder(str(tmp_path), image_size=8, batch_size=1).data_hash("pairs") == hashes[0]
    write_mask(tmp_path / "masks" / "001.png")
    hashes.append(now())
    write_noise(tmp_path / "negative" / "002.png", size=(12, 13))
    hashes.append(now())
    for side in ("positive", "negative"):
        (tmp_path / side / "000.png").rename(tmp_path / side / "009.png")
    hashes.append(now())
    assert len(set(hashes)) == 4
    with pytest.raises(ConfigurationError, match="one split, 'pairs'"):
        PairFolder(str(tmp_path)).data_hash("val")


def test_describe_is_plain(tmp_path: Path) -> None:
    write_pairs(tmp_path, 5)
    write_mask(tmp_path / "masks" / "001.png")
    about = PairFolder(str(tmp_path), image_size=8, fit="crop", on_bad_image="skip").describe()
    assert about == {
        "layout": "positive and negative folders",
        "pairs": 5,
        "masks": 1,
        "fill": None,
        "noise_floor": "negatives",
        "noise_floor_asked": "negatives",
        "noise_floor_note": None,
        "floor_rows": 2,
        "image_size": 8,
        "fit": "crop",
        "resize_filter": "bicubic",
        "on_bad_image": "skip",
        "limit": None,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 0}, r"image_size is 0; it must be at least 1"),
        ({"batch_size": 0}, r"batch_size is 0"),
        ({"limit": 0}, r"limit is 0"),
        ({"floor_pairs": 0}, r"floor_pairs is 0"),
        ({"num_workers": -1}, r"num_workers is -1"),
        ({"image_size": 20, "size_multiple": 8}, r"image_size is 20, .* Use 16 or 24"),
        ({"fit": "pad"}, r"fit is 'pad': expected crop, stretch"),
        ({"noise_floor": "positives"}, r"noise_floor is 'positives'"),
        ({"on_bad_image": "ignore"}, r"on_bad_image is 'ignore'"),
        ({"resize_filter": "nearest"}, r"resize_filter is 'nearest'"),
    ],
)
def test_impossible_options_are_refused(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        PairFolder(str(tmp_path), **options)


def test_a_root_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="which is no directory"):
        PairFolder(str(tmp_path / "elsewhere"))


class Collects(LightningModule):
    """Keeps what ``test`` was given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, PairBatch]] = []

    def test_step(self, batch: PairBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.seen.append((dataloader_idx, batch))

    def validation_step(self, batch: PairBatch, batch_idx: int) -> None:
        self.seen.append((0, batch))


def test_lightning_tests_pairs_and_floor_and_does_nothing_else(tmp_path: Path) -> None:
    write_pairs(tmp_path, 6)
    break_file(tmp_path / "positive" / "000.png")
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    data = PairFolder(str(tmp_path), image_size=8, batch_size=1, on_bad_image="skip")
    task = Collects()
    trainer.test(task, data, verbose=False)
    assert [(number, batch["role"]) for number, batch in task.seen] == [(0, "pair")] * 6 + [(1, "floor")] * 3
    assert [pair.id for _, batch in task.seen for pair in batch["skipped"]] == ["000"]
    with pytest.raises(ConfigurationError, match="which only `layerscope test` does; got the stage validate"):
        trainer.validate(task, data, verbose=False)

"""Images named by file, folder, pattern or a mix: which are found, which refused, and how batches look."""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from image_files import break_file, write_mask, write_noise
from lightning.pytorch import LightningModule, Trainer
from PIL import Image

from layerscope.data.image_paths import ImagePaths
from layerscope.data.images import read_image, read_pixels
from layerscope.data.model_input import fit_geometry, fit_mask_geometry
from layerscope.data.sampler import UnrepeatedDistributedSampler
from layerscope.errors import ConfigurationError, DataError
from layerscope.protocols import LabelledData
from layerscope.types import InputGeometry, SkippedSample, TokenBatch

SQUARE = InputGeometry(resize=8, crop=(8, 8))


class Looker(LightningModule):
    """A task that keeps the batches it is given."""

    def __init__(self, geometry: InputGeometry) -> None:
        super().__init__()
        self.input_geometry = geometry
        self.batches: list[TokenBatch] = []

    def test_step(self, batch: TokenBatch, batch_idx: int) -> None:
        self.batches.append(batch)


def touch(root: Path, *paths: str) -> Path:
    """Files that only look like images, for what is decided by path."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def ids(path: Any, **options: Any) -> list[str]:
    return [record.id for record in ImagePaths(path, **options).images.records]


def ready(data: ImagePaths, geometry: InputGeometry = SQUARE) -> ImagePaths:
    """As a Trainer with a task of that geometry sets it up."""
    data.trainer = SimpleNamespace(lightning_module=SimpleNamespace(input_geometry=geometry))  # type: ignore[assignment]
    data.setup("test")
    return data


def batches(data: ImagePaths, geometry: InputGeometry = SQUARE) -> list[TokenBatch]:
    return list(ready(data, geometry).test_dataloader())


# -- which files -----------------------------------------------------------------------------------------------------


def test_a_file_a_folder_a_pattern_and_a_mix_find_their_images(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "a/2.JPG", "a/b/3.tif", "a/note.txt", "a/.hidden.png", "a/.cache/4.png", "c/1.png")
    assert ids(str(tmp_path / "a" / "b" / "3.tif")) == ["3"]
    assert ids(tmp_path / "a") == ids(str(tmp_path / "a")) == ["1", "2", "b/3"]
    assert ids(str(tmp_path / "a" / "*.png")) == ["1"]
    assert ids(str(tmp_path / "a" / "*")) == ["1", "2", "b/3"], "a folder that matches is one that was named"
    assert ids(str(tmp_path / "**" / "*.png")) == ["a/1", "c/1"]
    assert ids(str(tmp_path / "a" / "**")) == ["1", "2", "b/3"]
    assert ids([str(tmp_path / "c"), str(tmp_path / "a" / "*.JPG"), str(tmp_path / "a" / "b" / "3.tif")]) == [
        *("a/2", "a/b/3", "c/1"),
    ]
    assert ids(str(tmp_path / "a" / ".hidden.png")) == [".hidden"]


def test_paths_are_seen_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a/1.png", "2.png")
    monkeypatch.chdir(tmp_path / "a")
    assert ids("1.png") == ids("*.png") == ids(".") == ["1"]
    assert ids(["../*.png", "1.png", "../a/1.png"]) == ids("..") == ids([".", ".."]) == ["2", "a/1"]
    with pytest.raises(DataError, match=r"names .*, which does not exist"):
        ids("n" * 300 + ".png")


def test_an_image_counts_once_however_it_is_reached(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "a/2.png")
    os.symlink(tmp_path / "a" / "1.png", tmp_path / "z.png")
    entries = [str(tmp_path / entry) for entry in ("z.png", "a", "a/../a/1.png", "a/*.png", "a/2.png")]
    assert ids(entries) == ids(entries[::-1]) == ["1", "2"]


def test_ids_keep_a_suffix_only_where_nothing_else_differs_and_hold_what_ids_may(tmp_path: Path) -> None:
    touch(tmp_path, "1.png", "1.jpg", "2.png", "a.b.png", "10:30 O'Neil <x>.png")
    assert ids(tmp_path) == ["1.jpg", "1.png", "10_30 O_Neil _x_", "2", "a.b"]
    touch(tmp_path / "twins", "x:y.png", "x'y.png")
    with pytest.raises(DataError, match=r"both get the id 'x_y'. Rename one"):
        ids(tmp_path / "twins")


def test_a_name_that_looks_like_a_pattern_or_a_number_is_that_file(tmp_path: Path) -> None:
    touch(tmp_path, "[1].jpg", "1.jpg", "b*.png", "bc.png", "1e3", "old [2]/x1.png", "old [2]/x2.png", "old 2/x3.png")
    assert ids(str(tmp_path / "[1].jpg")) == ["[1]"]
    assert ids(str(tmp_path / "b*.png")) == ["b*"]
    assert ids(str(tmp_path / "1e3")) == ["1e3"], "without a suffix, reading tells whether it is an image"
    assert ids(str(tmp_path / "old [2]" / "x?.png")) == ["x1", "x2"]
    (tmp_path / "[1].jpg").unlink()
    assert ids(str(tmp_path / "[1].jpg")) == ["1"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("a/one.png", r"names .*a/one\.png, which does not exist \(did you mean 'ones\.png'\?\)\. Correct the path"),
        ("nowhere/1.png", r"names .*nowhere/1\.png, but there is no folder .*nowhere\."),
        ("a/note.txt", r"names .*a/note\.txt, whose suffix \.txt is not .* Images end in \.png"),
        ("texts", r"names the folder .*texts, but no images were found below it \(it holds 2 \.txt\)"),
        ("void", r"names the folder .*void, but no images were found below it \(it is empty\)"),
        ("a/*.jpg", r"is .*a/\*\.jpg, but no image below .*a matches \*\.jpg \(it holds 1 \.png, 1 \.txt\)\. Correct"),
        ("nowhere/*.png", r"is .* matches nowhere/\*\.png \(it holds 3 folders\)\. There is no .*nowhere\. Correct"),
    ],
)
def test_what_names_no_image_is_refused_with_what_is_there(tmp_path: Path, entry: str, message: str) -> None:
    touch(tmp_path, "a/ones.png", "a/note.txt", "texts/1.txt", "texts/2.txt")
    (tmp_path / "void").mkdir()
    with pytest.raises(DataError, match=rf"data\.init_args\.path {message}"):
        ImagePaths(str(tmp_path / entry))
    with pytest.raises(DataError, match=rf"data\.init_args\.other {message}"):
        ImagePaths(str(tmp_path / "a" / "ones.png"), other=str(tmp_path / entry))


@pytest.mark.parametrize("nothing", ["", [], ["a.png", ""]])
def test_an_empty_path_is_not_the_working_directory(
    tmp_path: Path, nothing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(touch(tmp_path, "a.png"))
    with pytest.raises(ConfigurationError, match="names nothing"):
        ImagePaths(nothing)


# -- masks, partners, patients ---------------------------------------------------------------------------------------


def test_masks_belong_to_images_by_path_and_an_image_may_have_none(tmp_path: Path) -> None:
    touch(tmp_path, "images/a/1.png", "images/2.jpg", "images/3.png", "images/4.png")
    touch(tmp_path, "masks/a/1.png", "masks/2_mask.png", "masks/2_mask_1.png", "masks/3.bmp")
    data = ImagePaths(str(tmp_path / "images"), masks=str(tmp_path / "masks"))
    found = {record.id: [path.name for path in record.masks] for record in data.images.records}
    assert found == {"2": ["2_mask.png", "2_mask_1.png"], "3": ["3.bmp"], "4": [], "a/1": ["1.png"]}
    # Masks of other images are told, and left out; if none belongs to an image they are the wrong ones.
    (note,) = ImagePaths(str(tmp_path / "images/2.jpg"), masks=str(tmp_path / "masks")).images.notes
    assert "2 masks of no image that was named" in note
    assert "3.bmp" in note
    with pytest.raises(DataError, match=r"None of the 4 masks below .* belongs to an image .*: '2_mask\.png'"):
        ImagePaths(str(tmp_path / "images/4.png"), masks=str(tmp_path / "masks"))


def test_only_the_images_of_one_folder_that_a_pattern_or_a_list_names_are_matched_by_their_whole_path(
    tmp_path: Path,
) -> None:
    """The place below what was named counts, also where all images found lie deeper."""
    touch(tmp_path, "images/a/1.png", "masks/a/1.png")
    for path in (tmp_path / "images", tmp_path / "images" / "*" / "*.png"):
        (record,) = ImagePaths(str(path), masks=str(tmp_path / "masks")).images.records
        assert record.id == "1"
        assert record.masks == (tmp_path / "masks" / "a" / "1.png",)


def test_masks_beside_their_images_are_no_images(tmp_path: Path) -> None:
    touch(tmp_path, "1.png", "1_mask.png", "2.png")
    data = ImagePaths(str(tmp_path), masks=str(tmp_path / "*_mask.png"))
    assert {record.id: len(record.masks) for record in data.images.records} == {"1": 1, "2": 0}
    with pytest.raises(DataError, match="no image is left"):
        ImagePaths(str(tmp_path), masks=str(tmp_path))


def test_one_image_takes_the_files_that_are_named_for_it_whatever_their_names(tmp_path: Path) -> None:
    touch(tmp_path, "a/photo.png", "lesion.png", "copy.jpg")
    (record,) = ImagePaths(
        str(tmp_path / "a"), masks=str(tmp_path / "lesion.png"), other=str(tmp_path / "copy.jpg")
    ).images.records
    assert (record.masks, record.other) == ((tmp_path / "lesion.png",), tmp_path / "copy.jpg")


def test_each_image_is_compared_with_the_one_of_its_path_and_lone_ones_are_listed(tmp_path: Path) -> None:
    touch(tmp_path, "x/a/1.png", "x/2.png", "y/a/1.jpg", "y/2.png")
    data = ImagePaths(str(tmp_path / "x"), other=str(tmp_path / "y"))
    assert [record.other for record in data.images.records] == [tmp_path / "y" / "2.png", tmp_path / "y/a/1.jpg"]
    touch(tmp_path, "y/5.png")
    (note,) = ImagePaths(str(tmp_path / "x"), other=str(tmp_path / "y")).images.notes
    assert "1 files of data.init_args.other belong to no image that was named: 5" in note
    touch(tmp_path, "x/3.png", "x/4.png")
    with pytest.raises(DataError, match=r"2 images below .*x have none of the same name .* below .*y .*: '3', '4'"):
        ImagePaths(str(tmp_path / "x"), other=str(tmp_path / "y"))
    touch(tmp_path, "x/3.jpg", "y/3.png")
    with pytest.raises(DataError, match=r"differ only in their suffix.*'3\.jpg', '3\.png'"):
        ImagePaths(str(tmp_path / "x"), other=str(tmp_path / "y"))


def test_patients_are_named_by_the_path_below_what_was_named(tmp_path: Path) -> None:
    touch(tmp_path, "p1/a.png", "p1/b.png", "p2/a.png")
    assert ImagePaths(str(tmp_path), patient=r"(p\d)/").evaluated_groups() == ["p1", "p1", "p2"]
    assert ImagePaths(str(tmp_path)).evaluated_groups() is None
    with pytest.raises(DataError, match="names no patient in 3 of 3 paths"):
        ImagePaths(str(tmp_path), patient=r"(q\d)/")


def test_limit_spreads_over_all_images(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{number}.png" for number in range(9)))
    assert ids(tmp_path, limit=3) == ["0", "4", "8"]
    assert ids(tmp_path, limit=99) == [str(number) for number in range(9)]


# -- batches ---------------------------------------------------------------------------------------------------------


def test_a_batch_holds_what_the_task_sees(tmp_path: Path) -> None:
    for number in range(3):
        write_noise(tmp_path / "x" / f"{number}.png", seed=number, size=(20, 12))
        write_noise(tmp_path / "y" / f"{number}.png", seed=9 + number, size=(30, 18))
    write_mask(tmp_path / "m" / "1.png", (5, 2, 12, 9), size=(20, 12))
    data = ImagePaths(
        str(tmp_path / "x"), masks=str(tmp_path / "m"), other=str(tmp_path / "y"), batch_size=2, num_workers=0
    )
    first, second = batches(data)
    assert [first["id"], second["id"]] == [["0", "1"], ["2"]]
    assert [first["index"].tolist(), second["index"].tolist()] == [[0, 1], [2]]
    assert first["has_mask"].tolist() == [False, True]
    assert not first["mask"][0].any()
    assert first["skipped"] == second["skipped"] == []
    # 12 rows become 8, 20 columns 13 (13.3), of which columns 2 to 9 are kept.
    np.testing.assert_allclose(first["shown"], [[2 * 20 / 13, 0, 10 * 20 / 13, 12]] * 2, rtol=1e-12)
    other = first["other"]
    assert other is not None
    for row, name in enumerate(first["id"]):
        for side, image in (("x", first["image"][row]), ("y", other[row])):
            pixels, _ = fit_geometry(read_pixels(tmp_path / side / f"{name}.png"), SQUARE)
            assert torch.equal(image, torch.from_numpy(pixels.transpose(2, 0, 1).copy()) * 2 - 1)
    mask = np.asarray(Image.open(tmp_path / "m" / "1.png")) > 0
    assert np.array_equal(first["mask"][1].numpy(), fit_mask_geometry(mask, SQUARE))
    assert first["mask"].any()


def test_without_resizing_the_image_is_that_of_the_file(tmp_path: Path) -> None:
    path = write_noise(tmp_path / "1.png", size=(7, 5))
    (batch,) = batches(ImagePaths(str(path)), InputGeometry())
    assert torch.equal(batch["image"][0], read_image(path))
    assert batch["shown"].tolist() == [[0, 0, 7, 5]]
    assert batch["other"] is None


def test_images_of_different_sizes_need_batches_of_their_own(tmp_path: Path) -> None:
    write_noise(tmp_path / "a.png", size=(16, 12))
    write_noise(tmp_path / "b.png", size=(12, 16))
    geometry = InputGeometry(resize=8, step=(4, 4))
    shapes = [tuple(batch["image"].shape) for batch in batches(ImagePaths(str(tmp_path), batch_size=1), geometry)]
    assert shapes == [(1, 3, 8, 12), (1, 3, 12, 8)]
    with pytest.raises(DataError, match=r"'a' \(12×8 pixels\) and 'b' \(8×12\).*batch_size: 1, .*model\.encoder\.fit"):
        batches(ImagePaths(str(tmp_path)), geometry)
    with pytest.raises(DataError, match=r"a\.png becomes 12×8 .*b\.png.* 8×12"):
        batches(ImagePaths(str(tmp_path / "a.png"), other=str(tmp_path / "b.png")), geometry)


def truncated(path: Path) -> None:
    break_file(write_noise(path, size=(64, 64)))


def text(path: Path) -> None:
    path.write_text("not an image")


def tiny(path: Path) -> None:
    write_noise(path, size=(3, 9))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (truncated, "cannot be decoded"),
        (text, "is not an image that can be read"),
        (Path.touch, r"is empty \(0 bytes\)"),
        (tiny, "has 3×9 pixels, fewer along a side than a patch"),
    ],
)
def test_a_file_that_cannot_be_used_ends_the_run_or_is_left_out(
    tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    geometry = InputGeometry(resize=8, crop=(8, 8), smallest=(4, 4))
    write_noise(tmp_path / "a.png")
    spoil(tmp_path / "b.jpg")
    with pytest.raises(DataError, match=rf"b\.jpg {message}.*on_bad_image: skip"):
        batches(ImagePaths(str(tmp_path)), geometry)
    with pytest.raises(DataError, match=rf"b\.jpg {message}") as alone:
        batches(ImagePaths(str(tmp_path / "b.jpg")), geometry)
    assert "on_bad_image" not in str(alone.value)
    data = ImagePaths(str(tmp_path), on_bad_image="skip", batch_size=1)
    first, second = batches(data, geometry)
    assert first["id"] == ["a"]
    (skipped,) = second["skipped"]
    assert isinstance(skipped, SkippedSample)
    assert (skipped.id, skipped.row) == ("b", 1)
    assert second["image"].shape == (0, 3, 8, 8)
    assert second["mask"].shape == (0, 8, 8)
    assert second["mask"].dtype == torch.bool
    assert second["shown"].shape == (0, 4)
    assert data.data_hash("images") == data.data_hash("images")


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_every_image_is_visited_once_on_any_number_of_processes(tmp_path: Path, world: int) -> None:
    for number in range(5):
        write_noise(tmp_path / f"{number}.png", seed=number)
    data = ready(ImagePaths(str(tmp_path), batch_size=2))
    dataset = data.test_dataloader().dataset
    seen: dict[int, torch.Tensor] = {}
    stand_ins = 0
    for rank in range(world):
        rows = list(UnrepeatedDistributedSampler(dataset, rank, world))  # type: ignore[arg-type]
        batch = dataset.collate([dataset[row] for row in rows])  # type: ignore[attr-defined]
        for row, image in zip(batch["index"].tolist(), batch["image"]):
            assert row not in seen
            stand_ins += row < 0
            if row >= 0:
                seen[row] = image
    assert sorted(seen) == list(range(5))
    assert stand_ins == max(0, world - 5)
    assert all(torch.equal(seen[row], fitted(tmp_path / f"{row}.png")) for row in seen)


def fitted(path: Path) -> torch.Tensor:
    pixels, _ = fit_geometry(read_pixels(path), SQUARE)
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy()) * 2 - 1


# -- the datamodule --------------------------------------------------------------------------------------------------


def test_a_trainer_gives_the_images_to_a_task_by_its_geometry(tmp_path: Path) -> None:
    for number in range(3):
        write_noise(tmp_path / f"{number}.png", seed=number, size=(14, 12))
    task = Looker(InputGeometry(resize=(4, 6)))
    data = ImagePaths(str(tmp_path), batch_size=2, num_workers=1)
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=str(tmp_path),
    )
    trainer.test(task, data, verbose=False)
    assert [tuple(batch["image"].shape) for batch in task.batches] == [(2, 3, 4, 6), (1, 3, 4, 6)]
    assert isinstance(data, LabelledData)
    assert len(data.labels) == 0
    assert data.describe() == {
        "images": 3,
        "masks": 0,
        "compared": False,
        "notes": [],
        "patients": None,
        "geometry": {
            "resize": [4, 6],
            "crop": None,
            "step": [1, 1],
            "resize_filter": "bicubic",
            "smallest": [1, 1],
            "crop_rounding": "down",
        },
        "on_bad_image": "error",
        "limit": None,
    }
    assert data.test_dataloader().dataset.ids == ["0", "1", "2"]  # type: ignore[attr-defined]


def test_the_hash_tells_ids_sizes_masks_and_partners_apart(tmp_path: Path) -> None:
    for side in ("x", "y"):
        write_noise(tmp_path / side / "1.png")
        write_noise(tmp_path / side / "2.png", size=(9, 12))
    write_mask(tmp_path / "m" / "1.png")
    x, y, m = (str(tmp_path / folder) for folder in "xym")
    hashes = [
        ImagePaths(path, masks=masks, other=other).data_hash("images")
        for path, masks, other in (
            *((x, None, None), (y, None, None), (x, m, None), (x, None, y), (f"{x}/1.png", None, None)),
        )
    ]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 4
    with pytest.raises(ConfigurationError, match="has one split, 'images'"):
        ImagePaths(x).data_hash("test")


def test_what_it_is_not_for_is_refused(tmp_path: Path) -> None:
    path = str(write_noise(tmp_path / "1.png"))
    data = ImagePaths(path)
    for stage in ("fit", "validate", "predict"):
        with pytest.raises(ConfigurationError, match=f"only `layerscope test` does; got the stage {stage}"):
            data.setup(stage)
    with pytest.raises(ConfigurationError, match="has no input_geometry"):
        data.setup("test")
    with pytest.raises(ConfigurationError, match=r"batch_size is 0"):
        ImagePaths(path, batch_size=0)
    with pytest.raises(ConfigurationError, match=r"on_bad_image is 'warn': expected error, skip"):
        ImagePaths(path, on_bad_image="warn")  # type: ignore[arg-type]

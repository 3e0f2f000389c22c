"""Plain image folders: what is found, how it is split, and what is refused."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image

from layerscope.data.folder import ImageFolder
from layerscope.data.folder_records import read_image_folder
from layerscope.data.images import SUFFIXES
from layerscope.data.records import DataTable
from layerscope.errors import ConfigurationError, DataError, LayerscopeError
from layerscope.protocols import LabelledData


def write(root: Path, *paths: str, size: tuple[int, int] = (8, 8)) -> Path:
    """Images of noise below ``root``, in the format of the suffix."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(len(path)).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / path)
    return root


def touch(root: Path, *paths: str) -> Path:
    """Files that only look like images, for what is decided by path."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def ids(table: DataTable) -> dict[str, list[str]]:
    return {split: [record.id for record in records] for split, records in table.splits.items()}


def test_batches_keep_the_contract_without_labels(tmp_path: Path) -> None:
    write(tmp_path, "train/a/1.png", "train/a/2.JPG", "train/b.tif", "val/1.webp", "val/2.bmp")
    data = ImageFolder(str(tmp_path), batch_size=2, image_size=4)
    assert isinstance(data, LabelledData)
    assert len(data.labels) == 0
    batches = list(data.val_dataloader())
    assert [batch["id"] for batch in batches] == [["val/1", "val/2"]]
    (batch,) = batches
    assert batch["image"].shape == (2, 3, 4, 4)
    assert batch["target"].shape == batch["known"].shape == (2, 0)
    assert batch["target"].dtype == torch.float32
    assert batch["known"].dtype == torch.bool
    assert batch["index"].tolist() == [0, 1]
    assert data.evaluated_groups() is None
    assert sorted(name for batch in data.train_dataloader() for name in batch["id"]) == [
        "train/a/1",
        "train/a/2",
        "train/b",
    ]


def test_every_format_is_found_and_hidden_files_are_not(tmp_path: Path) -> None:
    names = [f"train/{number}{suffix}" for number, suffix in enumerate(SUFFIXES)]
    touch(tmp_path, *names, "train/._0.png", "train/.thumbnails/1.png", "train/notes.txt", "elsewhere/2.png")
    assert ids(read_image_folder(tmp_path))["train"] == [f"train/{number}" for number in range(len(SUFFIXES))]


def test_files_that_differ_only_in_the_suffix_keep_it(tmp_path: Path) -> None:
    touch(tmp_path, "train/a.png", "train/a.jpg", "train/b.png", "train/c.v2.png")
    assert ids(read_image_folder(tmp_path))["train"] == ["train/a.jpg", "train/a.png", "train/b", "train/c.v2"]
    touch(tmp_path, "train/a.png.tif")
    with pytest.raises(DataError, match=r"a\.png\.tif and .*a\.png both get the id 'train/a\.png'\. Rename"):
        read_image_folder(tmp_path)


def test_linked_folders_are_followed_and_counted_once(tmp_path: Path) -> None:
    outside = touch(tmp_path / "outside", "1.png")
    root = touch(tmp_path / "root", "train/2.png")
    (root / "train" / "clinic").symlink_to(outside)
    assert ids(read_image_folder(root))["train"] == ["train/2", "train/clinic/1"]
    (root / "train" / "loop").symlink_to(root / "train")
    with pytest.raises(DataError, match=r"root/train and .*/train/loop are the same, by a link"):
        read_image_folder(root)
    (root / "train" / "loop").unlink()
    (root / "val").symlink_to(root / "train")
    with pytest.raises(DataError, match=r"root/train and .*root/val are the same"):
        read_image_folder(root)


def test_the_share_of_val_and_that_added_images_move_none(tmp_path: Path) -> None:
    touch(tmp_path, *(f"clinic_{number % 3}/{number:04}.png" for number in range(600)))
    before = ids(read_image_folder(tmp_path, val_fraction=0.2))
    assert not before["test"]
    assert len(before["train"]) + len(before["val"]) == 600
    # Four standard errors of a share of 0.2 among 600.
    assert abs(len(before["val"]) / 600 - 0.2) < 4 * (0.2 * 0.8 / 600) ** 0.5
    larger = ids(read_image_folder(tmp_path, val_fraction=0.4))
    assert set(before["val"]) < set(larger["val"])

    touch(tmp_path, *(f"clinic_3/{number:04}.png" for number in range(100)))
    # A second file of the same name changes the id of the first.
    twin = before["val"][0]
    touch(tmp_path, f"{twin}.tif")
    after = ids(read_image_folder(tmp_path, val_fraction=0.2))
    assert {name for name in after["val"] if not name.startswith(("clinic_3", twin))} == set(before["val"]) - {twin}
    assert {f"{twin}.png", f"{twin}.tif"} <= set(after["val"])


def test_the_hash_is_the_same_in_every_version(tmp_path: Path) -> None:
    touch(tmp_path, *(f"a/{number}.png" for number in range(40)))
    # From `printf 'path a/0' | sha256sum` and so on: those whose first hexadecimal digit is below 4, a quarter of 16.
    assert sorted(ids(read_image_folder(tmp_path, val_fraction=0.25))["val"]) == [
        "a/12",
        "a/17",
        "a/22",
        "a/27",
        "a/29",
        "a/32",
        "a/35",
        "a/9",
    ]


def test_patients_stay_together(tmp_path: Path) -> None:
    paths = [f"{side}/p{patient:02}_{visit}.png" for side in "LR" for patient in range(40) for visit in range(2)]
    touch(tmp_path, *paths)
    table = read_image_folder(tmp_path, val_fraction=0.3, patient=r"(p\d+)_")
    patients = {split: {record.group for record in records} for split, records in table.splits.items()}
    assert patients["train"] | patients["val"] == {f"p{patient:02}" for patient in range(40)}
    assert not patients["train"] & patients["val"]
    assert len(patients["val"]) > 1
    assert len(table.splits["val"]) == 4 * len(patients["val"])
    assert table.split("val").groups() == [record.id[2:5] for record in table.splits["val"]]


def test_patients_across_folders_or_lists_are_refused(tmp_path: Path) -> None:
    root = touch(tmp_path / "data", "train/p1_a.png", "train/p2_a.png", "val/p1_b.png", "val/p3_a.png")
    with pytest.raises(DataError, match=r"in more than one split: p1 \(train: train/p1_a, val: val/p1_b\)\. "):
        read_image_folder(root, patient=r"(p\d)")
    splits = tmp_path / "splits.yaml"
    splits.write_text(yaml.safe_dump({"train": ["train/p1_a"], "test": ["val/p1_b.png"]}))
    with pytest.raises(DataError, match=r"splits\.yaml is in more than one split: p1 "):
        read_image_folder(root, split_file=splits, patient=r"(p\d)")


def test_a_split_file_lists_ids_or_paths(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "a/2.jpg", "a/2.png", "b/3.png", "b/4.png")
    splits = tmp_path / "splits.yaml"
    splits.write_text(yaml.safe_dump({"train": ["b/3", "a/1.png"], "val": ["a/2.png"]}))
    assert ids(read_image_folder(tmp_path, split_file=splits)) == {
        "train": ["b/3", "a/1"],
        "val": ["a/2.png"],
        "test": [],
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"val": ["a/2"]}, r"val, entry 1: 'a/2' could be a/2\.jpg and a/2\.png\. Write the suffix"),
        ({"val": ["a/1", "a/11.png"]}, r"val, entry 2: 'a/11\.png' is neither .*\(did you mean 'a/1\.png'"),
        ({"val": ["a/1"], "train": ["a/1.png"]}, r"'a/1(\.png)?' is listed twice, first in .*splits\.yaml, "),
        ({"valid": ["a/1"]}, r"must have the keys train, val and test, each a list; got \['valid'\]"),
    ],
)
def test_wrong_split_files(tmp_path: Path, content: dict, message: str) -> None:
    touch(tmp_path, "a/1.png", "a/2.jpg", "a/2.png")
    splits = tmp_path / "splits.yaml"
    splits.write_text(yaml.safe_dump(content))
    with pytest.raises(DataError, match=message):
        read_image_folder(tmp_path, split_file=splits)


@pytest.mark.parametrize(
    ("paths", "arguments", "error", "message"),
    [
        (["a.png"], {}, ConfigurationError, r"no folder train, val or test in it\. Set data\.init_args\.val_fraction"),
        (["a.png"], {"val_fraction": 1.0}, ConfigurationError, r"val_fraction is 1\.0; it must be above 0 and below 1"),
        (["a.png"], {"val_fraction": 0.1, "split_file": Path("s")}, ConfigurationError, "both val_fraction and split_"),
        (
            ["train/a.png", "test/b.png"],
            {"val_fraction": 0.1},
            ConfigurationError,
            r"is split by its folders train, test, .* or set root to .*/train",
        ),
        (["a.txt"], {"val_fraction": 0.1}, DataError, r"No images were found below .*images end in \.png, "),
        (["train/.hidden.png"], {}, DataError, "No images were found below"),
        (["train/it's.png"], {}, DataError, r"it's\.png: the id .* contains"),
        (["train/a.png"], {"patient": "(p"}, ConfigurationError, r"patient is '\(p', which is no regular expression"),
        (["train/a.png"], {"patient": "p"}, ConfigurationError, "has no group. Put parentheses"),
        (
            ["train/p1.png", "train/x.png", "val/y.png"],
            {"patient": r"(p\d)"},
            DataError,
            r"names no patient in 2 of 3 paths below .*, such as 'train/x\.png', 'val/y\.png'\. Correct",
        ),
        (["train/_1.png"], {"patient": r"(p?)_"}, DataError, "names no patient in 1 of 1 paths"),
    ],
)
def test_what_cannot_be_split(
    tmp_path: Path, paths: list[str], arguments: dict, error: type[LayerscopeError], message: str
) -> None:
    touch(tmp_path, *paths)
    with pytest.raises(error, match=message):
        read_image_folder(tmp_path, **arguments)


def test_empty_splits_say_how_to_fill_them(tmp_path: Path) -> None:
    folders = touch(tmp_path / "folders", "train/1.png")
    with pytest.raises(DataError, match=r"'val' of .* is empty \(.*train 1, val 0, test 0\)\. Put images into the fo"):
        ImageFolder(str(folders)).setup("fit")
    nested = touch(tmp_path / "nested", "1.png", "2.png")
    data = ImageFolder(str(nested), val_fraction=1e-9)
    with pytest.raises(
        DataError, match=r"'val' .*\(val_fraction 1e-09 of its images\) .* Choose another val_fraction, or"
    ):
        data.setup("fit")
    with pytest.raises(DataError, match=r"root is .*/none, which is no directory"):
        ImageFolder(str(tmp_path / "none"))


def test_a_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "train/open/1.png", "train/shut/2.png")
    real = os.scandir

    # Root, as tests often run, may read any folder.
    def scandir(path: Path) -> object:
        if Path(path).name == "shut":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=r"train/shut cannot be read \(Permission denied\)\. Give yourself"):
        read_image_folder(tmp_path)


class Reader(LightningModule):
    """Notes what each loop reads."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: dict[str, list[str]] = {"train": [], "val": [], "test": []}

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        self.seen["train"] += batch["id"]
        return self.weight * batch["image"].mean()

    def validation_step(self, batch: dict, batch_idx: int) -> None:
        self.seen["val"] += batch["id"]

    def test_step(self, batch: dict, batch_idx: int) -> None:
        self.seen["test"] += batch["id"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_fit_reads_train_and_val_and_test_reads_eval_split(tmp_path: Path) -> None:
    write(tmp_path, "train/1.png", "train/2.png", "val/3.png", "test/4.png")
    data, reader = ImageFolder(str(tmp_path), batch_size=2, eval_split="test"), Reader()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(accelerator="cpu", max_epochs=1, num_sanity_val_steps=0, enable_model_summary=False, **quiet)
    trainer.fit(reader, datamodule=data)
    assert {stage: sorted(names) for stage, names in reader.seen.items()} == {
        "train": ["train/1", "train/2"],
        "val": ["val/3"],
        "test": [],
    }
    trainer.test(reader, datamodule=data, verbose=False)
    assert reader.seen["test"] == ["test/4"]
    # Neither train nor val is needed for that.
    only_test = ImageFolder(str(write(tmp_path / "t", "test/4.png")), eval_split="test")
    only_test.setup("test")
    with pytest.raises(DataError, match=r"'train' of .* is empty"):
        only_test.setup("fit")


class AsksFor(Callback):
    """Asks for a split in the middle of a training."""

    def __init__(self, asks: Callable[[ImageFolder], object]) -> None:
        self.asks = asks

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        self.asks(trainer.datamodule)


@pytest.mark.parametrize(
    "asks",
    [
        lambda data: data.dataset("test"),
        ImageFolder.test_dataloader,
        ImageFolder.predict_dataloader,
        ImageFolder.evaluated_groups,
        lambda data: data.data_hash("test"),
    ],
)
def test_the_test_split_is_refused_while_a_training_runs(tmp_path: Path, asks: Callable[[ImageFolder], object]) -> None:
    write(tmp_path, "train/1.png", "val/2.png", "test/3.png")
    data = ImageFolder(str(tmp_path), eval_split="test")
    before = data.dataset("test")
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(accelerator="cpu", max_epochs=1, callbacks=[AsksFor(asks)], enable_model_summary=False, **quiet)
    with pytest.raises(
        ConfigurationError, match=r"the split 'test' while .* no test set left\. .*eval_split to val, or"
    ):
        trainer.fit(Reader(), datamodule=data)
    assert data.dataset("test") is before  # the training is over
    with_val = ImageFolder(str(tmp_path), eval_split="val")
    trainer = Trainer(accelerator="cpu", max_epochs=1, callbacks=[AsksFor(ImageFolder.test_dataloader)], **quiet)
    trainer.fit(Reader(), datamodule=with_val)


def test_hash_options_and_hparams(tmp_path: Path) -> None:
    write(tmp_path, "train/1.png", "train/2.png", "train/3.png", "val/4.png")
    data = ImageFolder(str(tmp_path), limit=2, size_multiple=8)
    assert data.dataset("train").ids == ["train/1", "train/3"]
    hashes = {data.data_hash("train"), data.data_hash("val"), ImageFolder(str(tmp_path)).data_hash("train")}
    assert len(hashes) == 3
    write(tmp_path, "train/1.png", size=(12, 8))
    changed = ImageFolder(str(tmp_path), limit=2, size_multiple=8)
    assert changed.data_hash("train") not in hashes
    with pytest.raises(DataError, match=r"1\.png has 12×8 pixels, which the model's downsampling of 8 does not divide"):
        list(changed.train_dataloader())
    with pytest.raises(ConfigurationError, match="batch_size is 0"):
        ImageFolder(str(tmp_path), batch_size=0)
    hparams = dict(ImageFolder(str(tmp_path), patient=r"(\d)", image_size=4).hparams)
    assert hparams["patient"] == r"(\d)"
    assert len(hparams) == 13
    assert all(type(value) in (str, int, float, type(None)) for value in hparams.values())

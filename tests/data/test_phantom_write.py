"""Both phantoms on disk: complete, reproducible image by image, and never half written."""

import csv
import errno
import json
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from layerscope.cli import main
from layerscope.data.multilabel import MultilabelImages
from layerscope.data.phantom import write
from layerscope.data.phantom.fundus import LESIONS, FundusSettings, fundus_image
from layerscope.data.phantom.write import PhantomKind, patients, write_phantom
from layerscope.errors import ConfigurationError, DataError

KINDS: tuple[PhantomKind, ...] = ("exact", "fundus")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("kind", KINDS)
def test_image_i_is_the_same_whatever_n(tmp_path: Path, kind: PhantomKind) -> None:
    few = write_phantom(tmp_path / "few", kind, n=12, size=32, seed=5)
    many = write_phantom(tmp_path / "many", kind, n=20, size=32, seed=5)
    other = write_phantom(tmp_path / "other", kind, n=12, size=32, seed=6)
    for path in (few / "images").iterdir():
        assert path.read_bytes() == (many / "images" / path.name).read_bytes()
        assert path.read_bytes() != (other / "images" / path.name).read_bytes()
    assert rows(few / "labels.csv") == rows(many / "labels.csv")[:12]
    short, long = rows(few / "lesions.csv"), rows(many / "lesions.csv")
    assert short == long[: len(short)]


@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_those_of_the_recorded_lesions(tmp_path: Path, kind: PhantomKind) -> None:
    root = write_phantom(tmp_path / "phantom", kind, n=30, size=64, seed=1, um_per_px=10.0)
    recorded = defaultdict(set)
    for lesion in rows(root / "lesions.csv"):
        recorded[lesion["id"]].add(lesion["label"])
        assert 0 <= float(lesion["x"]) <= 64
        assert 0 <= float(lesion["y"]) <= 64
        assert float(lesion["diameter_um"]) == pytest.approx(10 * float(lesion["diameter"]), abs=0.1)
    table = rows(root / "labels.csv")
    names = list(table[0])[4:]
    assert len(table) == 30
    assert any(row[name] == "1" for row in table for name in names)
    for row in table:
        assert {name for name in names if row[name] == "1"} == recorded[row["id"]]
    assert json.loads((root / "phantom.json").read_text())["kind"] == kind
    assert kind in (root / "README.txt").read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_the_smallest_phantom_is_a_whole_data_set(tmp_path: Path, kind: PhantomKind) -> None:
    root = write_phantom(tmp_path / "phantom", kind, n=12, size=32)
    module = MultilabelImages(str(root), str(root / "schema.yaml"), str(root / "labels.csv"), batch_size=2)
    for split in ("train", "val", "test"):
        assert len(module.dataset(split)) >= 1
    assert next(iter(module.val_dataloader()))["image"].shape[1:] == (3, 32, 32)
    assert len(module.labels) == 5


@pytest.mark.parametrize("seed", range(4))
def test_patients_have_one_to_three_images_and_one_split(seed: int) -> None:
    images, splits = defaultdict(int), defaultdict(set)
    shares = defaultdict(int)
    for _, (patient, split) in zip(range(2000), patients(seed)):
        images[patient] += 1
        splits[patient].add(split)
        shares[split] += 1
    assert set(images.values()) == {1, 2, 3}
    assert all(len(found) == 1 for found in splits.values())
    assert shares["train"] / 2000 == pytest.approx(0.60, abs=0.03)
    assert shares["val"] / 2000 == pytest.approx(0.15, abs=0.03)
    assert shares["test"] / 2000 == pytest.approx(0.25, abs=0.03)
    assert {split for _, (_, split) in zip(range(12), patients(seed))} == {"train", "val", "test"}


def test_exact_images_are_16_bit_grey_and_fundus_8_bit_rgb(tmp_path: Path) -> None:
    exact = write_phantom(tmp_path / "exact", "exact", n=12, size=32)
    fundus = write_phantom(tmp_path / "fundus", "fundus", n=12, size=32)
    with Image.open(exact / "images" / "00000.png") as image:
        assert np.asarray(image).dtype == np.uint16
        assert len(np.unique(np.asarray(image))) > 700
    with Image.open(fundus / "images" / "00000.png") as image:
        assert image.mode == "RGB"


def test_fundus_lesions_are_where_the_records_say() -> None:
    """Without the lesions the image would be the same but for them: compare each disk with a ring around it."""
    settings = FundusSettings(seed=2)
    darker, lighter = [], []
    for index in range(40):
        image, lesions = fundus_image(settings, index, index)
        green = image[..., 1].astype(float)
        y, x = np.mgrid[:128, :128] + 0.5
        for lesion in lesions:
            distance = np.hypot(x - lesion.x, y - lesion.y)
            inside = green[distance <= max(lesion.diameter / 2, 0.8)].mean()
            ring = np.median(green[(distance > lesion.diameter * 0.8) & (distance < lesion.diameter * 0.8 + 4)])
            (darker if lesion.contrast < 0 else lighter).append((inside - ring) / 255)
            assert (lesion.contrast < 0) == (lesion.label in ("microaneurysm", "haemorrhage"))
    assert len(darker) > 20
    assert len(lighter) > 20
    assert np.mean(np.array(darker) < 0) > 0.95
    assert np.mean(np.array(lighter) > 0) > 0.95


def test_fundus_has_a_dark_surround_a_red_retina_and_a_bright_optic_disc() -> None:
    discs = 0
    for index in range(40):
        image, lesions = fundus_image(FundusSettings(), index, index)
        assert image[:3, :3].max() == 0
        assert image[-3:, -3:].max() == 0
        red, green, blue = (image[32:96, 32:96, channel].mean() for channel in range(3))
        assert red > 1.4 * green > 1.4 * blue
        if all(lesion.contrast < 0 for lesion in lesions):
            # The nerve enters at 15 degrees of the 45 that are seen: a quarter to a third of the side off centre.
            y, x = np.argwhere(image[..., 1] > np.quantile(image[..., 1], 0.99)).mean(axis=0)
            assert 0.2 < abs(x / 128 - 0.5) < 0.33
            assert abs(y / 128 - 0.5) < 0.12
            discs += 1
    assert discs >= 5


def test_lesion_sizes_are_kept_and_scale_with_the_image() -> None:
    sizes = tuple(kind.diameter for kind in LESIONS)
    assert sizes == (2, 4, 8, 16, 32)
    for index in range(20):
        for lesion in fundus_image(FundusSettings(), index, index)[1]:
            nominal = next(kind.diameter for kind in LESIONS if kind.label == lesion.label)
            assert 0.89 * nominal <= lesion.diameter <= 1.11 * nominal
    assert write._sizes(None, sizes, 256, 1.0) == (4, 8, 16, 32, 64)
    assert write._sizes(None, sizes, 32, 1.0) == (1, 1, 2, 4, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 11}, "at least 12 images"),
        ({"kind": "lung"}, "no phantom of kind 'lung'"),
        ({"size": 16}, "at least 32 pixels"),
        ({"lesion_sizes": [2, 4]}, "as many lesion sizes"),
        ({"lesion_sizes": [2, 4, 8, 16, 60]}, "A lesion of 60 pixels does not fit"),
        ({"um_per_px": 0.0}, "um_per_px is 0.0"),
    ],
)
def test_impossible_settings_leave_nothing_behind(tmp_path: Path, arguments: dict, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        write_phantom(tmp_path / "phantom", **{"n": 12, **arguments})
    assert not list(tmp_path.iterdir())


def test_only_a_phantom_is_overwritten_and_only_when_asked(tmp_path: Path) -> None:
    root = write_phantom(tmp_path / "phantom", n=12, size=32, seed=0)
    with pytest.raises(DataError, match=r"already holds a phantom\. Pass --overwrite"):
        write_phantom(root, n=13, size=32)
    write_phantom(root, n=13, size=32, overwrite=True)
    assert len(list((root / "images").iterdir())) == 13
    mine = tmp_path / "mine"
    mine.mkdir()
    write_phantom(mine, n=12, size=32)
    (mine / "phantom.json").unlink()
    with pytest.raises(DataError, match="is no phantom, so it is left alone"):
        write_phantom(mine, n=12, size=32, overwrite=True)
    assert len(list((mine / "images").iterdir())) == 12


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_full_disk_or_ctrl_c_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    root = write_phantom(tmp_path / "phantom", n=12, size=32, seed=1)
    before = (root / "images" / "00003.png").read_bytes()
    saved = Image.Image.save

    def save(image: Image.Image, path: Path, **options: int) -> None:
        if path.stem == "00007":
            raise failure
        saved(image, path, **options)

    monkeypatch.setattr(Image.Image, "save", save)
    expected = DataError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as error:
        write_phantom(root, n=12, size=32, seed=2, overwrite=True)
    if isinstance(failure, OSError):
        assert "No space left on device" in str(error.value)
        assert str(root) in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["phantom"]
    assert (root / "images" / "00003.png").read_bytes() == before


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "phantom"
    command = ["phantom", str(out), "--kind", "exact", "--n", "12", "--size", "48", "--lesion-sizes", "3,6"]
    assert main([*command, "--seed", "4"]) == 0
    assert f"--data.init_args.root={out}" in capsys.readouterr().out
    assert list(rows(out / "labels.csv")[0]) == ["id", "path", "split", "group", "disk_03px", "disk_06px"]
    record = json.loads((out / "phantom.json").read_text())
    assert record["settings"]["seed"] == 4
    assert main(command) == 1
    assert "Pass --overwrite to replace it" in " ".join(capsys.readouterr().err.split())
    assert main([*command, "--overwrite"]) == 0
    assert main(["phantom", str(tmp_path / "b"), "--lesion-sizes", "3,x"]) == 2
    assert main(["phantom", str(tmp_path / "b"), "--n", "3"]) == 2
    assert main(["phantom", "--help"]) == 0
    assert "--lesion-sizes" in capsys.readouterr().out


def test_no_clock_enters_the_files(tmp_path: Path) -> None:
    first = write_phantom(tmp_path / "a", n=12, size=32)
    time.sleep(0.01)
    second = write_phantom(tmp_path / "b", n=12, size=32)
    for path in sorted(first.rglob("*.*")):
        assert path.read_bytes() == (second / path.relative_to(first)).read_bytes()


def test_help_of_the_command_loads_nothing_heavy() -> None:
    code = (
        "import sys; from layerscope.cli import main; main(['phantom', '--help']); "
        "sys.exit(bool({'numpy', 'torch', 'PIL', 'scipy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0

"""The pair phantom: equal but for lesions of one kind, reproducible pair by pair, and read by ``PairFolder``."""

import csv
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation

from layerscope.cli import main
from layerscope.data.pairs.folder import PairFolder
from layerscope.data.phantom.fundus import LESIONS, FundusSettings, Lesion, fundus_image, fundus_pair
from layerscope.data.phantom.write import write_phantom
from layerscope.errors import ConfigurationError, DataError

KINDS = [kind.label for kind in LESIONS]


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantom(tmp_path_factory.mktemp("pairs") / "phantom", "pairs", n=15, size=64, seed=3)


def lesions(root: Path) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = defaultdict(list)
    with (root / "lesions.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            found[row["id"]].append(row)
    return found


def test_pairs_differ_at_their_lesions_only(phantom: Path) -> None:
    recorded = lesions(phantom)
    names = sorted(path.stem for path in (phantom / "positive").iterdir())
    assert names == sorted(recorded)
    assert len(names) == 15
    y, x = np.mgrid[:64, :64] + 0.5
    for name in names:
        positive, negative, mask = (
            np.asarray(Image.open(phantom / side / f"{name}.png")) for side in ("positive", "negative", "masks")
        )
        differ = (positive != negative).any(axis=2)
        lesion = mask > 0
        assert lesion.any()
        # Soft edges reach three tenths of a diameter beyond the half that the mask ends at.
        reach = max(float(row["diameter"]) for row in recorded[name]) * 0.4 + 2
        near = np.zeros((64, 64), bool)
        for row in recorded[name]:
            near |= np.hypot(x - float(row["x"]), y - float(row["y"])) < float(row["diameter"]) / 2 + reach
        assert not (differ & ~near).any()
        assert not (differ & ~binary_dilation(lesion, iterations=int(reach) + 1)).any()
        assert (differ & lesion).sum() > 0.8 * lesion.sum()


def test_kinds_take_turns_and_each_pair_has_one(phantom: Path) -> None:
    for name, rows in lesions(phantom).items():
        assert {row["label"] for row in rows} == {KINDS[int(name.split("_")[1]) % 5]}
    assert json.loads((phantom / "phantom.json").read_text())["lesions"] == KINDS


def test_pair_i_is_the_same_whatever_n_and_the_seed_decides(phantom: Path, tmp_path: Path) -> None:
    few = write_phantom(tmp_path / "few", "pairs", n=4, size=64, seed=3)
    other = write_phantom(tmp_path / "other", "pairs", n=4, size=64, seed=4)
    paths = sorted(path.relative_to(few) for path in few.rglob("*.png"))
    assert len(paths) == 12
    for path in paths:
        assert (few / path).read_bytes() == (phantom / path).read_bytes()
    assert all(lesions(few)[name] == lesions(phantom)[name] for name in lesions(few))
    assert {path.read_bytes() for path in (few / "positive").iterdir()}.isdisjoint(
        path.read_bytes() for path in (other / "positive").iterdir()
    )


def test_pairs_changed_nothing_of_the_fundus_phantom() -> None:
    """Figures from before there were pairs: the lesions, and pixels whose noise is drawn after them."""
    image, drawn = fundus_image(FundusSettings(48, (2, 4, 8, 12, 16), seed=7), 1, 0)
    assert len(drawn) == 2
    assert drawn[1] == Lesion("haemorrhage", 25.24, 22.409, 7.744, -0.1805)
    expected = [[243, 209, 152], [166, 75, 33], [174, 85, 40]]
    np.testing.assert_allclose(image[24, 10:40:10].astype(int), expected, rtol=0, atol=1)
    np.testing.assert_allclose(image[30, 20:24, 1].astype(int), [80, 78, 74, 72], rtol=0, atol=1)


@pytest.mark.parametrize("size", [32, 128])
@pytest.mark.parametrize("label", KINDS)
def test_every_lesion_is_in_the_mask(size: int, label: str) -> None:
    """Also microaneurysms of one pixel, which may cover more than half of none."""
    sizes = tuple(max(1.0, kind.diameter * size / 128) for kind in LESIONS)
    for index in range(8):
        pair = fundus_pair(FundusSettings(size, sizes, seed=1), index, index, label)
        assert pair.lesions
        y, x = np.argwhere(pair.mask).T + 0.5
        for lesion in pair.lesions:
            assert lesion.label == label
            assert np.hypot(x - lesion.x, y - lesion.y).min() <= max(1.0, lesion.diameter / 2)


def test_it_is_read_as_pairs_with_patients(phantom: Path) -> None:
    data = PairFolder(str(phantom), image_size=32, patient="(p[0-9]+)_")
    (first, *_) = data.test_dataloader()[0]
    assert first["has_mask"].all()
    assert first["mask"].flatten(1).any(dim=1).all()
    assert data.describe()["noise_floor"] == "negatives"
    groups = dict(zip(data.test_dataloader()[0].dataset.ids, data.evaluated_groups() or []))
    assert all(
        groups[one] != groups[other]
        for one, other in (name.split(" | ") for name in data.test_dataloader()[1].dataset.ids)
    )


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "phantom"
    command = ["phantom", str(out), "--kind", "pairs", "--n", "3", "--size", "48", "--lesions", "atrophy,haemorrhage"]
    assert main(command) == 0
    assert f"Wrote 3 pairs to {out}. Use it with --data.init_args.root={out}" in capsys.readouterr().out
    assert [{row["label"] for row in rows} for _, rows in sorted(lesions(out).items(), key=lambda p: p[0][-1])] == [
        {"atrophy"},
        {"haemorrhage"},
        {"atrophy"},
    ]
    assert main(command) == 1
    assert main([*command, "--overwrite", "--seed", "2"]) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "README.txt",
        "lesions.csv",
        "masks",
        "negative",
        "phantom.json",
        "positive",
    ]
    assert main(["phantom", "--help"]) == 0
    text = capsys.readouterr().out
    assert "--lesions" in text
    assert "pairs" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lesions": ["drusen"]}, "kinds of lesion of a phantom are microaneurysm, .*; got drusen"),
        ({"lesions": []}, "got none"),
        ({"n": 0}, "at least one pair"),
        ({"kind": "fundus", "lesions": ["atrophy"]}, "got kind 'fundus'"),
    ],
)
def test_impossible_settings_leave_nothing_behind(tmp_path: Path, arguments: dict, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        write_phantom(tmp_path / "phantom", **{"kind": "pairs", **arguments})
    assert not list(tmp_path.iterdir())


def test_what_is_no_phantom_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(DataError, match="is no phantom, so it is left alone"):
        write_phantom(tmp_path, "pairs", n=1, size=32, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]

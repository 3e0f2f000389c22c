"""The noise floor: which negatives are compared with which."""

from pathlib import Path

import pytest
import torch
from image_files import write_noise
from PIL import Image

from layerscope.data.pairs.floor import choose_floor
from layerscope.data.pairs.folder import PairFolder
from layerscope.data.pairs.records import PairRecord
from layerscope.errors import DataError


def records(*groups: str) -> list[PairRecord]:
    return [PairRecord(f"{row}", Path(f"p{row}"), Path(f"n{row}"), (), group) for row, group in enumerate(groups)]


def test_negatives_go_two_by_two() -> None:
    floor = choose_floor(records(*[""] * 7), "negatives", 64, False)
    assert (floor.kind, floor.note) == ("negatives", None)
    assert [row.id for row in floor.rows] == ["0 | 1", "2 | 3", "4 | 5"]
    assert [row.id for row in choose_floor(records(*[""] * 7), "negatives", 2, False).rows] == ["0 | 1", "2 | 3"]


@pytest.mark.parametrize("groups", ["aabbcdde", "abcdabcd", "aaaabcde"])
def test_no_patient_is_in_two_couples(groups: str) -> None:
    """Couples are resampled as independent, which those of one patient would not be."""
    floor = choose_floor(records(*groups), "negatives", 64, False)
    assert floor.kind == "negatives"
    used = [record.group for row in floor.rows for record in (row.first, row.second)]
    assert len(used) == len(set(used)) == len(set(groups)) // 2 * 2


@pytest.mark.parametrize(
    ("groups", "why"), [(["", "", ""], "found 1 among 3"), (list("aaabbbccc"), "of different patients")]
)
def test_too_few_couples_become_the_same_image_and_say_so(groups: list[str], why: str) -> None:
    floor = choose_floor(records(*groups), "negatives", 64, False)
    assert floor.kind == "same_image"
    assert [row.id for row in floor.rows] == [str(row) for row in range(len(groups))]
    assert why in (floor.note or "")


def test_the_same_image_and_none() -> None:
    assert [row.id for row in choose_floor(records(*[""] * 7), "same_image", 3, False).rows] == ["0", "1", "2"]
    assert choose_floor(records(*[""] * 7), "none", 3, False).rows == ()


def test_couples_have_one_size_where_images_keep_theirs(tmp_path: Path) -> None:
    for number in range(10):
        side = 8 if number % 2 else 12
        for folder in ("positive", "negative"):
            write_noise(tmp_path / folder / f"{number}.png", seed=number, size=(side, side))
    resized = PairFolder(str(tmp_path), image_size=8)
    ids = resized.test_dataloader()[0].dataset.ids
    assert resized.test_dataloader()[1].dataset.ids == [f"{ids[row]} | {ids[row + 1]}" for row in range(0, 10, 2)]
    kept = PairFolder(str(tmp_path), image_size=None, batch_size=1).test_dataloader()[1]
    couples = [name.split(" | ") for name in kept.dataset.ids]
    assert len(couples) == 4
    assert all(int(one) % 2 == int(other) % 2 for one, other in couples)
    assert {batch["positive"].shape[-1] for batch in kept} == {8, 12}


def test_the_batch_holds_both_negatives(tmp_path: Path) -> None:
    for number in range(5):
        for folder in ("positive", "negative"):
            write_noise(tmp_path / folder / f"{number}.png", seed=number + 5 * len(folder))
    pairs, floor = PairFolder(str(tmp_path), image_size=None).test_dataloader()
    negatives = {name: image for batch in pairs for name, image in zip(batch["id"], batch["negative"])}
    (batch,) = floor
    assert batch["role"] == "floor"
    assert not batch["mask"].any()
    assert not batch["has_mask"].any()
    assert batch["index"].tolist() == [0, 1]
    for place, couple in enumerate(batch["id"]):
        one, other = couple.split(" | ")
        assert torch.equal(batch["positive"][place], negatives[one])
        assert torch.equal(batch["negative"][place], negatives[other])


def test_a_couple_of_which_exif_turns_one_is_refused(tmp_path: Path) -> None:
    for number in range(4):
        for folder in ("positive", "negative"):
            write_noise(tmp_path / folder / f"{number}.jpg", size=(16, 8))
    data = PairFolder(str(tmp_path), image_size=None, batch_size=1)
    turned = data.test_dataloader()[0].dataset.ids[1]
    exif = Image.Exif()
    exif[0x0112] = 6
    for folder in ("positive", "negative"):
        path = tmp_path / folder / f"{turned}.jpg"
        Image.open(path).save(path, exif=exif)
    with pytest.raises(DataError, match=r"has 16×8 pixels and its partner in the noise floor .* has 8×16"):
        list(data.test_dataloader()[1])


def test_few_pairs_say_in_describe_what_became_of_the_floor(tmp_path: Path) -> None:
    for number in range(3):
        for folder in ("positive", "negative"):
            write_noise(tmp_path / folder / f"{number}.png")
    about = PairFolder(str(tmp_path), image_size=8).describe()
    assert (about["noise_floor_asked"], about["noise_floor"], about["floor_rows"]) == ("negatives", "same_image", 3)
    assert "at least 2 couples" in about["noise_floor_note"]

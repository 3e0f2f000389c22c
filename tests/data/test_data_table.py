"""The three layouts of a data set, and what is said about broken ones: file, row and remedy."""

from pathlib import Path

import pytest
from PIL import Image

from layerscope.data.records import DataTable
from layerscope.data.schema import LabelSchema, load_label_schema
from layerscope.data.table import read_data_table
from layerscope.errors import DataError

HEADER = "id,path,split,group,a,b\n"


@pytest.fixture
def schema(tmp_path: Path) -> LabelSchema:
    (tmp_path / "schema.yaml").write_text("labels: [a, b]")
    return load_label_schema(tmp_path / "schema.yaml")


def picture(path: Path, size: tuple[int, int] = (4, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)


def read(tmp_path: Path, schema: LabelSchema, rows: str, header: str = HEADER) -> DataTable:
    (tmp_path / "labels.csv").write_text(header + rows, encoding="utf-8")
    for name in ("1", "2", "3", "4"):
        picture(tmp_path / f"{name}.png")
    return read_data_table(tmp_path, schema, tmp_path / "labels.csv")


GOOD = "x1,1.png,train,p1,1,0\nx2,2.png,val,p2,,-1\nx3,3.png,test,p3,0,1\nx4,4.png,test,p3,1.0,0.0\n"


def test_table(tmp_path: Path, schema: LabelSchema) -> None:
    table = read(tmp_path, schema, GOOD)
    test = table.split("test")
    assert [record.id for record in test.records] == ["x3", "x4"]
    assert test.target().tolist() == [[0, 1], [1, 0]]
    assert test.known().all()
    assert test.groups() == ["p3", "p3"]
    val = table.split("val")
    assert not val.known().any()
    assert not val.target().any()


def test_spreadsheet_exports_are_understood(tmp_path: Path, schema: LabelSchema) -> None:
    rows = "\r\n".join(
        ["\ufeffid , path,split,a,b,age", '"x,1",1.png,train,1,0,71', "", ",,,,,", "x2, 2.png ,val,0,1,"]
    )
    table = read(tmp_path, schema, rows, header="")
    assert [record.id for record in table.split("train").records] == ["x,1"]
    assert table.split("val").groups() is None


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("x1,1.png,train,p1,2,0\n", r"labels\.csv, row 2: the label column 'a' holds '2'.*1 \(present\)"),
        (GOOD + "x5,1.png,train,p1,1,yes\n", r"row 6: the label column 'b' holds 'yes'"),
        (GOOD + "x1,2.png,train,p1,1,0\n", r"row 6: the id 'x1' is already used in row 2"),
        ("../x,1.png,train,p1,1,0\n", r"row 2: the id '../x' looks like a path that leaves"),
        ("a/../x,1.png,train,p1,1,0\n", "looks like a path"),
        ("/etc/x,1.png,train,p1,1,0\n", "looks like a path"),
        ("C:x,1.png,train,p1,1,0\n", "looks like a path"),
        ("..\\x,1.png,train,p1,1,0\n", r"row 2: the id .* contains \["),
        ("<img src=x>,1.png,train,p1,1,0\n", r"row 2: the id '<img src=x>' contains \['<', '>'\]"),
        ("a&b,1.png,train,p1,1,0\n", "contains"),
        ("a\x07b,1.png,train,p1,1,0\n", "contains"),
        (",1.png,train,p1,1,0\n", "the id has 0 characters"),
        (f"{'x' * 201},1.png,train,p1,1,0\n", "the id has 201 characters"),
        ("x1,1.png,trian,p1,1,0\n", r"row 2: the split of 'x1' is 'trian' \(did you mean 'train'\?\)"),
        ("x1,1.png,,p1,1,0\n", "row 2: the split of 'x1' is ''"),
        ("x1,1.png,train,,1,0\n", "row 2: the group of 'x1' is empty"),
        ("x1,,train,p1,1,0\n", "row 2: the path of 'x1' is empty"),
        ("x1,1.png,train,p1,1\n", "row 2: 5 cells, but the header names 6 columns"),
        ("x1,1.png,train,p1,1,0\nx2,2.png,val,p1,1,0\n", r"1 group \(patient\) .*: p1 \(train: x1, val: x2\)\."),
        ('x1,"1.png,train,p1,1,0\n', "cannot be read as CSV"),
    ],
)
def test_broken_rows_are_explained(tmp_path: Path, schema: LabelSchema, rows: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, schema, rows)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("id,path,split,group,a,B\n", r"lacks columns that the label schema .*schema\.yaml reads: 'b'"),
        ("name,path,split,group,a,b\n", "has no column 'id'"),
        ("id;path;split;group;a;b\n", "separated by semicolons"),
        ("id,path,split,Group,a,b\n", "unknown column 'Group'; rename it to 'group'"),
        ("id,paths,split,group,a,b\n", "unknown column 'paths'; rename it to 'path'"),
        ("id,file,split,group,a,b\n", "has a column 'split' but no column 'path'"),
        ("id,path,split,a,a,b\n", "has the column 'a' 2 times"),
    ],
)
def test_broken_headers_are_explained(tmp_path: Path, schema: LabelSchema, header: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, schema, "x1,1.png,train,p1,1,0\n", header)


def test_missing_and_unreadable_tables(tmp_path: Path, schema: LabelSchema) -> None:
    with pytest.raises(DataError, match=r"labels\.csv does not exist"):
        read_data_table(tmp_path, schema, tmp_path / "labels.csv")
    (tmp_path / "labels.csv").touch()
    with pytest.raises(DataError, match="is empty"):
        read_data_table(tmp_path, schema, tmp_path / "labels.csv")
    (tmp_path / "labels.csv").write_bytes(HEADER.encode() + "Jürgen,1.png,train,p,1,0".encode("latin-1"))
    with pytest.raises(DataError, match="cannot be read as CSV in UTF-8"):
        read_data_table(tmp_path, schema, tmp_path / "labels.csv")
    with pytest.raises(DataError, match=r"root=.*none does not exist"):
        read_data_table(tmp_path / "none", schema, tmp_path / "labels.csv")


def test_empty_split_and_missing_files(tmp_path: Path, schema: LabelSchema) -> None:
    table = read(tmp_path, schema, "x1,1.png,train,p1,1,0\nx2,9.png,test,p2,1,0\nx3,8.png,test,p2,1,0\n")
    with pytest.raises(DataError, match=r"'val' of .*labels\.csv is empty \(images by split: train 1, val 0, test 2\)"):
        table.split("val")
    with pytest.raises(DataError, match=r"row 3: the image file .*9\.png of id 'x2' .*\(2 of 2 files"):
        table.split("test")
    assert len(table.split("train")) == 1


def test_many_crossing_patients_are_listed_up_to_ten(tmp_path: Path, schema: LabelSchema) -> None:
    rows = "".join(f"x{p}{s},1.png,{s},p{p:02d},0,0\n" for p in range(12) for s in ("train", "val", "test"))
    with pytest.raises(DataError, match=r"^12 groups .*p00 \(train: x0train, val: x0val.*; and 2 more\."):
        read(tmp_path, schema, rows)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            "x1,1.png,train,p1,1,0\nx2,2.png,train,p1,1,0\nx3,1.png,train,p1,0,1\n",
            r"labels\.csv, row 4: the image file .*1\.png of id 'x3' \(train\) is also that of id 'x1' "
            r"\(train; .*labels\.csv, row 2\)\. .*correct the path of the wrong one, or take it out",
        ),
        ("x1,1.png,test,p1,1,0\nx2,./1.png,train,p2,1,0\n", r"row 2: .* of id 'x1' \(test\) .*'x2' \(train; .*row 3\)"),
        ("x1,1.png,val,p1,1,0\nx2,1.png,val,p2,1,0\nx3,1.png,val,p3,1,0\n", r"\(2 ids name a file that another"),
    ],
)
def test_one_file_under_two_ids_is_refused(tmp_path: Path, schema: LabelSchema, rows: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, schema, rows)


def test_one_file_by_a_relative_and_an_absolute_path_is_refused(
    tmp_path: Path, schema: LabelSchema, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "1.png")
    (tmp_path / "labels.csv").write_text(f"{HEADER}x1,1.png,train,p1,1,0\nx2,{tmp_path / '1.png'},test,p2,1,0\n")
    with pytest.raises(DataError, match=r"of id 'x2' \(test\) is also that of id 'x1' \(train; "):
        read_data_table(".", schema, "labels.csv")


def test_paths_without_a_table_are_listed_once_however_they_are_written(tmp_path: Path, schema: LabelSchema) -> None:
    read(tmp_path, schema, GOOD)
    splits = tmp_path / "splits.yaml"
    for again in ("1.png", "./1.png", ".//1.png"):
        splits.write_text(f"train: [1.png]\ntest: [2.png, {again}]\n")
        with pytest.raises(DataError, match=r"test, entry 2: .* is listed twice, first in .*train, entry 1"):
            read_data_table(tmp_path, schema, None, splits)
    splits.write_text(f"train: [1.png]\ntest: [{tmp_path.name}/../1.png]\n")
    with pytest.raises(DataError, match="looks like a path that leaves"):
        read_data_table(tmp_path, schema, None, splits)


def test_one_file_under_two_ids_of_a_split_file(tmp_path: Path, schema: LabelSchema) -> None:
    read(tmp_path, schema, GOOD)
    table, splits = tmp_path / "labels.csv", tmp_path / "splits.yaml"
    table.write_text("id,path,a,b\nx1,1.png,1,0\nx2,1.png,0,1\nx3,3.png,0,1\n")
    splits.write_text("train: [x1]\ntest: [x2]\n")
    with pytest.raises(
        DataError, match=r"row 3: .*1\.png of id 'x2' \(test\) is also that of id 'x1' \(train; .*row 2"
    ):
        read_data_table(tmp_path, schema, table, splits)
    splits.write_text("train: [1.png]\n")
    with pytest.raises(DataError, match=r"train, entry 1: the path '1\.png' .*: 'x1' \(row 2\) and 'x2' \(row 3\)\."):
        read_data_table(tmp_path, schema, table, splits)
    splits.write_text("train: [x1]\ntest: [x3]\n")
    assert len(read_data_table(tmp_path, schema, table, splits).split("train")) == 1


def test_split_file_of_ids_or_paths(tmp_path: Path, schema: LabelSchema) -> None:
    read(tmp_path, schema, GOOD)
    splits = tmp_path / "splits.yaml"
    splits.write_text("train: [x4, 3.png]\nval: [x1]\n")
    table = read_data_table(tmp_path, schema, tmp_path / "labels.csv", splits)
    assert [(record.id, record.labels) for record in table.split("train").records] == [("x4", (1, 0)), ("x3", (0, 1))]
    assert [record.id for record in table.split("val").records] == ["x1"]

    splits.write_text("train: [sub/5.png]\n")
    picture(tmp_path / "sub" / "5.png")
    unlabelled = read_data_table(tmp_path, schema, None, splits).split("train")
    assert unlabelled.records[0].id == "sub/5"
    assert not unlabelled.known().any()


def test_ids_of_a_split_file_stay_text(tmp_path: Path, schema: LabelSchema) -> None:
    # YAML would read them as 8, 121, 1.5 and True.
    ids = ["010", "12_1", "1.50", "yes"]
    rows = "".join(f"{name},{place}.png,train,1,0\n" for place, name in enumerate(ids, 1))
    read(tmp_path, schema, rows, header="id,path,split,a,b\n")
    (tmp_path / "splits.yaml").write_text(f"test: [{', '.join(ids)}]\n")
    table = read_data_table(tmp_path, schema, tmp_path / "labels.csv", tmp_path / "splits.yaml")
    assert [record.id for record in table.split("test").records] == ids


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: [[x1]]", r"train, entry 1: expected an id or a path, got \['x1'\]"),
        ("train: [x1]\nvalid: [x2]", "must have the keys train, val and test"),
        ("train: x1", "train must be a list of ids or paths, got 'x1'"),
        ("train: [x9]", r"splits\.yaml, train, entry 1: 'x9' is neither an id nor a path of "),
        ("train: [x1]\ntest: [x2, 1.png]", r"test, entry 2: '1\.png' is listed twice, first in .*train, entry 1"),
        ("train: [x3]\ntest: [x4]", r"p3 \(train: x3, test: x4\)"),
        ("train: [", "cannot be read as YAML"),
    ],
)
def test_broken_split_files_are_explained(tmp_path: Path, schema: LabelSchema, text: str, message: str) -> None:
    read(tmp_path, schema, GOOD)
    (tmp_path / "splits.yaml").write_text(text)
    with pytest.raises(DataError, match=message):
        read_data_table(tmp_path, schema, tmp_path / "labels.csv", tmp_path / "splits.yaml")


def test_one_folder_per_split(tmp_path: Path, schema: LabelSchema) -> None:
    for name in ("train/b.png", "train/a.JPG", "val/deep/er/c.png", "val/notes.txt"):
        picture(tmp_path / name) if not name.endswith("txt") else (tmp_path / name).write_text("no image")
    table = read_data_table(tmp_path, schema)
    assert [record.id for record in table.split("train").records] == ["train/a", "train/b"]
    assert [record.id for record in table.split("val").records] == ["val/deep/er/c"]
    assert not table.split("train").known().any()

    (tmp_path / "labels.csv").write_text("id,a,b\ntrain/a,1,0\ntrain/b,0,\nval/deep/er/c,1,1\n")
    table = read_data_table(tmp_path, schema, tmp_path / "labels.csv")
    assert table.split("train").target().tolist() == [[1, 0], [0, 0]]
    assert table.split("train").known().tolist() == [[True, True], [True, False]]

    (tmp_path / "labels.csv").write_text("id,a,b\ntrain/a,1,0\ntrain/b,0,\nval/deep/er/c,1,1\ntrain/lost,1,1\n")
    with pytest.raises(DataError, match=r"labels\.csv, row 5: the id 'train/lost' has no image file in "):
        read_data_table(tmp_path, schema, tmp_path / "labels.csv")

    (tmp_path / "labels.csv").write_text("id,a,b\ntrain/a,1,0\n")
    with pytest.raises(DataError, match=r"b\.png: its id 'train/b' is not in .*did you mean 'train/a'"):
        read_data_table(tmp_path, schema, tmp_path / "labels.csv")


def test_folders_without_images_or_with_twins(tmp_path: Path, schema: LabelSchema) -> None:
    with pytest.raises(DataError, match=r"No images were found in .*train"):
        read_data_table(tmp_path, schema)
    picture(tmp_path / "train" / "a.png")
    picture(tmp_path / "train" / "a.jpg")
    with pytest.raises(DataError, match="both get the id 'train/a'"):
        read_data_table(tmp_path, schema)


def test_hash_depends_on_ids_sizes_and_labels_and_not_on_order(tmp_path: Path, schema: LabelSchema) -> None:
    first = read(tmp_path, schema, GOOD).split("test").hash()
    assert len(first) == 64
    reversed_rows = "".join(reversed(GOOD.splitlines(keepends=True)))
    assert read(tmp_path, schema, reversed_rows).split("test").hash() == first
    assert (
        read(tmp_path, schema, GOOD.replace("x4,4.png,test,p3,1.0", "x4,4.png,test,p3,0")).split("test").hash() != first
    )
    assert read(tmp_path, schema, GOOD.replace("x4", "y4")).split("test").hash() != first
    table = read(tmp_path, schema, GOOD)
    picture(tmp_path / "4.png", (4, 5))
    assert table.split("test").hash() != first


def test_limit_is_evenly_spaced(tmp_path: Path, schema: LabelSchema) -> None:
    for i in range(10):
        picture(tmp_path / f"y{i}.png")
    rows = "".join(f"x{i:02d},y{i}.png,test,p{i},0,0\n" for i in range(10))
    split = read(tmp_path, schema, rows).split("test")
    assert [record.id for record in split.evenly_spaced(4).records] == ["x00", "x03", "x06", "x09"]
    assert [record.id for record in split.evenly_spaced(1).records] == ["x00"]
    assert len(split.evenly_spaced(None)) == len(split.evenly_spaced(99)) == 10

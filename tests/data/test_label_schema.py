"""Label schemas: what they mean, and what is said about broken ones."""

from pathlib import Path

import pytest

from layerscope.data.schema import Label, LabelSchema, load_label_schema
from layerscope.errors import DataError


def schema(tmp_path: Path, text: str) -> LabelSchema:
    path = tmp_path / "schema.yaml"
    path.write_text(text, encoding="utf-8")
    return load_label_schema(path)


def test_every_key_and_every_default(tmp_path: Path) -> None:
    read = schema(
        tmp_path,
        """
        name: fundus
        labels:
          - name: haemorrhage
          - plain
          - {name: exudate, columns: [hard, soft], group: lipid, display_name: Exudate (any), evaluated: false}
        """,
    )
    assert read.name == "fundus"
    assert read.labels[0] == Label("haemorrhage", ("haemorrhage",))
    assert read.labels[2] == Label("exudate", ("hard", "soft"), "lipid", "Exudate (any)", False)
    assert read.columns == ("haemorrhage", "plain", "hard", "soft")
    labels = read.label_set()
    assert labels.names == ("haemorrhage", "plain", "exudate")
    assert labels.display_names == ("haemorrhage", "plain", "Exudate (any)")
    assert labels.evaluated == (True, True, False)


@pytest.mark.parametrize(
    ("values", "merged"),
    [((1, 0), 1), ((1, -1), 1), ((0, 0), 0), ((0, -1), -1), ((-1, -1), -1), ((0, 0, 1), 1)],
)
def test_merging(values: tuple[int, ...], merged: int) -> None:
    assert Label("x", ("a", "b")).merge(values) == merged


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("labels: [{name: a, colum: b}]", r"Label 1 .* unknown key 'colum' \(did you mean 'column'"),
        ("labels: [a]\nlables: [b]", r"unknown key 'lables' \(did you mean 'labels'"),
        ("labels: [a, b, a]", "uses the name 'a' twice"),
        ("labels: [{name: a, display_name: X}, {name: b, display_name: X}]", "uses the display_name 'X' twice"),
        ("labels: []", "has no labels"),
        ("name: x", "has no labels"),
        ("labels: [{column: a}]", "`name` must be text, got None"),
        ("labels: [{name: on}]", "must be text, got True"),
        ("labels: [{name: a, evaluated: maybe}]", "must be true or false, got 'maybe'"),
        ("labels: [{name: a, evaluated: false}]", "no label is evaluated"),
        ("labels: [{name: a, column: b, columns: [c]}]", "both `column` and `columns`"),
        ("labels: [{name: a, columns: []}]", r"columns must be names, got \[\]"),
        ("labels: [{name: a, columns: [b, b]}]", "merges the same column twice"),
        ("labels: [{name: '<b>a</b>'}]", "which file names and reports cannot hold"),
        ("labels: [{name: '../a'}]", "which file names and reports cannot hold"),
        ("- a\n- b", "must be a mapping"),
        ("labels: [", "cannot be read as YAML"),
    ],
)
def test_broken_schemas_are_explained(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        schema(tmp_path, text)
    assert "schema.yaml" in str(error.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.yaml does not exist"):
        load_label_schema(tmp_path / "none.yaml")


def test_missing_columns_are_named_with_their_likeness(tmp_path: Path) -> None:
    read = schema(tmp_path, "labels: [{name: a, column: haemorrhage}, b]")
    read.check_columns(["id", "haemorrhage", "b"], "labels.csv")
    with pytest.raises(DataError, match=r"labels\.csv lacks .*'haemorrhage' \(did you mean 'hemorrhage'\?\)"):
        read.check_columns(["id", "hemorrhage", "b"], "labels.csv")

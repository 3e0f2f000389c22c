"""Which images, labels and groups belong to which split: from a CSV, a split YAML or one folder per split."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path, PurePosixPath

from layerscope.data.files import image_files
from layerscope.data.images import SUFFIXES
from layerscope.data.records import SPLITS, DataTable, Record, check_files, check_groups, check_id
from layerscope.data.schema import UNKNOWN, LabelSchema, did_you_mean
from layerscope.data.split_file import read_split_file
from layerscope.errors import DataError

_RESERVED = ("id", "path", "split", "group")
_VALUES = {"1": 1, "1.0": 1, "0": 0, "0.0": 0, "": UNKNOWN, "-1": UNKNOWN, "-1.0": UNKNOWN}


def read_data_table(
    root: str | Path, schema: LabelSchema, table: str | Path | None = None, split_file: str | Path | None = None
) -> DataTable:
    """Reads what belongs to which split, in one of three layouts.

    1. ``table`` with a ``split`` column: ``id, path, split, group`` and one column per label. ``path`` is relative to
       ``root``; ``group`` (the patient) may be absent. Labels are 1, 0, and empty or -1 for unknown.
    2. ``split_file``, a YAML file with ``train:``, ``val:`` and ``test:``, each a list of ids or paths. Labels come
       from ``table``; without one every label is unknown and the list holds paths.
    3. Neither a split file nor a ``split`` column: one folder per split under ``root``. The id is the path relative
       to ``root`` without its suffix (``train/left/0001``); labels come from ``table`` by id.

    Raises:
        DataError: names file, row and remedy. Also when a group is in more than one split, or an image file has more
            than one id; files are compared by path, symbolic links are not followed.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(
            f"The data directory root={root} does not exist. Correct `root`; it is relative to {Path.cwd()}."
        )
    names = schema.label_set().names
    rows = None if table is None else _Rows(Path(table), schema)
    if split_file is not None:
        splits = _from_split_file(root, Path(split_file), rows, len(names))
        source = str(split_file)
    elif rows is not None and "split" in rows.header:
        splits = rows.by_split(root)
        source = str(table)
    else:
        splits = _from_folders(root, rows, len(names))
        source = str(root)
    check_groups(splits, source)
    check_files(splits)
    return DataTable({split: tuple(records) for split, records in splits.items()}, names, source)


class _Rows:
    """The rows of a table, each checked."""

    def __init__(self, path: Path, schema: LabelSchema) -> None:
        self.path = path
        self.header, cells = _read_csv(path)
        self._check_header(schema)
        self.has_group = "group" in self.header
        # id -> (row number, cells by column, labels)
        self.rows: dict[str, tuple[int, dict[str, str], tuple[int, ...]]] = {}
        for number, row in cells:
            where = f"{path}, row {number}"
            name = row["id"]
            check_id(name, where)
            if name in self.rows:
                raise DataError(
                    f"{where}: the id {name!r} is already used in row {self.rows[name][0]}. "
                    "Each image needs its own id."
                )
            if self.has_group and not row["group"]:
                raise DataError(
                    f"{where}: the group of {name!r} is empty. Fill in the patient of every image (its own id if it "
                    "is the only one), or take the whole column out."
                )
            values = {column: _value(row[column], column, where) for column in schema.columns}
            labels = tuple(label.merge([values[column] for column in label.columns]) for label in schema.labels)
            self.rows[name] = (number, row, labels)

    def _check_header(self, schema: LabelSchema) -> None:
        header = self.header
        for wanted in _RESERVED:
            if wanted not in header:
                twins = [column for column in header if column.strip().lower().rstrip("s") == wanted]
                if twins:
                    raise DataError(
                        f"The table {self.path} has the unknown column {twins[0]!r}; rename it to {wanted!r}."
                    )
        if "split" in header and "path" not in header:
            raise DataError(
                f"The table {self.path} has a column 'split' but no column 'path'; its columns are "
                f"{', '.join(header)}. Add each image's path, relative to root."
            )
        schema.check_columns(header, str(self.path))

    def record(self, name: str, path: Path) -> Record:
        number, row, labels = self.rows[name]
        return Record(name, path, row["group"] if self.has_group else "", labels, f"{self.path}, row {number}")

    def file(self, root: Path, name: str) -> Path:
        number, row, _ = self.rows[name]
        if not row.get("path"):
            raise DataError(
                f"{self.path}, row {number}: the path of {name!r} is empty. Give the image's path, relative to root."
            )
        return root / row["path"]

    def by_split(self, root: Path) -> dict[str, list[Record]]:
        splits: dict[str, list[Record]] = {split: [] for split in SPLITS}
        for name, (number, row, _) in self.rows.items():
            if row["split"] not in splits:
                raise DataError(
                    f"{self.path}, row {number}: the split of {name!r} is {row['split']!r}"
                    f"{did_you_mean(row['split'], SPLITS)}. Write train, val or test."
                )
            splits[row["split"]].append(self.record(name, self.file(root, name)))
        return splits


def _read_csv(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The header and each row with its number as a text editor counts, the header being row 1."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            lines = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(map(str.strip, row))]
    except FileNotFoundError as error:
        raise DataError(f"The table {path} does not exist. Correct `table`; it is relative to {Path.cwd()}.") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"The table {path} cannot be read as CSV in UTF-8: {error}.") from error
    if not lines:
        raise DataError(f"The table {path} is empty. Its first row must name the columns: id, path, split, ...")
    header = lines[0][1]
    for column in header:
        if not column or header.count(column) > 1:
            raise DataError(f"The table {path} has the column {column!r} {header.count(column)} times. Name each once.")
    if "id" not in header:
        hint = " It seems to be separated by semicolons; save it with commas." if ";" in "".join(header) else ""
        raise DataError(
            f"The table {path} has no column 'id'; its columns are {', '.join(header)}.{hint} The first row must name "
            "the columns: id, path, split, group (optional) and one per label."
        )
    for number, row in lines[1:]:
        if len(row) != len(header):
            raise DataError(
                f"{path}, row {number}: {len(row)} cells, but the header names {len(header)} columns. Put cells that "
                "contain commas in double quotes."
            )
    return header, [(number, dict(zip(header, row))) for number, row in lines[1:]]


def _value(cell: str, column: str, where: str) -> int:
    if cell not in _VALUES:
        raise DataError(
            f"{where}: the label column {column!r} holds {cell!r}. Labels are 1 (present), 0 (absent), and empty or -1 "
            "(unknown); a graded label needs one column per threshold."
        )
    return _VALUES[cell]


def _from_split_file(root: Path, split_file: Path, rows: _Rows | None, labels: int) -> dict[str, list[Record]]:
    if rows is None:

        def unlabelled(entry: str, where: str) -> Record:
            name = str(PurePosixPath(entry).with_suffix(""))
            check_id(name, where)
            return Record(name, root / entry, "", (UNKNOWN,) * labels, where)

        return read_split_file(split_file, unlabelled)

    by_path: dict[str, list[str]] = defaultdict(list)
    for name, (_, row, _) in rows.rows.items():
        by_path[row.get("path", "")].append(name)

    def labelled(entry: str, where: str) -> Record:
        names = [entry] if entry in rows.rows else by_path.get(entry, [])
        if not names:
            near = did_you_mean(entry, list(rows.rows))
            raise DataError(f"{where}: {entry!r} is neither an id nor a path of {rows.path}{near}.")
        if len(names) > 1:
            twins = " and ".join(f"{name!r} (row {rows.rows[name][0]})" for name in names[:2])
            raise DataError(
                f"{where}: the path {entry!r} belongs to more than one id of {rows.path}: {twins}. Correct the path of "
                "the wrong row, or take the row out."
            )
        return rows.record(names[0], rows.file(root, names[0]))

    return read_split_file(split_file, labelled)


def _from_folders(root: Path, rows: _Rows | None, labels: int) -> dict[str, list[Record]]:
    splits = dict(zip(SPLITS, image_files(*(root / split for split in SPLITS))))
    if not any(splits.values()):
        raise DataError(
            f"No images were found in {root}/train, {root}/val or {root}/test, and no table with a column 'split' "
            f"and no split_file was given. Add one of the three; images end in {', '.join(SUFFIXES)}."
        )
    found: dict[str, list[Record]] = {}
    seen: dict[str, Path] = {}
    for split, files in splits.items():
        found[split] = []
        for path in files:
            name = path.relative_to(root).with_suffix("").as_posix()
            check_id(name, str(path))
            if name in seen:
                raise DataError(f"{path} and {seen[name]} both get the id {name!r}. Rename one of them.")
            seen[name] = path
            if rows is None:
                found[split].append(Record(name, path, "", (UNKNOWN,) * labels, str(path)))
            elif name in rows.rows:
                found[split].append(rows.record(name, path))
            else:
                raise DataError(
                    f"{path}: its id {name!r} is not in {rows.path}{did_you_mean(name, list(rows.rows))}. The id "
                    "is the path relative to root without the suffix; add a row, with empty labels if they are unknown."
                )
    if rows is not None and (missing := [name for name in rows.rows if name not in seen]):
        number = rows.rows[missing[0]][0]
        more = f" (and {len(missing) - 1} more)" * (len(missing) > 1)
        raise DataError(
            f"{rows.path}, row {number}: the id {missing[0]!r}{more} has no image file in {root}/train, val or test. "
            f"The id is the path relative to root without the suffix, and files end in {', '.join(SUFFIXES)}. Add or "
            "convert the file, or take the row out."
        )
    return found

"""The layout of VisA: split_csv/1cls.csv with the columns object, split, label, image, mask."""

import csv
import io
from collections.abc import Collection, Mapping
from pathlib import Path

from training.files import is_file
from training.samples import Dataset, DatasetError, Sample

_COLUMNS = {"object", "split", "label", "image", "mask"}
_KINDS = {"normal": "good", "anomaly": "defect"}
"""`Sample.kind` by label."""


def table_of(root: Path) -> Path:
    """The file that makes a folder one of this layout."""
    return root / "split_csv" / "1cls.csv"


def open_visa(root: Path, product: str | None) -> Dataset:
    """The images of the object `product`. Raises DatasetError, for a wrong row naming file and line."""
    table = table_of(root)
    rows = _rows(table)
    objects = sorted({row["object"] for row in rows.values()})
    if product is None or product not in objects:
        raise DatasetError(f"{root}: VisA holds {', '.join(objects)}; name one with --product")
    samples: dict[str, list[Sample]] = {"train": [], "test": []}
    for line, row in rows.items():
        if row["object"] == product:
            where = f"{table}, line {line}"
            samples[_word("split", row, samples, where)].append(_sample(root, row, where))
    train, test = (sorted(subset, key=lambda sample: sample.name) for subset in samples.values())
    good = tuple(sample for sample in train if not sample.defective)
    defective = len(train) - len(good)
    left_out = f"{defective} defective pictures in the split train" if defective else ""
    return Dataset(root, product, "VisA", good, tuple(test), left_out)


def _rows(table: Path) -> dict[int, dict[str, str]]:
    """The rows by their line."""
    content = table.read_bytes()
    try:
        text = content.decode("utf-8-sig")  # with the mark that spreadsheets put first, or without
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DatasetError(f"{table}, line {line}: not UTF-8 text") from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    rows = dict[int, dict[str, str]]()
    try:
        if not set(reader.fieldnames or ()) >= _COLUMNS:
            raise DatasetError(f"{table}: expected the columns {', '.join(sorted(_COLUMNS))}")
        for row in reader:
            if None in row or None in row.values():
                raise DatasetError(f"{table}, line {reader.line_num}: not one cell for each column")
            rows[reader.line_num] = row | {"object": row["object"].strip()}
    except csv.Error as error:
        raise DatasetError(f"{table}, line {reader.line_num + 1}: {error}") from error
    if not rows:
        raise DatasetError(f"{table}: no rows")
    return rows


def _word(column: str, row: Mapping[str, str], known: Collection[str], where: str) -> str:
    """The column's value, one of the `known` words; case and surrounding blanks are ignored."""
    word = row[column].strip().lower()
    if word not in known:
        raise DatasetError(f"{where}: the {column} is {row[column]!r}, and not {' or '.join(known)}")
    return word


def _sample(root: Path, row: Mapping[str, str], where: str) -> Sample:
    names = [row["image"], *filter(None, [row["mask"]])]
    for name in names:
        if Path(name).is_absolute():
            raise DatasetError(f"{where} names {name}: paths start at {root}")
        if not is_file(root / name):
            raise DatasetError(f"{where} names {name!r}, which is not there")
    kind = _KINDS[_word("label", row, _KINDS, where)]
    mask = root / row["mask"] if row["mask"] and kind != "good" else None
    return Sample(root / row["image"], Path(row["image"]).as_posix(), kind, mask)

"""Tables of text, read so that no row is lost: every row of the file arrives, or one line names the
line of the file that is wrong.

Commas, semicolons or tabs between the cells, UTF-8 with or without a byte order mark, quotation
marks as Excel and pandas write them (RFC 4180); packed with gzip or not.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedrobust.data.files import MAX_FILE_BYTES, check_regular
from fedrobust.errors import DataError
from fedrobust.utils.counting import format_count
from fedrobust.utils.names import clean_name, shown_list, shown_name

GZIP = b"\x1f\x8b"  # how a packed file begins
SEPARATORS = ("\t", ";", ",")
BREAK = re.compile(r"\r\n|\r|\n")
TOLD = re.compile(r"sep=([,;\t])(?:\r\n|\r|\n)")  # a first line by which Excel names the separator
RECODE = "`iconv -f {} -t UTF-8 old.csv > new.csv`"


@dataclass(frozen=True, slots=True)
class TextTable:
    """Cells as they are written, by column.

    Attributes:
        columns: the cells of each column, all of one length.
        lines: where each row begins in its file, from 1.
        notes: what was left out, one line each.
    """

    columns: Mapping[str, Sequence[str]]
    lines: Sequence[int]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.lines)

    def column(self, name: str | None) -> list[str] | None:
        """The cells of a column; None where there is none of that name."""
        cells = None if name is None else self.columns.get(name)
        return None if cells is None else list(cells)

    def filled(self, source: str, name: str) -> list[str]:
        """The cells of a column that must not be empty. Raises DataError."""
        for line, cell in zip(self.lines, self.columns[name], strict=True):
            if not clean_name(cell):
                raise DataError(
                    f"{source}: line {line} has no {name}; fill the cell or take the line out"
                )
        return list(self.columns[name])


def read_csv(path: Path, needed: Mapping[str, str]) -> TextTable:
    """All rows of a table.

    Args:
        path: the file.
        needed: columns that must be there, each with the remedy where it is not.

    Returns:
        The table, with the names of its columns composed (NFC) and without blanks at their ends;
        columns without a name are left out.

    Raises:
        DataError: the file cannot be read, is not UTF-8, has no rows or lacks a column; two
            columns have one name; a row has too few or too many cells, or a quotation mark that
            swallows others.
    """
    text = _decode(path, _read(path))
    separator = _find_separator(text, set(needed))
    text = TOLD.sub("\n", text)
    rows = _rows(path, text, separator)
    header = next((_column_names(row) for _, _, row in rows if any(row)), [])
    _check_header(path, header, needed)
    cells: list[list[str]] = [[] for _ in header]
    lines: list[int] = []
    empty = 0
    for first, last, row in rows:
        if not any(cell.strip() for cell in row):
            empty += len(row) > 1
            continue
        _check_row(path, f"line {first}", row, len(header))
        _check_swallowed(path, first, last, row, separator=separator, columns=len(header))
        for column, cell in zip(cells, row, strict=False):
            column.append(cell)
        lines.append(first)
    if not lines:
        raise DataError(f"{path}: has no rows")
    notes = (f"{path}: {format_count(empty, 'line')} of empty cells left out",) if empty else ()
    named = {name: column for name, column in zip(header, cells, strict=True) if name}
    return TextTable(named, lines, notes)


def join_tables(tables: Sequence[TextTable]) -> TextTable:
    """The rows of all tables below each other; cells of columns that a table lacks are empty."""
    names = dict.fromkeys(name for table in tables for name in table.columns)
    columns = {
        name: [cell for table in tables for cell in table.columns.get(name, [""] * len(table))]
        for name in names
    }
    lines = [line for table in tables for line in table.lines]
    return TextTable(columns, lines, tuple(note for table in tables for note in table.notes))


def _read(path: Path) -> bytes:
    check_regular(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    return _unpack(path, data) if data.startswith(GZIP) else data


def _unpack(path: Path, data: bytes) -> bytes:
    try:
        with gzip.open(io.BytesIO(data)) as file:
            text = file.read(MAX_FILE_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: is damaged gzip ({error}); fetch it again") from error
    if len(text) > MAX_FILE_BYTES:
        raise DataError(f"{path}: unfolds to more than {MAX_FILE_BYTES >> 20} MiB; cut it")
    return text


def _decode(path: Path, data: bytes) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"{path}: is UTF-16; save it as UTF-8: {RECODE.format('UTF-16')}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}: line {line} is not UTF-8 (byte 0x{data[error.start]:02x}), maybe Latin-1; "
            f"save it as UTF-8, in Excel as CSV UTF-8, or {RECODE.format('WINDOWS-1252')}"
        ) from error
    if "\0" in text:
        raise DataError(f"{path}: is no text (it holds zero bytes); give a csv table")
    return text


def _find_separator(text: str, needed: set[str]) -> str:
    """The one that gives the needed columns, else the one that gives most."""
    if told := TOLD.match(text):
        return told[1]
    head = next((line for line in BREAK.split(text[:100_000]) if line.strip()), "")

    def fit(separator: str) -> tuple[bool, int]:
        names = _column_names(next(csv.reader([head], delimiter=separator), []))
        return needed <= set(names), len(names)

    return max(SEPARATORS, key=fit)


def _column_names(row: Sequence[str]) -> list[str]:
    return [clean_name(cell) for cell in row]


def _rows(path: Path, text: str, separator: str) -> Iterator[tuple[int, int, list[str]]]:
    """(its first line, its last line, cells) of each row."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    while True:
        first = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise _stray(path, first, reader.line_num, str(error)) from error
        yield first, reader.line_num, row


def _stray(path: Path, first: int, last: int, reason: str) -> DataError:
    if "expected after" in reason:
        where = "" if last == first else f" of line {last}"
        what = f"opens there and closes in the middle of a cell{where}"
    elif "end of data" in reason:
        what = "opens there and is never closed"
    else:
        what = f"is not right ({reason})"
    return DataError(
        f"{path}: line {first}: a quotation mark {what}; take it out, or put the "
        "whole cell between quotation marks and write those within it twice"
    )


def _check_header(path: Path, header: Sequence[str], needed: Mapping[str, str]) -> None:
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise DataError(
            f"{path}: has {header.count(twice[0])} columns {shown_name(twice[0])}; rename them"
        )
    for column, remedy in needed.items():
        if column not in header:
            names = shown_list(header)
            raise DataError(f"{path}: has no column {column}; its columns are {names}; {remedy}")


def _check_row(path: Path, place: str, row: Sequence[str], columns: int) -> None:
    cells = format_count(len(row), "cell")
    if len(row) < columns:
        raise DataError(
            f"{path}: {place} has {cells}, the header {columns}; fill in what is missing"
        )
    if any(cell.strip() for cell in row[columns:]):
        raise DataError(
            f"{path}: {place} has {cells}, the header {columns}; put a cell that holds "
            "a separator between quotation marks"
        )


def _check_swallowed(
    path: Path, first: int, last: int, row: Sequence[str], *, separator: str, columns: int
) -> None:
    """Two stray quotation marks make one cell of all that stands between them: line breaks, and for
    each of them as many separators as a row has."""
    for cell in row if last > first else ():
        breaks = len(BREAK.findall(cell))
        if breaks and cell.count(separator) >= breaks * (columns - 1):
            raise DataError(
                f"{path}: line {first}: a quotation mark opens there and closes in line {last}, "
                "with whole rows between; take stray quotation marks out, or write the cell in "
                "one line"
            )

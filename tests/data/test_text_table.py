"""Tables of text: every row arrives, or one line names the line of the file."""

from pathlib import Path

import pytest

from fedrobust.data.text_table import join_tables, read_csv
from fedrobust.errors import DataError

NEEDED = {"image": "name it", "label": "name it"}


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "t.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_separators_line_ends_and_byte_order_marks(
    tmp_path: Path, separator: str, ending: str, mark: str
) -> None:
    rows = [["image", "label", "note"], ["a.png", "x", ""], ["b.png", "y", "1"]]
    text = mark + ending.join(separator.join(row) for row in rows) + ending
    table = read_csv(written(tmp_path, text), NEEDED)
    assert table.columns == {"image": ["a.png", "b.png"], "label": ["x", "y"], "note": ["", "1"]}
    assert list(table.lines) == [2, 3]


@pytest.mark.parametrize(
    ("cell", "read"),
    [
        ('1/2" wide', '1/2" wide'),  # inch marks within a cell are letters
        ('"a, b"', "a, b"),
        ('"5"" lesion"', '5" lesion'),
        ('"two\nlines"', "two\nlines"),
        ('"not, one\nbut two, of them"', None),  # as many commas as two rows have
    ],
)
def test_quotation_marks_keep_their_rows(tmp_path: Path, cell: str, read: str | None) -> None:
    path = written(tmp_path, f"image,label,note\na.png,x,{cell}\nb.png,y,\n")
    if read is None:
        with pytest.raises(
            DataError, match=r"t\.csv: line 2: .* closes in line 3, with whole rows"
        ):
            read_csv(path, NEEDED)
        return
    table = read_csv(path, NEEDED)
    assert table.columns["note"] == [read, ""]
    assert table.columns["image"] == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        # two stray marks that open cells: the second one closes what the first one opened
        (["a,x,ok", 'b,x,"flat 5 mm', "c,x,ok", 'd,x,"flat', "e,x,ok"], "line 3: .* of line 5;"),
        # one that opens, one that closes: three rows would become one
        (["a,x,ok", 'b,x,"flat', "c,x,ok", 'd,x,5"', "e,x,ok"], "line 3: .* closes in line 5"),
        (['a,"x,ok', 'b,x",ok', "c,x,ok"], "line 2: .* closes in line 3, with whole rows"),
        (["a,x,ok", 'b,x,"flat', "c,x,ok"], "line 3: .* is never closed"),
        (["a,x,ok", 'b,x,"flat" 5 mm', "c,x,ok"], "line 3: .* in the middle of a cell;"),
        (["a,x,ok", "b", "c,x,ok"], "line 3 has 1 cell, the header 3"),
        (["a,x,ok", "b,x,flat, pale", "c,x,ok"], "line 3 has 4 cells, the header 3; put"),
    ],
)
def test_a_row_that_would_be_lost_is_named(tmp_path: Path, rows: list[str], line: str) -> None:
    path = written(tmp_path, "\n".join(["image,label,note", *rows]) + "\n")
    with pytest.raises(DataError, match=rf"t\.csv: {line}") as caught:
        read_csv(path, NEEDED)
    assert "\n" not in str(caught.value)


def test_empty_lines_are_no_rows_and_lines_of_empty_cells_are_counted(tmp_path: Path) -> None:
    path = written(tmp_path, "image,label,\n\na,x,\n,,\nb,y,,,\n\n,,\n")
    table = read_csv(path, NEEDED)
    assert table.columns == {"image": ["a", "b"], "label": ["x", "y"]}
    assert table.notes == (f"{path}: 2 lines of empty cells left out",)
    assert list(table.lines) == [3, 5]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("image,label,label", "has 2 columns label; rename them"),
        ("image,label,label ", "has 2 columns label; rename them"),
        ("image,la\u0308bel,l\u00e4bel", "has 2 columns l\u00e4bel; rename them"),
        ("id_code,label", "has no column image; its columns are id_code, label; name it"),
    ],
)
def test_columns_are_told_apart(tmp_path: Path, header: str, message: str) -> None:
    row = ",".join("x" for _ in header.split(","))
    with pytest.raises(DataError, match=message):
        read_csv(written(tmp_path, f"{header}\n{row}\n"), NEEDED)


@pytest.mark.parametrize("name", ['"la\nbel"', "label\x1b[2J", "\u202elabel", "x" * 9999])
def test_names_of_columns_make_one_short_line(tmp_path: Path, name: str) -> None:
    header = ",".join(["image", name, *(f"c{number}" for number in range(99))])
    row = ",".join(["x"] * 101)
    with pytest.raises(DataError, match=r"has no column label; .* 71 more; name it") as caught:
        read_csv(written(tmp_path, f"{header}\n{row}\n"), NEEDED)
    line = str(caught.value).removeprefix(str(tmp_path))
    assert line.isprintable()
    assert len(line) < 400


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("image,label\na,Nävus\n".encode("latin-1"), "line 2 is not UTF-8 .*iconv -f WINDOWS-1252"),
        ("image,label\na,x\n".encode("utf-16"), "is UTF-16; .*iconv -f UTF-16"),
        (b"image,label\na\0,x\n", "is no text"),
        (b"", "has no column image; its columns are none"),
        (b"image,label\n", "has no rows"),
    ],
)
def test_what_is_no_table_says_how_to_make_one(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=rf"t\.csv: {message}"):
        read_csv(written(tmp_path, data), NEEDED)


def test_a_line_that_names_the_separator_is_no_header(tmp_path: Path) -> None:
    table = read_csv(written(tmp_path, "sep=;\r\nimage;label\r\na,b.png;x\r\n"), NEEDED)
    assert table.columns == {"image": ["a,b.png"], "label": ["x"]}
    assert list(table.lines) == [3]


def test_tables_below_each_other_leave_no_cell_out(tmp_path: Path) -> None:
    one = read_csv(written(tmp_path, "image,label\na,x\n"), NEEDED)
    two = read_csv(written(tmp_path, "label,image,site\ny,b,s\n"), NEEDED)
    both = join_tables([one, two])
    assert both.columns == {"image": ["a", "b"], "label": ["x", "y"], "site": ["", "s"]}
    assert len(both) == 2
    with pytest.raises(DataError, match="table: line 2 has no site; fill the cell"):
        both.filled("table", "site")

"""CSV and TSV: what separates the columns is told from the header and the rows, and never guessed."""

from __future__ import annotations

import codecs
import csv
from pathlib import Path

import pytest
from chat_rows import load

from tutelage.common.errors import TutelageError
from tutelage.data.formats.tables import separator_of
from tutelage.data.sources import odd_separators
from tutelage.recipe.sections import DataConfig

CELLS = [["Frage, kurz?", "Antwort"], ["What; how?", 'She said "yes".\nThen no.'], ["c", "1,5"]]


@pytest.mark.parametrize("name", ["x.csv", "x.tsv"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_a_table_is_read_by_the_separator_of_its_header_and_rows(
    name: str, separator: str, quoting: int, tmp_path: Path
) -> None:
    with (tmp_path / name).open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file, delimiter=separator, quoting=quoting).writerows([["q", "a"], *CELLS])
    data = load(tmp_path, name, prompt="{q}", completion="{a}")
    assert [[row.messages[0].content, row.response] for row in data.conversations] == CELLS
    assert [row.source for row in data.conversations] == [f"{name}:2", f"{name}:3", f"{name}:5"]
    words = {",": "commas", ";": "semicolons", "\t": "tabs"}[separator]
    usual = separator == ("\t" if name == "x.tsv" else ",")
    said = odd_separators(DataConfig(path=name), tmp_path)
    assert said == ([] if usual else [f"{name}: read as separated by {words}"])


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("first", "separator", "words"),
    [
        ("sep=;", ";", "semicolons"),
        ("SEP=\t", "\t", "tabs"),
        ('"sep=;"', ";", "semicolons"),
        ("sep=|", "|", "`|`"),
        ("sep=,", ",", None),
    ],
)
def test_a_first_line_for_excel_names_the_separator_and_is_no_row(
    first: str, separator: str, words: str | None, end: str, tmp_path: Path
) -> None:
    lines = [first, f"q{separator}a", f"b{separator}c", "d", f'e{separator}"f', 'g"', f"h{separator}i"]
    (tmp_path / "x.csv").write_bytes(codecs.BOM_UTF8 + end.join(lines).encode())
    data = load(tmp_path, "x.csv", prompt="{q}", completion="{a}", max_bad_rows=0.5)
    assert [row.source for row in data.conversations] == ["x.csv:3", "x.csv:5", "x.csv:7"]
    assert [bad.source for bad in data.bad_rows] == ["x.csv:4"]
    said = [] if words is None else [f"x.csv: read as separated by {words}"]
    assert odd_separators(DataConfig(path="x.csv"), tmp_path) == said
    (tmp_path / "x.csv").write_text(f'{first}\nq{separator}a\nb{separator}c\nd{separator}"e\n')
    with pytest.raises(TutelageError, match=r"x\.csv:4: .*; mend the row that begins there"):
        load(tmp_path, "x.csv", prompt="{q}", completion="{a}")


@pytest.mark.parametrize(
    "text",
    [
        "text\nOne; two.\nThree.\n",  # one column
        "question,answer;note\na,b;c\n",  # commas give several columns, whatever else may
        "a;b\nc\nd\ne;f\n",  # the rows do not agree
        "a;b\tc\nd;e\tf\n",  # semicolons and tabs both do
        "a;\nb;c\n",  # a column without a name
        "sep=\na\n",
        "",
    ],
)
def test_where_rows_do_not_say_otherwise_a_csv_file_has_commas(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(text)
    assert separator_of(tmp_path / "x.csv") == ","


def test_most_rows_decide_and_the_others_are_bad_rows(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("q;a\n" + "b;c\n" * 9 + "d\n")
    data = load(tmp_path, "x.csv", prompt="{q}", completion="{a}", max_bad_rows=0.1)
    (bad,) = data.bad_rows
    assert (len(data.conversations), bad.source) == (9, "x.csv:11")
    assert bad.reason == "1 values, and the header has 2 columns"


def test_a_sheet_is_to_be_saved_as_csv(tmp_path: Path) -> None:
    (tmp_path / "x.xlsx").touch()
    with pytest.raises(TutelageError, match=r"cannot read .*x\.xlsx; the formats are .*; save the table as CSV$"):
        load(tmp_path, "./x.xlsx")

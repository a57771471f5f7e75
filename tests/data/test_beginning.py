"""Files that are something else than their names say."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from tutelage.common.errors import TutelageError
from tutelage.data.sources import read_file

TABLE = 'question,answer\n"How are you, then?",Fine\n'


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.csv", b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "a PNG image: give a file with rows"),
        ("x.jsonl", b"\xff\xd8\xff\xe0" + bytes(99), "a JPEG image: give a file with rows"),
        ("x.json", b"%PDF-1.4\n", "a PDF: give a file with rows"),
        ("x.csv", b"PK\x03\x04" + bytes(99), "a zip archive or a workbook: save its table as CSV in UTF-8"),
        ("x.csv", gzip.compress(TABLE.encode(), mtime=0), "compressed by gzip: unpack it"),
        ("x.jsonl", gzip.compress(b"{}", mtime=0), "compressed by gzip: call it x.jsonl.gz"),
        ("x.csv", TABLE.encode("utf-16"), "in UTF-16: save it in UTF-8"),
        ("x.csv", TABLE.encode("utf-16-le"), "in UTF-16: save it in UTF-8"),
        ("x.jsonl.gz", gzip.compress('{"a": 1}'.encode("utf-16"), mtime=0), "in UTF-16: save it in UTF-8"),
        ("x.tsv", b"\n<!DOCTYPE html>\n<html>", "a web page: download the file that the page shows"),
        ("x.csv", b'{"prompt": "a", "completion": "b"}\n', "JSON: call it .jsonl, or .json if it is one list"),
        ("x.csv", b"PAR1" + bytes(9), "Parquet: call it .parquet"),
        ("x.parquet", b"%PDF-1.4\n", "a PDF: give a file with rows"),
    ],
)
def test_what_a_file_seems_to_be_is_said(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(TutelageError) as caught:
        list(read_file("data.a.path: ", file, name))
    assert str(caught.value) == f"data.a.path: {file} seems to be {said}"


@pytest.mark.parametrize("name", ["x.csv", "x.tsv"])
def test_blank_lines_before_a_header_are_passed_over(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("\n\na,b\n1,2\n".replace(",", "," if name == "x.csv" else "\t"))
    assert list(read_file("", tmp_path / name, "x")) == [("x:4", {"a": "1", "b": "2"})]


def test_a_broken_row_of_a_table_is_named_by_its_line(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text('a,b\n1,2\n"3"4,5\n')
    with pytest.raises(TutelageError, match=r"x\.csv:3: .*; mend the row that begins there"):
        list(read_file("", file, "x"))

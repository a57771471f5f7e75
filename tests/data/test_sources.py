"""What is told of a data file before it is read."""

from __future__ import annotations

from pathlib import Path

from tutelage.data.sources import most_rows


def test_the_most_rows_of_a_file_are_told_without_parsing_it(tmp_path: Path) -> None:
    import pandas

    table = pandas.DataFrame([{"prompt": "Two\nlines?", "completion": "Yes."}] * 6)
    table.to_parquet(tmp_path / "rows.parquet")
    table.to_csv(tmp_path / "rows.csv", index=False)
    table.to_json(tmp_path / "rows.jsonl", orient="records", lines=True)
    table.to_json(tmp_path / "list.jsonl", orient="records")
    table.to_json(tmp_path / "rows.json", orient="records")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    found = {file.name: most_rows(file) for file in tmp_path.iterdir()}
    unknown = {"list.jsonl": None, "rows.json": None, "broken.parquet": None}
    assert found == {"rows.parquet": 6, "rows.csv": 1 + 2 * 6 + 1, "rows.jsonl": 6 + 1} | unknown

"""FLORES-200 Assamese–English as rows: train (dev, 997), dev (500) and test (512), the latter two from devtest.

    python scripts/flores_rows.py FLORES_FOLDER OUT_FOLDER

FLORES_FOLDER holds dev/asm_Beng.dev, dev/eng_Latn.dev, devtest/asm_Beng.devtest and devtest/eng_Latn.devtest, one
sentence a line (github.com/Helsinki-NLP/OPUS-MT-testsets). The parts are those that the paper names: it trains on dev
and splits devtest; which lines it took for which part is not said, so the first 500 are dev here.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

DEV_LINES = 500


def pairs(folder: Path, part: str) -> list[dict[str, str]]:
    """The sentences of a part, numbered by line."""
    sides = [(folder / part / f"{code}.{part}").read_text(encoding="utf-8").split("\n") for code in CODES]
    sides = [lines[:-1] if lines[-1] == "" else lines for lines in sides]
    if len(sides[0]) != len(sides[1]):
        sys.exit(
            f"{folder / part}: {len(sides[0])} Assamese and {len(sides[1])} English lines: take both from one source"
        )
    rows = zip(*sides, strict=True)
    return [{"id": f"{part}-{n}", "assamese": a, "english": b} for n, (a, b) in enumerate(rows, start=1)]


CODES = ("asm_Beng", "eng_Latn")


def main(folder: Path, out: Path) -> None:
    try:
        train, rest = pairs(folder, "dev"), pairs(folder, "devtest")
    except OSError as error:
        sys.exit(f"cannot read {error.filename}: {error.strerror}: give the folder with dev/ and devtest/")
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", train), ("dev", rest[:DEV_LINES]), ("test", rest[DEV_LINES:])):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (out / f"{name}.jsonl").write_text(text, encoding="utf-8")
        print(f"{out / f'{name}.jsonl'}: {len(rows)} rows")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))

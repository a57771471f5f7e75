"""The demo's data: notes between colleagues, each to be turned into one line of minutes.

All rows are put together from small lists of words and phrases (`notes.py`); nothing comes from a data set, so the
files are free to use and pass on. Development and test rows have two rephrasings beside the line of minutes, for
ROUGE-L. `heal` is a mixture of short text exercises (`exercises.py`) about other people and things, for a student some
of whose layers were removed.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from tutelage.cli.demo.exercises import draw_exercises
from tutelage.cli.demo.notes import draw_notes
from tutelage.common.files import write_atomically

INSTRUCTION = "Write one line of minutes for this note."
README = """# Notes and minutes

Made by `tutelage demo` from word lists in its own source (seed {seed}; rows: {counts}). No line comes from a data set,
a person or a model, and no right in these rows is claimed: CC0-1.0, do with them what you like.
"""


def _row(row_id: str, system: str, user: str, answer: str, references: tuple[str, ...] = ()) -> str:
    row: dict[str, object] = {
        "id": row_id,
        "messages": [
            {"role": "system", "content": system},
            {"role": "user", "content": user},
            {"role": "assistant", "content": answer},
        ],
    }
    if references:
        row["references"] = list(references)
    return json.dumps(row, ensure_ascii=False)


def write_demo_data(
    folder: Path, seed: int = 0, train: int = 320, dev: int = 60, test: int = 120, heal: int = 600
) -> dict[str, Path]:
    """Write four JSONL files and a README into `folder`; the same seed gives the same bytes.

    `train`, `dev`, `test`, `heal`: rows of each file. Returns the paths by these names. No two notes have the same line
    of minutes. Half of the test rows are in phrasings that no other file has; their ids end in `-new`. Development and
    test rows have three `references`. The test set is drawn first, so it does not depend on the other sizes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    seen: set[str] = set()
    sizes = {"test": test, "dev": dev, "train": train}
    paths: dict[str, Path] = {}
    for split, size in sizes.items():
        notes = draw_notes(size, Random(f"{seed}/{split}"), seen, held_out_share=0.5 if split == "test" else 0.0)
        lines = []
        for number, note in enumerate(notes):
            row_id = f"{split}-{number:03d}-{note.kind}" + ("-new" if note.held_out else "")
            references = () if split == "train" else note.references
            lines.append(_row(row_id, INSTRUCTION, note.text, note.answer, references))
        paths[split] = folder / f"{split}.jsonl"
        write_atomically(paths[split], "\n".join(lines) + "\n")
    exercises = draw_exercises(heal, Random(f"{seed}/heal"))
    lines = [_row(f"heal-{n:03d}-{e.kind}", e.instruction, e.text, e.answer) for n, e in enumerate(exercises)]
    paths["heal"] = folder / "heal.jsonl"
    write_atomically(paths["heal"], "\n".join(lines) + "\n")
    counts = ", ".join(f"{split} {size}" for split, size in {**sizes, "heal": heal}.items())
    write_atomically(folder / "README.md", README.format(seed=seed, counts=counts))
    return {split: paths[split] for split in ("train", "dev", "test", "heal")}

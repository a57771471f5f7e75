"""The rows of recipes/mini/study.yaml: a mixture of instructions and tasks, its tasks' test rows, and healing text.

    python scripts/mixture_rows.py DATA_FOLDER OUT_FOLDER

DATA_FOLDER holds dialogsum/ and instruct/ (docs/dialogsum.md says where they come from). OUT_FOLDER/mixture gets train,
dev and held_out, each one part of one shuffled mixture; the test rows of the tasks in it, which share no prompt with
it; and heal, other instructions, to be read as plain text. All is drawn with a fixed seed.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from situation_rows import CHOICES, PROMPTS_ONLY, Row, chats, dialogues, unseen, write

DEV, HELD_OUT = 300, 500
SUMMARIES, GENERAL = 3_200, 8_000  # rows of the mixture that are dialogues with summaries, and other instructions
TESTS = {"qasc": 484, "creak": 500, "sensemaking": 500}  # the rest of each is in the mixture
FILES = {"qasc": CHOICES["qasc"], "creak": CHOICES["creak"], "sensemaking": "flan_cot_sensemaking"}


def main(folder: Path, out: Path) -> None:
    draw = random.Random(0)
    seen: set[str] = set()

    def fresh(rows: list[Row]) -> list[Row]:
        draw.shuffle(rows)
        return unseen(rows, seen)

    fresh(dialogues(folder, "test"))  # the benchmark's; none of them is trained on
    parts: dict[str, list[Row]] = {}
    mixture: list[Row] = []
    for task, test in TESTS.items():
        rows = fresh(chats(folder, FILES[task]))
        parts[f"{task}.test"] = rows[:test]
        mixture += rows[test:]
    mixture += fresh(dialogues(folder, "train"))[:SUMMARIES]
    used = {*FILES.values(), *PROMPTS_ONLY}
    names = sorted(path.name.removesuffix(".jsonl.gz") for path in (folder / "instruct").glob("*.jsonl.gz"))
    rest = fresh([row for name in names if name not in used for row in chats(folder, name)])
    mixture += rest[:GENERAL]
    draw.shuffle(mixture)
    parts |= {"dev": mixture[:DEV], "held_out": mixture[DEV : DEV + HELD_OUT], "train": mixture[DEV + HELD_OUT :]}
    parts["heal"] = rest[GENERAL:]
    for name, rows in parts.items():
        write(out / "mixture" / f"{name}.jsonl", rows)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except OSError as error:
        sys.exit(
            f"cannot read or write {error.filename}: {error.strerror}: give the folder with dialogsum/ and instruct/"
        )

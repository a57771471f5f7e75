"""The rows of recipes/mini/situations: six tasks and the text that heals students, none of it in two parts. And those
of recipes/mini/blind, tasks that take no part in them.

    python scripts/situation_rows.py DATA_FOLDER OUT_FOLDER

DATA_FOLDER holds dialogsum/ and instruct/ (docs/dialogsum.md says where they come from). Per task OUT_FOLDER/situations
gets train, dev, test and shuffled, which is train with each answer under another row's prompt; and heal.jsonl.
OUT_FOLDER/blind gets train and test of questions of common sense and of topics of dialogues. Rows are shuffled with a
fixed seed, and a prompt that came before is left out.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DEV, TEST = 200, 400
GENERAL = 15_000
CHOICES = {"qasc": "flan_cot_qasc", "creak": "flan_cot_creak", "gsm8k": "gsm8k_train"}
SMALL = {"qasc": (120, 364), "creak": (150, 350)}  # dev and test of tasks with few rows
CODE = ("code_alpaca_2k", "evol_code_2k_1", "evol_code_2k_2", "gpteacher_codegen")
BLIND = "flan_cot_ecqa"
PROMPTS_ONLY = ("instructwild_prompts", "math_train_prompts", "muldimif_prompts")
Row = dict[str, Any]


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a .jsonl file, packed or not."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as handle:
        yield from map(json.loads, handle)


def chats(folder: Path, name: str) -> list[Row]:
    """The rows of an instruct file that are one question and one answer."""
    rows = []
    for number, row in enumerate(lines(folder / "instruct" / f"{name}.jsonl.gz")):
        turns = row["messages"]
        if [turn["role"] for turn in turns] == ["user", "assistant"]:
            texts = [turn["content"].strip() for turn in turns]
            if all(texts):
                right = [str(row["answer"])] if row.get("answer") else []
                rows.append({"id": f"{name}-{number}", "prompt": texts[0], "completion": texts[1], "references": right})
    return rows


def dialogues(folder: Path, part: str, what: str = "summary") -> list[Row]:
    """The rows of a part of DialogSum, with summaries or topics; those of test have three references."""
    asks = {"summary": "Summarize the following dialogue in one or two sentences.",
            "topic": "Name the topic of the following dialogue in a few words."}  # fmt: skip
    rows = []
    suffix = ".gz" if part == "train" else ""
    for row in lines(folder / "dialogsum" / f"dialogsum.{part}.jsonl{suffix}"):
        texts = [row[key] for key in (what, *(f"{what}{n}" for n in (1, 2, 3))) if key in row]
        prompt = f"{asks[what]}\n\n{row['dialogue']}"
        references = texts if len(texts) > 1 else []
        rows.append({"id": row["fname"], "prompt": prompt, "completion": texts[0], "references": references})
    return rows


def words(text: str) -> str:
    """The words of a text in small letters, with one space between two."""
    return " ".join(re.findall(r"[a-z0-9']+", text.lower()))


def write(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    print(f"{path}: {len(rows)} rows")


def unseen(rows: list[Row], seen: set[str]) -> list[Row]:
    """The rows whose prompts are not in `seen`, to which they are added."""
    kept = []
    for row in rows:
        key = " ".join(row["prompt"].lower().split())
        if key not in seen:
            seen.add(key)
            kept.append(row)
    return kept


def shuffled(rows: list[Row], seed: str) -> list[Row]:
    """Each answer below the prompt of another row."""
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    nearby = order[1:] + order[:1]  # a rotation of an order leaves no row its own answer
    moved = dict(zip(order, nearby, strict=True))
    return [row | {"completion": rows[moved[n]]["completion"], "references": []} for n, row in enumerate(rows)]


def main(folder: Path, out: Path) -> None:
    out = out / "situations"
    seen: set[str] = set()

    def fresh(rows: list[Row], seed: str) -> list[Row]:
        random.Random(seed).shuffle(rows)
        return unseen(rows, seen)

    parts: dict[str, tuple[list[Row], list[Row], list[Row]]] = {}
    test, dev = dialogues(folder, "test")[:TEST], dialogues(folder, "dev")[:DEV]
    test, dev = fresh(test, "test"), fresh(dev, "dev")
    parts["dialogsum"] = (fresh(dialogues(folder, "train"), "dialogsum"), dev, test)
    for task in (*CHOICES, "code"):
        names = CODE if task == "code" else (CHOICES[task],)
        rows = fresh([row for name in names for row in chats(folder, name)], task)
        few, many = SMALL.get(task, (DEV, TEST))
        parts[task] = (rows[few + many :], rows[:few], rows[few : few + many])
    used = {*CHOICES.values(), *CODE, *PROMPTS_ONLY, BLIND}
    names = sorted(path.name.removesuffix(".jsonl.gz") for path in (folder / "instruct").glob("*.jsonl.gz"))
    rest = fresh([row for name in names if name not in used for row in chats(folder, name)], "rest")
    general, heal = rest[: GENERAL + DEV + TEST], rest[GENERAL + DEV + TEST :]
    parts["general"] = (general[DEV + TEST :], general[:DEV], general[DEV : DEV + TEST])
    for task, (train, dev, test) in parts.items():
        for name, rows in (("train", train), ("dev", dev), ("test", test), ("shuffled", shuffled(train, task))):
            write(out / f"{task}.{name}.jsonl", rows)
    write(out / "heal.jsonl", heal)
    known = "\n".join(words(row["prompt"]) for row in rest)  # some questions are in two collections
    asked = [row for row in chats(folder, BLIND) if words(row["prompt"].split("\nOptions")[0]) not in known]
    asked = fresh(asked, BLIND)
    blind = {"ecqa.test": asked[:TEST], "ecqa.train": asked[TEST:]}
    blind["topics.test"] = fresh(dialogues(folder, "test", "topic")[:TEST], "topics test")
    blind["topics.train"] = fresh(dialogues(folder, "train", "topic"), "topics")[:2000]
    for name, rows in blind.items():
        write(out.with_name("blind") / f"{name}.jsonl", rows)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except OSError as error:
        sys.exit(
            f"cannot read or write {error.filename}: {error.strerror}: give the folder with dialogsum/ and instruct/"
        )

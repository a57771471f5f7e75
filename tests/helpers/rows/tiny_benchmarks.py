"""A data folder with a few made-up rows per benchmark, in the formats of the published files."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zipfile
from pathlib import Path
from typing import Any

from tutelage.evaluation.benchmarks import BENCHMARKS
from tutelage.evaluation.benchmarks.base import Benchmark, Item, Reply
from tutelage.evaluation.benchmarks.bbh import TASKS
from tutelage.evaluation.records import ExampleRecord

BBH_ROWS = {
    "boolean_expressions": [("True and not False is", "True"), ("not True is", "False")],
    "navigate": [("Do you return to the start? Turn around.\nOptions:\n- Yes\n- No", "No")],
    "formal_fallacies": [("Is it valid?\nOptions:\n- valid \n- invalid", "invalid")],
    "object_counting": [("I have two pears and five plums. How many fruits do I have?", "7")],
    "word_sorting": [("Sort the following words alphabetically: List: plum fig pear", "fig pear plum")],
    "dyck_languages": [("Complete the rest of the sequence. Input: [ ( {", "} ) ]")],
    "snarks": [("Which statement is sarcastic?\nOptions:\n(A) Rain is wet\n(B) Rain is my favourite oven", "(B)")],
}
IFEVAL_ROWS = [
    (1, "Write about rain without commas.", ["punctuation:no_comma"], [{}]),
    (
        2,
        "Write a titled poem in lower case.",
        ["detectable_format:title", "change_case:english_lowercase"],
        [{}, {}],
    ),
]
INFOBENCH_ROWS = [
    ("easy_1", "Easy_set", "Mail", "Write a greeting.", "", ["Is it a greeting?", "Is it short?"]),
    ("hard_1", "Hard_set", "Maths", "Add the numbers.", "1 2", ["Is it 3?", "Is it a number?", "Is it alone?"]),
]
MMLU_ROWS = [
    (10, "Which planet is the largest?", ["Mars", "Jupiter", "Venus"], "B", "physics"),
    (11, "What is 2 + 2?", ["3", "4", "5", "6", "7", "8", "9", "10", "11", "12"], "B", "math"),
    (12, "What is 3 + 3?", ["5", "6"], "B", "math"),
]
ARC_ROWS = [
    ("Q_1", "What melts ice?", ["Heat", "Cold", "Dark", "Noise"], ["A", "B", "C", "D"], "A"),
    ("Q_2", "What do plants need?", ["Sand", "Light", "Salt", "Iron", "Oil"], ["1", "2", "3", "4", "5"], "2"),
]
DIALOGUES = [
    ("test_0", "#Person1#: Hi.\n#Person2#: Bye.", ("They greet.", "Two people greet.", "A short talk.")),
    ("test_1", "#Person1#: Tea?\n#Person2#: Yes.", ("He wants tea.", "They have tea.", "Tea is had.")),
]
SENTENCES = [("অসম", "Assam is green."), ("চাহ", "Tea grows here."), ("নদী", "The river is wide.")]
GPQA_IDS = {"extended": ["rec1", "rec2", "rec3"], "main": ["rec1", "rec2"], "diamond": ["rec2"]}


def write_data(folder: Path) -> Path:
    for task in TASKS:
        rows = BBH_ROWS.get(task, [(f"Say (A).\nOptions:\n(A) yes of {task}\n(B) no", "(A)")])
        examples = [{"input": question, "target": target} for question, target in rows]
        _write(folder / f"bbh/bbh/{task}.json", json.dumps({"canary": "none", "examples": examples}))
    keys = ("key", "prompt", "instruction_id_list", "kwargs")
    _lines(folder / "ifeval/input_data.jsonl", [dict(zip(keys, row, strict=True)) for row in IFEVAL_ROWS])
    keys = ("id", "subset", "category", "instruction", "input", "decomposed_questions")
    rows = [dict(zip(keys, row, strict=True)) for row in INFOBENCH_ROWS]
    for row in rows:
        row["question_label"] = [["Format"] if k == 0 else ["Content"] for k in range(len(row["decomposed_questions"]))]
    _lines(folder / "infobench/InFoBench.jsonl", rows)
    _write_mmlu_pro(folder / "mmlu_pro")
    _lines(
        folder / "arc_challenge/ARC-Challenge-test.jsonl",
        [
            {"id": name, "question": text, "choices": {"text": options, "label": labels}, "answerKey": key}
            for name, text, options, labels, key in ARC_ROWS
        ],
    )
    _lines(
        folder / "dialogsum/dialogsum.test.jsonl",
        [
            {"fname": name, "dialogue": text, **{f"summary{k}": one for k, one in enumerate(summaries, 1)}}
            for name, text, summaries in DIALOGUES
        ],
    )
    for column, code in enumerate(("asm_Beng", "eng_Latn")):
        _write(folder / f"flores/devtest/{code}.devtest", "".join(f"{pair[column]}\n" for pair in SENTENCES))
    _write_gpqa(folder / "gpqa")
    return folder


def _write_mmlu_pro(folder: Path) -> None:
    test = [
        {
            "question_id": number,
            "question": question,
            "options": options,
            "answer": answer,
            "answer_index": "ABCDEFGHIJ".index(answer),
            "category": category,
        }
        for number, question, options, answer, category in MMLU_ROWS
    ]
    folder.mkdir(parents=True)
    with gzip.open(folder / "mmlu_pro_test.jsonl.gz", "wt", encoding="utf-8") as handle:
        handle.writelines(json.dumps(row) + "\n" for row in test)
    shots = [
        {
            "question": f"What is {k}?",
            "options": [str(k), "none"],
            "answer": "A",
            "category": category,
            "cot_content": f"A: Let's think step by step. It is {k}. The answer is (A).",
        }
        for category in ("physics", "math")
        for k in range(5)
    ]
    _lines(folder / "mmlu_pro_validation.jsonl", shots)


def _write_gpqa(folder: Path) -> None:
    """Not encrypted, since Python cannot; the reader accepts that too."""
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "dataset.zip", "w") as archive:
        for subset, names in GPQA_IDS.items():
            text = io.StringIO()
            writer = csv.writer(text)
            wrong = [f"Incorrect Answer {k}" for k in (1, 2, 3)]
            writer.writerow(["Record ID", "Question", "Correct Answer", *wrong])
            for name in names:
                writer.writerow([name, f"Which one is {name}?", f"right {name}", "first", "second", "third"])
            archive.writestr(f"dataset/gpqa_{subset}.csv", text.getvalue())


def _lines(file: Path, rows: list[dict[str, Any]]) -> None:
    _write(file, "".join(json.dumps(row) + "\n" for row in rows))


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def item_of(bench: Benchmark, data: Path, id: str) -> Item:
    return next(item for item in bench.load(data) if item.id == id)


def scored(name: str, data: Path, id: str, reply: str) -> ExampleRecord:
    """The record of one reply, scored by a benchmark."""
    bench = BENCHMARKS[name]
    return bench.score([item_of(bench, data, id)], {id: Reply(reply)})[0]

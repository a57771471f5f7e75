"""What all benchmarks share: names, ids, limits, and data that are missing or broken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_benchmarks import write_data

from tutelage.common.errors import TutelageError
from tutelage.evaluation.benchmarks import BENCHMARKS, PAPER, benchmark, resolve_names
from tutelage.evaluation.benchmarks.base import Reply


def test_ids(data: Path) -> None:
    ids = {name: [item.id for item in BENCHMARKS[name].load(data)] for name in BENCHMARKS}
    assert ids["bbh"][:2] == ["boolean_expressions/0", "boolean_expressions/1"]
    assert len(ids["bbh"]) == 28
    assert ids["ifeval"] == ["1", "2"]
    assert ids["infobench"] == ["easy_1", "hard_1"]
    assert ids["mmlu_pro"] == ["10", "11", "12"]
    assert ids["arc_challenge"] == ["Q_1", "Q_2"]
    assert ids["dialogsum"] == ["test_0", "test_1"]
    assert ids["flores"] == ["0", "1", "2"]
    assert ids["gpqa"] == ["rec1", "rec2", "rec3"]
    assert ids["gpqa_diamond"] == ["rec2"]


def test_names() -> None:
    assert resolve_names(["paper"]) == list(PAPER)
    assert len(PAPER) == 8
    assert resolve_names(["bbh", "paper"])[0] == "bbh"
    assert len(resolve_names(["bbh", "paper"])) == 8
    assert resolve_names(["ifeval", "gsm8k", "lm-eval:ifeval", "gsm8k"]) == [
        "ifeval",
        "lm-eval:gsm8k",
        "lm-eval:ifeval",
    ]
    with pytest.raises(TutelageError, match="names none"):
        resolve_names([])


def test_limit_takes_evenly_from_the_groups_and_keeps_the_order(data: Path) -> None:
    bench = BENCHMARKS["bbh"]
    all_ids = [item.id for item in bench.load(data)]
    few = bench.load(data, limit=27)
    assert len({item.group for item in few}) == 27
    assert [item.id for item in few] == [id for id in all_ids if id in {item.id for item in few}]
    assert [item.id for item in bench.load(data, 5, seed=1)] != [item.id for item in bench.load(data, 5, seed=2)]
    assert {item.id for item in bench.load(data, 4)} < {item.id for item in bench.load(data, 9)}


# --- data -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_real_data_have_the_published_sizes(data_folder: Path) -> None:
    sizes = {name: len(BENCHMARKS[name].load(data_folder)) for name in PAPER}
    assert sizes == {
        "bbh": 6511,
        "gpqa": 546,
        "ifeval": 541,
        "infobench": 500,
        "mmlu_pro": 12032,
        "flores": 1012,
        "dialogsum": 500,
        "arc_challenge": 1172,
    }
    questions = [len(item.targets) for item in BENCHMARKS["infobench"].load(data_folder)]
    assert sum(questions) == 2250


@pytest.mark.slow
@pytest.mark.long
def test_every_gold_answer_is_found_and_right(data_folder: Path) -> None:
    """Stated plainly, the data's own answers all score 1."""
    for name in ("bbh", "mmlu_pro", "gpqa", "arc_challenge"):
        bench = BENCHMARKS[name]
        items = bench.load(data_folder, limit=400)
        replies = {item.id: Reply(f"I thought. So the answer is {item.targets[0]}.") for item in items}
        wrong = [record.id for record in bench.score(items, replies) if record.scores["accuracy"] != 1]
        assert wrong == [], name


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda d: (d / "ifeval/input_data.jsonl").unlink(), r"input_data.jsonl is missing: put the file there"),
        (lambda d: (d / "ifeval/input_data.jsonl").write_text('{"key": 1}\n'), r"input_data.jsonl:1: has no `prompt`"),
        (lambda d: (d / "ifeval/input_data.jsonl").write_text("\n{\n"), r"input_data.jsonl:2: not valid JSON"),
        (lambda d: (d / "ifeval/input_data.jsonl").write_text("[]\n"), r"input_data.jsonl:1: not an object"),
        (
            lambda d: (d / "ifeval/input_data.jsonl").write_text(
                2 * (json.dumps({"key": 1, "prompt": "", "instruction_id_list": [], "kwargs": []}) + "\n")
            ),
            "hold the id `1` twice",
        ),
    ],
)
def test_bad_data_are_named(tmp_path: Path, break_it, message: str) -> None:
    data = write_data(tmp_path)
    break_it(data)
    with pytest.raises(TutelageError, match=message) as raised:
        BENCHMARKS["ifeval"].load(data)
    assert "\n" not in str(raised.value)


def test_bad_archives_and_files_are_named(tmp_path: Path) -> None:
    data = write_data(tmp_path)
    (data / "gpqa/dataset.zip").write_bytes(b"no archive")
    (data / "bbh/bbh/snarks.json").write_text("{}")
    with (data / "flores/devtest/eng_Latn.devtest").open("a") as handle:
        handle.write("one more\n")
    for name, message in [
        ("gpqa", r"gpqa_extended.csv cannot be read"),
        ("bbh", r"snarks.json: has no list `examples`"),
        ("flores", "3 Assamese lines but 4 English ones"),
    ]:
        with pytest.raises(TutelageError, match=message):
            benchmark(name).load(data)


def test_the_hub_is_asked_by_name_without_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def load_dataset(name: str, config: str | None, split: str) -> list[dict]:
        asked.append((name, config, split))
        rows = [{"id": f"test_0_{k}", "dialogue": "Hi.", "summary": f"summary {k}"} for k in (1, 2, 3)]
        return rows if name == "knkarthick/dialogsum" else []

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    items = BENCHMARKS["dialogsum"].load(None)
    assert [(item.id, item.targets) for item in items] == [("test_0", ("summary 1", "summary 2", "summary 3"))]
    BENCHMARKS["ifeval"].load(None)
    BENCHMARKS["gpqa_diamond"].load(None)
    assert asked == [
        ("knkarthick/dialogsum", None, "test"),
        ("google/IFEval", None, "train"),
        ("Idavidrein/gpqa", "gpqa_diamond", "train"),
    ]


@pytest.mark.parametrize("name", ["ifeval", "infobench", "mmlu_pro", "arc_challenge", "dialogsum"])
def test_a_file_without_rows_is_refused(tmp_path: Path, name: str) -> None:
    data = write_data(tmp_path)
    (data / BENCHMARKS[name].files[0]).write_text("")
    with pytest.raises(TutelageError, match=f"{name}: .* holds no example; take the data from their source again"):
        BENCHMARKS[name].load(data)

"""Data from `kept.LARGE` rows on lies in files, and gives what rows in memory give: bit for bit."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import chat_templates
import pytest
import tiny
import torch
from chat_rows import assistant, load, row, system, user, write
from chat_templates import CHATML, LLAMA3
from recipes_fixture import ROWS, Workshop

from tutelage.common import files
from tutelage.common.errors import TutelageError
from tutelage.common.types import TokenSequence
from tutelage.data import sources
from tutelage.data.align_rows import align_all
from tutelage.data.batch import Order
from tutelage.data.chat_template import ChatTemplate
from tutelage.data.dataset import LoadedData, questions_of
from tutelage.data.encode_rows import encode_all
from tutelage.data.large import kept, made
from tutelage.data.large.stored import JoinedSequences, StoredRows, StoredSequences, weights_of
from tutelage.recipe.load import load_recipe
from tutelage.runs.do_run import do_run
from tutelage.runs.planner import Planner

CALL = {"type": "function", "function": {"name": "tide", "arguments": {"p": [1, 2.5, None]}}}
ODD = [
    {"messages": [system("Hello"), user("q"), assistant("\n\na"), user("1 2"), assistant("3\n")], "id": "é\u2028"},
    {"messages": [user("q"), {**assistant("no loss"), "train": False}, user("x"), assistant("y")], "tools": [CALL]},
    {
        "messages": [
            user("q"),
            {**assistant(""), "tool_calls": [CALL]},
            {"role": "tool", "content": "9"},
            assistant("z"),
        ]
    },
    {"messages": [user("q"), {**assistant("z"), "other": "\ud800"}], "references": ["r", "s"], "images": ["i"]},
    {"messages": [user("zqx" * 90), assistant("too long")]},
    {"messages": [user("q"), assistant("zqx" * 90)]},
    "{",
    {"messages": []},
]
ALL: list[Any] = [*ODD, *(row(n, weight=n) for n in range(30))]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(made, "_PART", 7)
    write(tmp_path / "x.jsonl", *ALL)
    return tmp_path


def both(folder: Path, monkeypatch: pytest.MonkeyPatch, **config: Any) -> tuple[LoadedData, LoadedData]:
    """The same rows in memory and in files."""
    small = load(folder, max_bad_rows=0.1, **config)
    monkeypatch.setattr(kept, "LARGE", 10)
    return small, load(folder, max_bad_rows=0.1, **config)


def fields(sequences: Sequence[TokenSequence]) -> list[Any]:
    """All that sequences hold, for comparison."""
    return [
        {
            k: [t.tolist() for t in v] if isinstance(v, tuple) and v and isinstance(v[0], torch.Tensor) else
            (v.dtype, v.tolist()) if isinstance(v, torch.Tensor) else v
            for k, v in vars(one).items()
        }
        for one in sequences
    ]  # fmt: skip


@pytest.mark.parametrize("config", [{}, {"size": 20, "seed": 3}, {"skip": 5}, {"size": 4}, {"distinct": True},
                                    {"order": "question", "size": 20}], ids=str)  # fmt: skip
def test_rows_in_files_are_the_rows_in_memory(folder: Path, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any]):
    small, large = both(folder, monkeypatch, **config)
    assert isinstance(large.conversations, StoredRows) == (config.get("size", 36) >= 10)
    assert list(large.conversations) == list(small.conversations)
    assert [*large.conversations[1:4]] == list(small.conversations[1:4])
    assert large.conversations[-1] == small.conversations[-1]
    for name in ("bad_rows", "total", "fingerprint", "repeated"):
        assert getattr(large, name) == getattr(small, name)
    assert questions_of(large.conversations) == questions_of(small.conversations)
    with pytest.raises(IndexError):
        large.conversations[len(large.conversations)]


def test_ids_and_their_errors_are_those_of_rows_in_memory(folder: Path, monkeypatch: pytest.MonkeyPatch):
    write(folder / "x.jsonl", *(row(n, name=f"n{n}") for n in range(12)))
    small, large = both(folder, monkeypatch, id="name")
    assert (
        [one.id for one in large.conversations]
        == [one.id for one in small.conversations]
        == [*map("n{}".format, range(12))]
    )
    write(folder / "x.jsonl", *(row(n, name=f"n{n % 9}") for n in range(12)))
    with pytest.raises(TutelageError, match=r"^data\.gold\.id: 3 values of column `name` name more than one row"):
        load(folder, id="name")
    write(folder / "x.jsonl", *(row(n) for n in range(12)), *["{"] * 5)
    with pytest.raises(TutelageError, match=r"^data\.gold: 5 of 17 rows are bad .* x\.jsonl:13, .*: broken JSON"):
        load(folder)
    assert not [*(folder / "cache" / "data").glob(".*")]  # nothing is left of what failed


def test_rows_are_read_once_until_their_file_changes(folder: Path, monkeypatch: pytest.MonkeyPatch):
    _, large = both(folder, monkeypatch)
    expected = list(large.conversations)
    read: list[Path] = []
    real = sources.read_file
    monkeypatch.setattr(sources, "read_file", lambda key, file, label: read.append(file) or real(key, file, label))
    assert next(iter(load(folder, max_bad_rows=0.5, size=15).conversations)) in expected
    assert read == []
    with pytest.raises(TutelageError, match=r"2 of 38 rows are bad"):  # checked though it is not read
        load(folder, max_bad_rows=0.01)
    file = max((folder / "cache" / "data").rglob("rows.arrow"))
    whole = file.read_bytes()
    file.write_bytes(b"no arrow")  # since it was looked for
    with pytest.raises(TutelageError, match=f"remove the folder {re.escape(str(file.parent))} of the cache"):
        StoredRows(file.parent)
    file.write_bytes(whole[:-9])  # as a power cut leaves it
    assert list(load(folder, max_bad_rows=0.1).conversations) == expected
    write(folder / "x.jsonl", *ALL, row(99))
    assert len(load(folder, max_bad_rows=0.1).conversations) == 37
    assert len(read) == 2


def template(text: str = CHATML, eos: str = "<|im_end|>") -> ChatTemplate:
    return ChatTemplate(chat_templates.tokenizer(text, eos))


@pytest.mark.slow
def test_tokens_made_by_processes_are_those_made_here(
    folder: Path, warm_children: None, monkeypatch: pytest.MonkeyPatch
):
    student, teacher = template(), template(LLAMA3, "<|eot|>")
    small, large = both(folder, monkeypatch)
    assert made.processes() >= 1
    expected, report = encode_all(student, small, 200, 0.5)
    got, same = encode_all(student, large, 200, 0.5)
    assert isinstance(expected, list)
    assert isinstance(got, StoredSequences)
    assert fields(got) == fields(expected)
    assert fields(got[3:9]) == fields(expected[3:9])
    assert same == report
    assert report.cut == len(report.too_long) == 1
    assert len(report.left_out) == 6
    aligned, found = align_all(expected, small, student, teacher, 190, "data.gold")
    read, also = align_all(got, large, student, teacher, 190, "data.gold")
    assert fields(read) == fields(aligned)
    assert also == found
    assert found["beyond"]
    assert not found["refused"]
    # and the second time they are found
    monkeypatch.setattr(made, "_by_processes", None)
    assert fields(encode_all(student, large, 200, 0.5)[0]) == fields(expected)
    assert align_all(got, large, student, teacher, 190, "data.gold")[1] == found
    joined = JoinedSequences([got, expected], [0, 36])
    assert fields(joined) == fields([*expected, *(replace(one, index=one.index + 36) for one in expected)])
    assert weights_of(joined).tolist() == weights_of(list(joined)).tolist()


@pytest.mark.slow
def test_a_process_that_dies_is_one_line_and_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch):
    _, large = both(folder, monkeypatch)
    popen = subprocess.Popen
    dying = [sys.executable, "-c", "import os; os.read(0, 9); os.kill(os.getpid(), 9)"]
    monkeypatch.setattr(made.subprocess, "Popen", lambda command, **options: popen(dying, **options))
    with pytest.raises(
        TutelageError, match=r"^a process that tokenises rows \d+ to \d+ died \(killed, out of memory"
    ) as e:
        encode_all(template(), large, 200, 0.5)
    assert "\n" not in str(e.value)
    assert not [*(folder / "cache" / "data").glob("*tokens*")]


def test_who_comes_second_waits(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """The lock's holder makes the folder while this process waits for it."""
    root = folder / "cache" / "data"
    code = f"""
import time
from pathlib import Path
from tutelage.common.files import alone_in
with alone_in(Path({str(root)!r})):
    print("held", flush=True)
    while not Path({str(folder / "go")!r}).exists():
        time.sleep(0.02)
"""
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    real = files.fcntl.flock

    def flock(descriptor: int, how: int) -> None:
        if how == files.fcntl.LOCK_EX:  # it is about to wait
            assert holder.poll() is None
            (folder / "go").touch()
        real(descriptor, how)

    monkeypatch.setattr(files.fcntl, "flock", flock)
    with files.alone_in(root, "waiting"):
        assert holder.wait() == 0
    assert capsys.readouterr().out == "waiting\n"
    assert kept.make("name", "rows", lambda partial: {"n": 1}) == kept.make("name", "rows", lambda _: 1 / 0)
    assert kept.about(root / "name") == {"n": 1}


def test_a_full_disk_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def full(_: Path) -> dict[str, Any]:
        raise OSError(28, "No space left on device")

    with pytest.raises(TutelageError, match=r"^data\.x cannot be kept in .*: no space is left .*TUTELAGE_CACHE"):
        kept.make("name", "data.x", full)


def reference(examples: Any, weights: Any, order: Any, first: int, last: int) -> list[tuple[int, float]]:
    """Indices and weights of a batch, found by looking at all examples."""
    ends = weights[order].cumsum(0)
    taken = ends.clamp(max=last) - (ends - weights[order]).clamp(min=first)
    return [(examples[int(order[p])].index, float(taken[p])) for p in (taken > 0).nonzero().squeeze(-1)]


def test_a_step_takes_what_a_look_at_all_rows_gives():
    examples = [
        replace(one, weight=w) for one, w in zip(tiny.sequences([5] * 40), [1.0, 3.0, 1.0, 2.0] * 10, strict=True)
    ]
    weights = weights_of(examples)
    for seed in range(5):
        order = torch.randperm(40, generator=torch.Generator().manual_seed(seed))
        for size in (1, 4, 7, 100):
            for first in range(0, 70, size):
                got = Order(weights, order).take(examples, first, first + size)
                assert [(one.index, one.weight) for one in got] == reference(
                    examples, weights, order, first, first + size
                )


@pytest.mark.slow
def test_large_data_of_which_no_row_fits_is_refused_as_small_data_is(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TUTELAGE_CACHE", str(workshop.folder / "cache"))
    said = []
    for limit in (kept.LARGE, 3):
        monkeypatch.setattr(kept, "LARGE", limit)
        file = workshop.write(training__max_length=8)
        run = Planner(load_recipe(file), file.parent, workshop.folder / str(limit)).stage_run("sft", 0)
        with pytest.raises(TutelageError) as error:
            do_run(run)
        said.append(str(error.value))
    assert said[0] == said[1]
    assert "max_length is 8" in said[0]


@pytest.mark.slow
def test_a_run_with_large_data_makes_the_same_model(
    workshop: Workshop, warm_children: None, monkeypatch: pytest.MonkeyPatch
):
    """GKD on two sections and validation on a third; the log's numbers are equal as well."""
    monkeypatch.setenv("TUTELAGE_CACHE", str(workshop.folder / "cache"))  # others would find these small data there
    workshop.rows("more", [{"prompt": f"Hello {n}", "completion": f"The cat {n}."} for n in range(7)])
    recipe = {
        "data__more": {"path": "more.jsonl"},
        "stages__1__data": ["train", "more"],
        "training__validation": "test",
    }
    results = []
    for name, limit in (("small", kept.LARGE), ("large", 3)):
        monkeypatch.setattr(kept, "LARGE", limit)
        monkeypatch.setattr(made, "_PART", 3)
        file = workshop.write(**recipe, stages__1__student="base")
        run = Planner(load_recipe(file), file.parent, workshop.folder / name).stage_run("gkd", 0)
        do_run(run)
        lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
        clocks = ("seconds", "tokens_per_s", "sampled_tokens_per_s", "checksum")
        numbers = [{k: v for k, v in line.items() if k not in clocks} for line in lines]
        written = [(run.folder / part).read_bytes() for part in ("data.json", "model/model.safetensors")]
        results.append((run.fingerprint, numbers, written))
    assert len(ROWS) > 3
    assert results[0] == results[1]

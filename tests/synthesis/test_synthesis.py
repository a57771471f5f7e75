"""Making synthetic rows: prompts, files, and that a kill at any moment changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections import Counter
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from synthetic_author import FRAME, GOLD, NOUNS, TEMPLATE, Author, make, sentence, tokens

from tutelage.common.errors import TutelageError
from tutelage.common.metrics_log import read_metrics
from tutelage.common.types import Message
from tutelage.synthesis import blocks as synthetic_rows
from tutelage.synthesis.blocks import answer_of, input_of, read_rows
from tutelage.synthesis.counts import Counts
from tutelage.synthesis.prompts import chat_prompt, continuation_prompt
from tutelage.synthesis.synthesis import Synthesis, Writer


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.jsonl")) if p.name != "metrics.jsonl"
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], Synthesis]:
    folder = tmp_path_factory.mktemp("whole")
    made = make(folder)
    return folder, made.run(), made


def test_the_requested_number_of_rows_and_no_attempt_lost(whole: tuple[Path, dict[str, Any], Synthesis]):
    folder, result, _ = whole
    accepted, rejected = read_rows(folder, "accepted"), read_rows(folder, "rejected")
    assert (result["rows"], len(accepted)) == (60, 60)
    ids = sorted(row["id"] for row in [*accepted, *rejected])
    assert ids == [f"synthetic-{n:07d}" for n in range(result["attempts"])]  # each once
    assert result["attempts"] % 8 == 0
    assert [row["id"] for row in accepted] == sorted(row["id"] for row in accepted)
    reasons = Counter(row["verdict"]["reason"] for row in rejected)
    assert reasons == result["rejected"]
    assert {"empty", "cut", "preamble", "script", "duplicate_of_gold", "duplicate_of_earlier"} <= set(reasons)
    assert result["acceptance"] == 60 / result["attempts"]
    inputs = [input_of(row, FRAME) for row in accepted]
    assert len(set(inputs)) == 60
    assert not {one.input for one in GOLD} & set(inputs)


@pytest.mark.slow
def test_the_last_blocks_fit_the_missing_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("fitting", "full"):
        (tmp_path / name).mkdir()
    made = make(tmp_path / "fitting", rows=150, batches_per_block=8)
    assert made.run()["attempts"] == 232
    assert made.counts.block_sizes == [16, 64, 64, 64, 16, 8]  # whole batches of 8
    monkeypatch.setattr(Counts, "next_block_size", lambda self, number: 64)
    full = make(tmp_path / "full", rows=150, batches_per_block=8)
    assert full.run()["attempts"] == 16 + 4 * 64
    assert read_rows(tmp_path / "full", "accepted") == read_rows(tmp_path / "fitting", "accepted")


def test_rows_are_training_rows_in_the_tasks_own_frame(whole: tuple[Path, dict[str, Any], Synthesis]):
    for row in read_rows(whole[0], "accepted"):
        user, assistant = row["messages"]
        assert (user["role"], assistant["role"]) == ("user", "assistant")
        assert user["content"] == f"Who did what?\n{input_of(row, FRAME)}\nIn one word:"
        assert assistant["content"] in NOUNS


def test_every_row_has_its_provenance(whole: tuple[Path, dict[str, Any], Synthesis]):
    folder, _, made = whole
    rows = [*read_rows(folder, "accepted"), *read_rows(folder, "rejected")]
    for row in rows:
        known = row["provenance"]
        assert (known["generator"], known["annotator"], known["seed"]) == ("writer@1", "teacher@2", 5)
        assert known["temperatures"] == {"input": 0.8, "answer": 0.6}
        assert known["top_p"] == {"input": 1.0, "answer": 1.0}
        assert len(set(known["demonstrations"])) == 3
        assert {"accepted", "reason", "detail", "nearest"} == set(row["verdict"])
    by_attempt = {row["provenance"]["attempt"]: row["provenance"] for row in rows}
    again = made._prepare(1, 16)
    for attempt in again.attempts:
        known = by_attempt[attempt.number]
        assert known["demonstrations"] == [one.id for one in attempt.shown]
        assert known["prompt_hash"] == attempt.prompt_hash
    assert len({known["prompt_hash"] for known in by_attempt.values()}) > 10  # different demonstrations


def test_prompts_seeds_and_temperatures(tmp_path: Path):
    by, to = Author(sentence), Author(lambda random: "cow")
    made = make(tmp_path, rows=10, by=by, to=to)
    made.run()
    first = by.calls[0]
    assert (first["temperature"], first["top_p"], first["max_new_tokens"]) == (0.8, 1.0, 200)
    block = made._prepare(0, 0)
    assert first["prompts"] == [a.prompt for a in block.attempts]
    text = chat_prompt(block.attempts[0].shown)
    assert block.attempts[0].prompt == TEMPLATE.encode_prompt([Message("user", text)])
    assert len(set(first["seeds"])) == len(first["seeds"])
    answers = to.calls[0]
    assert (answers["temperature"], answers["max_new_tokens"]) == (0.6, 50)
    passed = [
        row for row in read_rows(tmp_path, "accepted") + read_rows(tmp_path, "rejected") if answer_of(row) is not None
    ]
    asked = {tuple(TEMPLATE.encode_prompt(FRAME.messages(input_of(row, FRAME)))) for row in passed}
    assert {tuple(p) for call in to.calls for p in call["prompts"]} == asked
    assert not set(first["seeds"]) & set(answers["seeds"])


def test_a_base_model_continues_a_list(tmp_path: Path):
    by = Author(lambda random: f" {sentence(random)}", tail="\nOut: dog\n\nIn: The next")
    made = make(tmp_path, rows=10, form="continuation", by=by)
    made.run()
    text = continuation_prompt(made._prepare(0, 0).attempts[0].shown)
    assert by.calls[0]["prompts"][0] == list(tokens(text))
    for row in read_rows(tmp_path, "accepted"):
        assert input_of(row, FRAME).startswith("The ")
        assert "Out:" not in input_of(row, FRAME)


def test_a_smaller_number_is_the_beginning_of_a_larger(tmp_path: Path, whole: tuple[Path, dict[str, Any], Synthesis]):
    make(tmp_path, rows=25).run()
    few, many = read_rows(tmp_path, "accepted"), read_rows(whole[0], "accepted")
    assert [row["id"] for row in few] == [row["id"] for row in many][:25]
    assert few == many[:25]


def test_another_seed_makes_other_rows(tmp_path: Path, whole: tuple[Path, dict[str, Any], Synthesis]):
    make(tmp_path, seed=6).run()
    assert files(tmp_path).keys() & files(whole[0]).keys()
    assert read_rows(tmp_path, "accepted")[0] != read_rows(whole[0], "accepted")[0]


def test_contamination_is_found_whatever_else_a_row_is(tmp_path: Path):
    planted = "The cat and the dog and the bird saw it seven times before the day was over"
    by = Author(lambda random: planted if random.random() < 0.2 else sentence(random))
    evaluation = ["As they say: the dog and the bird saw it seven times before the day was over, alas"]
    make(tmp_path, rows=30, by=by, evaluation=evaluation).run()
    found = [row for row in read_rows(tmp_path, "rejected") if row["verdict"]["reason"] == "contamination"]
    assert found
    assert {row["input"] for row in found} == {planted}
    assert "bird saw it seven times" in found[0]["verdict"]["detail"]
    assert planted not in {input_of(row, FRAME) for row in read_rows(tmp_path, "accepted")}


# --- kills -----------------------------------------------------------------------------------------------------------


class Killer:
    """Kills this process at its n-th event."""

    def __init__(self, events: int) -> None:
        self.left = events

    def __call__(self, function: Any, late: bool = False) -> Any:
        def watched(*args: Any, **options: Any) -> Any:
            self.left -= 1
            now = self.left == 0
            if now and not late:
                os.kill(os.getpid(), signal.SIGKILL)
            out = function(*args, **options)
            if now:
                os.kill(os.getpid(), signal.SIGKILL)
            return out

        return watched


def resume_until(folder: Path, events: int) -> int:
    """Resume in a child process that dies at its `events`-th event. Returns its exit status, 0 if it finished."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    try:
        kill, made = Killer(events), make(folder)
        made.generator.sampler.sample = kill(made.generator.sampler.sample)  # type: ignore[method-assign]
        made.annotator.sampler.sample = kill(made.annotator.sampler.sample)  # type: ignore[method-assign]
        made.filters.check_input = kill(made.filters.check_input)  # type: ignore[method-assign]
        made.filters.check_answer = kill(made.filters.check_answer, late=True)  # type: ignore[method-assign]
        synthetic_rows.write_atomically = kill(synthetic_rows.write_atomically, late=True)  # between the two files
        os.replace = kill(os.replace)  # written, but not renamed
        made.run()
    except BaseException:
        os._exit(3)
    os._exit(0)


@pytest.mark.slow
@pytest.mark.long
def test_killed_at_ten_points_one_after_the_other(tmp_path: Path, whole: tuple[Path, dict[str, Any], Synthesis]):
    random, deaths = Random(11), 0
    for _ in range(200):
        status = resume_until(tmp_path, random.randint(1, 40))
        if status == 0:
            break
        assert status == signal.SIGKILL
        deaths += 1
    assert status == 0
    assert deaths >= 10
    assert files(tmp_path) == files(whole[0])
    assert make(tmp_path).run()["attempts"] == whole[1]["attempts"]  # nothing to do


@pytest.mark.parametrize("point", [0, 1, *(pytest.param(n, marks=pytest.mark.slow) for n in range(2, 10))])
def test_killed_at_one_random_point(tmp_path: Path, whole: tuple[Path, dict[str, Any], Synthesis], point: int):
    events = Random(point).randint(1, 200)
    assert resume_until(tmp_path, events) == signal.SIGKILL
    result = make(tmp_path).run()
    assert files(tmp_path) == files(whole[0])
    assert result["rejected"] == whole[1]["rejected"]
    assert result["answered"] == whole[1]["answered"]


@pytest.mark.parametrize("name", ["accepted/00001.jsonl", "rejected/00001.jsonl", "metrics.jsonl"])
@pytest.mark.parametrize("way", ["emptied", "a line less", "a letter"])
def test_a_damaged_block_is_made_again(
    tmp_path: Path, whole: tuple[Path, dict[str, Any], Synthesis], name, way, capsys
):
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    content = (tmp_path / name).read_bytes()
    lines = content.splitlines(keepends=True)
    new = {"emptied": b"", "a line less": b"".join(lines[:-1]), "a letter": content.replace(b"e", b"a", 1)}[way]
    (tmp_path / name).write_bytes(new)
    result = make(tmp_path).run()
    assert files(tmp_path) == files(whole[0])
    assert (result["rejected"], result["sampled_tokens"]) == (whole[1]["rejected"], whole[1]["sampled_tokens"])
    assert "it is made again" in capsys.readouterr().out


def test_a_finished_block_is_not_made_again(tmp_path: Path, whole: tuple[Path, dict[str, Any], Synthesis]):
    for name, content in files(whole[0]).items():
        if not name.endswith(("00002.jsonl", "00003.jsonl", "00004.jsonl", "00005.jsonl", "00006.jsonl")):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(content)
    shutil.copy(whole[0] / "metrics.jsonl", tmp_path)
    by, noted = Author(sentence), []
    made = make(tmp_path, by=by)
    bar = SimpleNamespace(restore=lambda n: noted.append((n, "")), advance=lambda n, note: noted.append((n, note)))
    made.run(bar)  # type: ignore[arg-type]
    assert by.calls[0]["prompts"] == [a.prompt for a in made._prepare(2, 32).attempts]
    assert sum(gained for gained, _ in noted) == 60
    assert "rows/s" in noted[-1][1]
    assert "% accepted" in noted[-1][1]
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == [*range(1, len(lines) + 1)]


def test_line_separators_in_a_text_do_not_split_its_row(tmp_path: Path):
    by = Author(lambda random: f"{sentence(random)}\u2028\x85\x0b\x1cand {random.random()}\r\nso")
    first = make(tmp_path, rows=12, by=by)
    first.run()
    rows = read_rows(tmp_path, "accepted")
    assert len(rows) == 12
    assert any("\u2028" in input_of(row, FRAME) for row in rows)
    (tmp_path / "accepted" / "00001.jsonl").unlink(missing_ok=True)
    assert make(tmp_path, rows=12, by=by).run()["rows"] == 12


# --- mistakes --------------------------------------------------------------------------------------------------------


def test_too_low_acceptance_is_an_error(tmp_path: Path):
    made = make(tmp_path, rows=10, by=Author(lambda random: "Sure, here you are"), min_acceptance=0.2)
    with pytest.raises(
        TutelageError, match=r"only 0 of \d+ attempts were accepted, \d+ were rejected as `preamble`: read .*rejected"
    ):
        made.run()
    assert (
        json.loads((tmp_path / "rejected" / "00000.jsonl").read_text().split("\n")[0])["input"] == "Sure, here you are"
    )


def test_a_prompt_that_fills_the_context_is_an_error(tmp_path: Path):
    made = make(tmp_path)
    made.generator = Writer(TEMPLATE, made.generator.sampler, 100)
    with pytest.raises(TutelageError, match=r"a prompt of \d+ tokens fills the 100 that writer@1 can read: lower"):
        made.run()


def test_new_tokens_never_exceed_the_context(tmp_path: Path):
    by = Author(sentence)
    made = make(tmp_path, rows=5, by=by)
    longest = max(len(a.prompt) for a in made._prepare(0, 0).attempts)
    made.generator = Writer(TEMPLATE, by, longest + 40)
    made.run()
    assert by.calls[0]["max_new_tokens"] == 40

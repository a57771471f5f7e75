"""A model's context bounds what a run trains on, samples and scores, and the run says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from chat_templates import CHATML
from recipes_fixture import ROWS, Workshop
from safetensors.torch import load_file, save_file

from tutelage.common.errors import TutelageError
from tutelage.common.metrics_log import read_metrics
from tutelage.common.types import Conversation, Message, TokenSequence
from tutelage.data.align_rows import align_all
from tutelage.data.dataset import LoadedData
from tutelage.evaluation.records import read_records
from tutelage.models.load import load_model
from tutelage.recipe.load import load_recipe
from tutelage.recipe.sections import ModelConfig
from tutelage.runs.do_run import do_run
from tutelage.runs.planner import Planner
from tutelage.runs.run import Run
from tutelage.runs.stages.encode import encoded
from tutelage.teachers.local import LocalTeacher
from tutelage.training.teacher_answers import read_answers

pytestmark = pytest.mark.slow

CONTEXT = 60
LONG = {"id": "long", "prompt": "The cat sat on the mat. " * 20, "completion": "The dog"}
CUT = {"id": "cut", "prompt": "The cat sat?", "completion": "The dog ran after. " * 20}
SHORT = [{"id": f"s{i}", "prompt": f"The cat {i}?", "completion": f"The dog ran. {i}"} for i in range(4)]
GKD = {"name": "gkd", "kind": "distill", "student": "base", "data": "train", "on_policy": 1.0}


def with_context(workshop: Workshop, role: str, context: int = CONTEXT) -> str:
    """A copy of a model that says it reads so many tokens."""
    folder = workshop.folder / f"{role}-{context}"
    shutil.copytree(workshop.models / role, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": context}))
    return str(folder)


def stage(workshop: Workshop, content: dict[str, Any], **changes: Any) -> Run:
    workshop.rows("train", [*SHORT, LONG, CUT])
    allow = {"data__train": {"path": "train.jsonl", "max_bad_rows": 0.5}, "training__max_length": 4096}
    file = workshop.write(stages=[content], **allow | changes)
    return Planner(load_recipe(file), workshop.folder, workshop.runs).stage_run(content["name"], 0)


def data_of(run: Run) -> dict[str, Any]:
    return json.loads((run.folder / "data.json").read_text())


@pytest.mark.parametrize("who", ["student", "teacher"])
def test_training_is_cut_at_the_shorter_context(workshop: Workshop, capsys: pytest.CaptureFixture[str], who: str):
    sampling = {"max_new_tokens": 200}
    changes = {f"{who}__path": with_context(workshop, who), "training__validation": "test"}
    workshop.rows("test", [*SHORT, LONG][:4])
    run = stage(workshop, GKD | {"sampling": sampling}, **changes)
    do_run(run)
    line = f"`{workshop.folder / who}-60` reads 60 tokens (max_position_embeddings of its config), fewer than "
    assert (
        f"gkd: data.train: {line}`max_length` (4096): 1 rows are cut, 1 left out (train.jsonl:5)\n"
        in capsys.readouterr().out
    )
    found = data_of(run)["train"]
    assert (found["rows"], found["cut"], found["too_long"]) == (5, 1, ["train.jsonl:5"])
    steps = read_metrics(run.folder / "metrics.jsonl")
    assert len(steps) == 2
    assert sum(step["tokens"] for step in steps) <= 5 * CONTEXT
    assert all(step["sampled_length"] < CONTEXT and step["sampled_cut"] > 0 for step in steps)


def test_rows_beyond_the_context_are_refused_with_its_name(workshop: Workshop):
    workshop.rows("long", [LONG])
    sft = {"name": "sft", "kind": "sft", "data": "train"}
    student = with_context(workshop, "student")
    run = stage(workshop, sft, student__path=student, data__train__path="long.jsonl", data__train__max_bad_rows=0.5)
    with pytest.raises(TutelageError, match=r"^`.*student-60` reads 60 tokens .*: data\.train: .*, max_length is 60"):
        do_run(run)


def test_a_teacher_with_longer_prompts_of_its_own_reads_no_more_than_it_can(
    workshop: Workshop, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Its template adds a system turn, so what fits the student may not fit it; samples end earlier, too."""
    template = workshop.folder / "long.jinja"
    template.write_text("<|im_start|>system\nHello there, how are you?<|im_end|>\n" + CHATML)
    teacher = {"path": with_context(workshop, "teacher", 90), "chat_template": str(template)}
    seen: list[int] = []
    real = LocalTeacher.signal

    def watched(self: Any, batch: Any) -> Any:
        seen.extend((batch.teacher or batch).lengths)
        return real(self, batch)

    monkeypatch.setattr(LocalTeacher, "signal", watched)
    workshop.rows("edge", [*SHORT, {"id": "edge", "prompt": "The cat?", "completion": "1 2 3 4 5 " * 12}])
    rows = {"path": "edge.jsonl", "max_bad_rows": 0.5}
    run = stage(workshop, GKD | {"sampling": {"max_new_tokens": 200}}, teacher=teacher, data__train=rows)
    do_run(run)
    assert max(seen) == 90
    found = data_of(run)["train"]
    assert (found["rows"], found["too_long"]) == (4, ["edge.jsonl:5"])
    assert "1 left out (edge.jsonl:5)" in capsys.readouterr().out


def test_a_row_of_several_sequences_loses_only_those_that_the_teacher_cannot_read():
    """Row 0: its second sequence; row 1: its first; row 2: all of them."""
    lengths = [(0, 8), (0, 11), (1, 12), (1, 9), (2, 13)]
    sequences = [TokenSequence(i, torch.ones(n, dtype=torch.int64), torch.arange(n) > 3, 4) for i, n in lengths]
    rows = tuple(Conversation(f"r{i}", (Message("user", "?"),), source=f"a.jsonl:{i}") for i in range(3))
    same = SimpleNamespace(text="", thinking=None, tokenizer=SimpleNamespace(bos_token=None))
    data = LoadedData(rows, (), 3, "rows")
    kept, found = align_all(sequences, data, same, same, 10, "data.train")
    assert [(s.index, len(s.ids), s.part, s.cut) for s in kept] == [(0, 8, 0, True), (1, 9, 0, False)]
    assert found == {"refused": [], "beyond": ["a.jsonl:2"], "shorter": ["a.jsonl:0"]}


def test_the_teachers_answers_end_at_its_context(workshop: Workshop):
    seqkd = {"name": "kd", "kind": "seqkd", "student": "base", "data": "train", "samples_per_prompt": 2}
    run = stage(
        workshop, seqkd | {"sampling": {"max_new_tokens": 200}}, teacher__path=with_context(workshop, "teacher")
    )
    (parent,) = (p for p in run.parents if p.kind == "answers")
    result = do_run(parent)
    assert (result["prompts"], result["too_long"]) == (5, ["train.jsonl:5"])
    template = load_model(ModelConfig(path=str(workshop.models / "teacher"))).template
    rows = [len(template.encode_prompt(c.prompt)) for c in encoded_rows(parent)]
    lengths = [rows[a.row] + len(a.tokens) for a in read_answers(parent.folder)]
    assert max(lengths) == CONTEXT
    do_run(run)


def encoded_rows(run: Run) -> Any:
    return encoded(run, "train", load_model(ModelConfig(path=run.models["teacher"].path)), 4096).conversations


def test_a_tasks_prompt_beyond_the_context_is_listed(workshop: Workshop, capsys: pytest.CaptureFixture[str]):
    scores = {"name": "scores", "kind": "evaluate", "models": ["base"], "tasks": ["test"]}
    file = workshop.write(
        student__path=with_context(workshop, "student"), stages=[scores], tasks__test__sampling__max_new_tokens=50
    )
    workshop.rows("test", [LONG, *SHORT])
    run = Planner(load_recipe(file), workshop.folder, workshop.runs).evaluation("base", "test", 0)
    result = do_run(run)
    records = {record.id: record for record in read_records(run.folder)}
    assert len(records) == result["n"] == 5
    long = records["long"]
    assert (long.response, long.finished, long.tokens, long.scores["rouge_l"]) == ("", False, 0, 0.0)
    assert long.reason.startswith("not asked: the prompt has ")
    assert all(record.tokens > 1 for id, record in records.items() if id != "long")
    out = capsys.readouterr().out
    assert (
        "student-60` reads 60 tokens (max_position_embeddings of its config): 1 prompts do not fit and count as" in out
    )
    assert "answered with nothing (test.jsonl:1); 4 leave less room than max_new_tokens (50)" in out
    workshop.rows("test", [LONG])
    with pytest.raises(TutelageError, match=r"reads 60 tokens .*, and no prompt fits: use shorter prompts"):
        do_run(Planner(load_recipe(file), workshop.folder, workshop.runs).evaluation("base", "test", 0))


def test_a_tasks_token_beyond_the_embedding_is_named(workshop: Workshop):
    folder = workshop.folder / "small"
    shutil.copytree(workshop.models / "student", folder)
    weights, rows = load_file(folder / "model.safetensors"), 300
    weights["model.embed_tokens.weight"] = torch.clone(weights["model.embed_tokens.weight"][:rows])
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": rows}))
    scores = {"name": "scores", "kind": "evaluate", "models": ["base"], "tasks": ["test"]}
    file = workshop.write(student__path=str(folder), stages=[scores])
    run = Planner(load_recipe(file), workshop.folder, workshop.runs).evaluation("base", "test", 0)
    message = (
        r"^tasks\.test: test\.jsonl:1: has token \d+ `<\|im_start\|>`, and the embedding of `.*small` has only 300"
    )
    with pytest.raises(TutelageError, match=message):
        do_run(run)
    assert not Path(run.folder / "result.json").exists()


def test_bad_rows_and_those_that_are_cut_are_said(workshop: Workshop, capsys: pytest.CaptureFixture[str]):
    workshop.rows("train", [*ROWS, "{"])
    workshop.rows("test", [*ROWS[:4], {"prompt": "a"}, "[]"])
    allowed = {"data__train__max_bad_rows": 0.1, "data__test__max_bad_rows": 0.2}
    recipe = load_recipe(workshop.write(training__max_length=18, **allowed))
    plan = Planner(recipe, workshop.folder, workshop.runs)
    do_run(plan.stage_run("sft", 0))
    lines = capsys.readouterr().out.splitlines()
    cut = json.loads((plan.stage_run("sft", 0).folder / "data.json").read_text())["train"]["cut"]
    assert cut > 0
    assert f"sft: data.train: `max_length` is 18: {cut} rows are cut, 0 left out" in lines
    assert any(line.startswith("sft: data.train: 1 of 13 rows is bad and left out: train.jsonl:13: ")
               for line in lines)  # fmt: skip
    do_run(plan.evaluation("base", "test", 0))
    assert "base on test: data.test: 1 of 6 rows is bad and left out: test.jsonl:6: not an object" in (
        capsys.readouterr().out
    )

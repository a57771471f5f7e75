"""Tasks of lm-eval by name, over this project's samplers."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from letters import Letters, Says

from tutelage.cli.main import main
from tutelage.common.errors import TutelageError
from tutelage.evaluation import lm_eval_tasks
from tutelage.evaluation.answer_items import Answerer
from tutelage.evaluation.benchmarks import BENCHMARKS
from tutelage.evaluation.benchmarks.gpqa import SEAL
from tutelage.evaluation.benchmarks.lm_eval import HarnessTask, cut_at
from tutelage.evaluation.lm_eval_tasks import load_lm_eval_task, run_lm_eval_task
from tutelage.evaluation.readers.fingerprint import reading_fingerprint
from tutelage.evaluation.records import read_records, read_result
from tutelage.evaluation.run_benchmarks import Settings, load_answerer, run_benchmarks
from tutelage.evaluation.sampler_lm import sampler_lm

ROWS = [
    {"q": "2+2?", "a": "4", "choices": ["three", "4"], "gold": 1},
    {"q": "3+3?", "a": "6", "choices": ["6", "seven"], "gold": 0},
    {"q": "1+1?", "a": "2", "choices": ["one", "two"], "gold": 1},
]
GENERATE = """\
output_type: generate_until
doc_to_text: "{{q}}"
doc_to_target: "{{a}}"
generation_kwargs: {until: ["."], max_gen_toks: 8}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
filter_list:
  - {name: number, filter: [{function: regex, regex_pattern: "(\\\\d+)"}, {function: take_first}]}
  - {name: whole, filter: [{function: take_first}]}
"""
CHOOSE = """\
output_type: multiple_choice
doc_to_text: "{{q}}"
doc_to_target: gold
doc_to_choice: choices
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
CONTINUE = """\
output_type: loglikelihood
doc_to_text: "{{q}}"
doc_to_target: "{{a}}"
target_delimiter: ""
metric_list:
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""


def task_file(folder: Path, name: str, content: str) -> str:
    """A task file over ROWS; its name for `--tasks`."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    data = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder / 'rows.jsonl'}}}}}\ntest_split: test\n"
    (folder / f"{name}.yaml").write_text(f"task: {name}\n{data}{content}")
    return f"lm-eval:{folder / name}.yaml"


def run(name: str, says: str, out: Path, limit: int | None = None, chat: bool = True, **options: Any) -> list[dict]:
    answerer: Any = Answerer(Letters(), Says(says), "f", chat=chat, **options)  # type: ignore[arg-type]
    return run_lm_eval_task(name, load_lm_eval_task(name), answerer, out, limit, {"model": "m"})


def test_the_command_runs_a_task_and_leaves_its_evidence(
    tiny_models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [task_file(tmp_path, "generate", GENERATE), task_file(tmp_path, "choose", CHOOSE)]
    options = [
        "--model",
        str(tiny_models / "student"),
        "--out",
        str(tmp_path / "out"),
        "--limit",
        "2",
        "--seed",
        "3",
        "--json",
    ]
    main(["evaluate", "--tasks", names[0], "--tasks", names[1], *options])
    generated, chosen = json.loads(capsys.readouterr().out)["results"]
    assert (generated["task"], generated["n"], generated["shots"]) == ("lm-eval:generate", 2, 0)
    assert set(generated["metrics"]) == {"exact_match_number", "exact_match_whole"}
    assert list(chosen["metrics"]) == ["acc"]
    assert all(record.tokens > 0 for record in read_records(tmp_path / "out" / "lm-eval-generate"))
    for result, folder in ((generated, "lm-eval-generate"), (chosen, "lm-eval-choose")):
        assert read_result(tmp_path / "out" / folder) == result
        records = read_records(tmp_path / "out" / folder)
        assert [record.prompt.endswith(ROWS[int(record.id)]["q"]) for record in records]
        for metric, found in result["metrics"].items():
            mean = 100 * sum(record.scores[metric] or 0 for record in records) / 2
            assert found["value"] == pytest.approx(mean)
        assert (tmp_path / "out" / folder / "examples.html").is_file()
    again = tmp_path / "out" / "again"
    shutil.copytree(tmp_path / "out" / "lm-eval-choose", again)
    main(["compare", str(tmp_path / "out" / "lm-eval-choose"), str(again)])


def test_replies_are_scored_by_each_filter(tmp_path: Path) -> None:
    (result,) = run(task_file(tmp_path, "generate", GENERATE), "is 4. Or 6", tmp_path / "out")
    assert result["reading"] == reading_fingerprint("tutelage.evaluation.lm_eval_tasks")
    values = {name: found["value"] for name, found in result["metrics"].items()}
    assert values == {"exact_match_number": pytest.approx(100 / 3), "exact_match_whole": 0.0}
    record = read_records(tmp_path / "out" / "lm-eval-generate")[0]
    assert (record.prompt, record.response, record.answer, record.references) == ("2+2?", "is 4", "4", ("4",))
    assert record.scores == {"exact_match_number": 1.0, "exact_match_whole": 0.0}
    assert (record.tokens, record.finished) == (8, True)  # eight tokens were sampled; the stop text ended it after four


def test_choices_are_compared_by_likelihood(tmp_path: Path) -> None:
    (result,) = run(task_file(tmp_path, "choose", CHOOSE), "", tmp_path / "out")
    assert result["metrics"]["acc"]["value"] == pytest.approx(200 / 3)  # the shorter option; the first of two equals
    records = read_records(tmp_path / "out" / "lm-eval-choose")
    assert [(record.response, record.references) for record in records] == [
        ("4", ("4",)),
        ("6", ("6",)),
        ("one", ("two",)),
    ]


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.slow
def test_greedy_continuations_are_found_by_sampling(tmp_path: Path, chat: bool) -> None:
    (result,) = run(task_file(tmp_path, "continue", CONTINUE), "4!", tmp_path / "out", chat=chat)
    assert result["metrics"]["acc"]["value"] == pytest.approx(100 / 3)
    assert result["metrics"]["perplexity"]["value"] == pytest.approx(2.718281828)  # in lm-eval's own unit
    assert list(read_records(tmp_path / "out" / "lm-eval-continue")[0].scores) == ["acc"]


def test_examples_are_drawn_by_the_seed(tmp_path: Path) -> None:
    name = task_file(tmp_path, "choose", CHOOSE)
    drawn = set()
    for seed in range(8):
        (result,) = run(name, "", tmp_path / "out", limit=1, seed=seed)
        (record,) = read_records(tmp_path / "out" / "lm-eval-choose")
        assert (result["n"], record.prompt) == (1, ROWS[int(record.id)]["q"])
        drawn.add(record.id)
    assert len(drawn) > 1


def test_prompts_longer_than_the_context_lose_their_beginning(tmp_path: Path) -> None:
    (result,) = run(task_file(tmp_path, "generate", GENERATE), "4", tmp_path / "out", context=6)
    assert result["notices"] == [
        f"lm-eval:{tmp_path}/generate.yaml: 3 prompts were cut at their beginning to fit the model"
    ]
    sampler = Says("4")
    answerer: Any = Answerer(Letters(), sampler, "f", chat=True, context=6)  # type: ignore[arg-type]
    name = f"lm-eval:{tmp_path}/generate.yaml"
    run_lm_eval_task(name, load_lm_eval_task(name), answerer, tmp_path / "out", None, {})
    assert ["".join(map(chr, ids)) for ids in sampler.prompts] == ["+2?", "+3?", "+1?"]


def test_groups_have_a_result_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.tasks import TaskManager

    for name in ("first", "second"):
        task_file(tmp_path, name, CHOOSE)
    aggregate = "aggregate_metric_list: [{metric: acc, weight_by_size: true}]"
    (tmp_path / "both.yaml").write_text(f"group: both\ntask: [first, second]\n{aggregate}\n")
    manager = TaskManager(include_path=tmp_path, include_defaults=False)
    monkeypatch.setattr(lm_eval_tasks, "_task_manager", lambda all_tasks: manager)
    results = run("lm-eval:both", "", tmp_path / "out")
    assert [(one["task"], one["n"]) for one in results] == [
        ("lm-eval:first", 3),
        ("lm-eval:second", 3),
        ("lm-eval:both", 6),
    ]
    assert results[2]["metrics"]["acc"]["value"] == pytest.approx(200 / 3)
    assert read_result(tmp_path / "out" / "lm-eval-both") == results[2]


def test_texts_of_gpqa_are_sealed(tmp_path: Path) -> None:
    run(task_file(tmp_path, "my_gpqa", GENERATE), "4", tmp_path / "out")
    record = read_records(tmp_path / "out" / "lm-eval-my-gpqa")[0]
    assert record.prompt.startswith(SEAL)
    assert record.response.startswith(SEAL)
    assert not any(b"2+2?" in path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())


def test_what_cannot_be_loaded_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TutelageError, match=r"lm-eval:.*gone\.yaml: lm-eval cannot load it"):
        load_lm_eval_task(f"lm-eval:{tmp_path / 'gone.yaml'}")
    unsafe = task_file(tmp_path, "unsafe", f"{GENERATE}unsafe_code: true\n")
    with pytest.raises(TutelageError, match=r"lm-eval cannot run it here: .* marked as unsafe"):
        run(unsafe, "", tmp_path / "out")
    monkeypatch.setattr(lm_eval_tasks, "_task_manager", lambda all_tasks: SimpleNamespace(all_tasks=["hellaswag"]))
    for name, hint in (("nothing", "`lm-eval ls tasks` lists lm-eval's"), ("helaswag", "did you mean `hellaswag`")):
        with pytest.raises(TutelageError, match=f"no benchmark and no task of lm-eval is called `{name}`: {hint}"):
            load_lm_eval_task(f"lm-eval:{name}")


def test_without_lm_eval_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    lm_eval_tasks._task_manager.cache_clear()
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(TutelageError, match="lm-eval is not installed: pip install 'lm-eval"):
        load_lm_eval_task("lm-eval:hellaswag")


def test_rolling_likelihoods_need_texts_that_fit() -> None:
    lm = sampler_lm(Letters(), Says(""), context=5)  # type: ignore[arg-type]
    assert lm.loglikelihood_rolling([SimpleNamespace(args=("abcd",))]) == [-3.0]
    with pytest.raises(TutelageError, match="a text of 6 tokens is longer than the model's 5"):
        lm.loglikelihood_rolling([SimpleNamespace(args=("abcdef",))])


@pytest.mark.slow
def test_lm_eval_runs_on_our_sampler(data: Path, tiny_models: Path, tmp_path: Path) -> None:
    """lm-eval's own evaluator over `sampler_lm` gives the replies and scores that `run_benchmarks` gives."""
    from lm_eval.evaluator import evaluate

    settings = Settings(("arc_challenge",), str(tiny_models / "student"), tmp_path / "out", data, batch_size=4)
    answerer = load_answerer(settings)
    result = run_benchmarks(settings, answerer)[0]
    items = BENCHMARKS["arc_challenge"].load(data)
    lm = sampler_lm(answerer.template, answerer.sampler)
    tasks = {}
    for name in ("arc_challenge_chat", "arc_challenge"):
        overrides = {"fewshot_split": None, "num_fewshot": 0, "doc_to_target": "{{answerKey}}"}
        used = BENCHMARKS["arc_challenge"]._cache[name].task.config
        overrides |= {"doc_to_text": used.doc_to_text, "gen_prefix": used.gen_prefix}
        if name == "arc_challenge":
            overrides["doc_to_target"] = used.doc_to_target
        tasks[name] = HarnessTask(f"arc/{name}.yaml", [item.row for item in items], **overrides).task
    chat = evaluate(lm, {"chat": tasks["arc_challenge_chat"]}, apply_chat_template=True, bootstrap_iters=0)
    records = read_records(settings.out / "arc_challenge")
    replies = [cut_at(sample["resps"][0][0], ()) for sample in chat["samples"]["chat"]]
    assert replies == [cut_at(record.response, ("\n\n", ".")) for record in records]
    likely = evaluate(lm, {"likely": tasks["arc_challenge"]}, bootstrap_iters=0)["results"]["likely"]
    assert 100 * likely["acc,none"] == pytest.approx(result["metrics"]["accuracy_likelihood"]["value"])
    assert 100 * likely["acc_norm,none"] == pytest.approx(result["metrics"]["accuracy_likelihood_norm"]["value"])

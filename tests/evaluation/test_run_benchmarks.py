"""All eight benchmarks end to end with a tiny model, and going on after a kill."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from letters import Letters, Says
from tiny_benchmarks import write_data

from tutelage.cli.main import main
from tutelage.common.errors import TutelageError
from tutelage.common.types import Sample
from tutelage.evaluation.answer_items import Answerer, answer, new_token_limit, prompt_notices
from tutelage.evaluation.benchmarks import BENCHMARKS, PAPER, benchmark
from tutelage.evaluation.benchmarks.base import Item
from tutelage.evaluation.benchmarks.ifeval import find_punkt
from tutelage.evaluation.benchmarks.lm_eval import cut_at, encode, encode_pair
from tutelage.evaluation.judges import comet
from tutelage.evaluation.judges.endpoint import JudgeEndpoint
from tutelage.evaluation.records import read_records, read_result
from tutelage.evaluation.rescore import kept_replies
from tutelage.evaluation.run_benchmarks import Settings, lines, load_answerer, run_benchmarks, table_3, table_lines
from tutelage.recipe.sections import ModelConfig

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def settings(data: Path, tiny_models: Path, tmp_path: Path) -> Settings:
    return Settings(
        tasks=("arc_challenge",), model=str(tiny_models / "student"), out=tmp_path / "out", data_dir=data, batch_size=4
    )


@pytest.fixture
def _no_comet(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: Any, **__: Any) -> list[float]:
        raise TutelageError("COMET is not set up: run `tutelage setup comet`")

    monkeypatch.setattr(comet, "comet_scores", absent)


class Recorder:
    """A sampler that remembers its calls and can fail at one of them."""

    def __init__(self, sampler: Any, fail_at: int = -1) -> None:
        self.sampler, self.fail_at = sampler, fail_at
        self.calls: list[list[list[int]]] = []

    def sample(self, prompts: Sequence[Sequence[int]], **options: Any) -> list[Sample]:
        self.calls.append([list(prompt) for prompt in prompts])
        if len(self.calls) - 1 == self.fail_at:
            raise KeyboardInterrupt
        return self.sampler.sample(prompts, **options)

    def score(self, *arguments: Any) -> list[torch.Tensor]:
        return self.sampler.score(*arguments)


@pytest.mark.usefixtures("_no_comet")
def test_all_eight_end_to_end(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        find_punkt()
    except TutelageError as error:
        pytest.skip(str(error))
    arguments = ["--tasks", "paper", "--model", settings.model, "--data-dir", str(settings.data_dir), "--limit", "3"]
    main(["evaluate", *arguments, "--out", str(settings.out), "--json"])
    summary = json.loads(capsys.readouterr().out)
    assert [result["task"] for result in summary["results"]] == list(PAPER)
    assert [result["n"] for result in summary["results"]] == [3, 3, 2, 2, 3, 3, 2, 2]
    for result in summary["results"]:
        folder = settings.out / result["task"]
        assert read_result(folder) == result
        records = read_records(folder)
        rows = [json.loads(line) for line in (folder / "responses.jsonl").read_text().splitlines()]
        assert {row["id"] for row in rows} == {record.id for record in records}
        assert sum(row["tokens"] for row in rows) == result["speed"]["new_tokens"] > 0
        speed = result["speed"]
        assert speed["new_tokens_per_s"] == pytest.approx(speed["new_tokens"] / speed["seconds"])
        for record in records:
            assert record.tokens <= result["max_new_tokens"] == min(256, BENCHMARKS[result["task"]].max_new_tokens)
            assert all(score is None or 0 <= score <= 1 for score in record.scores.values())
    arc = next(result for result in summary["results"] if result["task"] == "arc_challenge")
    assert {"accuracy", "accuracy_likelihood", "accuracy_likelihood_norm"} <= set(arc["metrics"])
    assert summary["table_3"]["InfoBench"] is None
    assert summary["table_3"]["Average"] is None  # not the mean of the four that there are
    assert summary["table_3"]["BBH"] == summary["results"][0]["metrics"]["accuracy"]["value"]
    assert not any(b"Which one is rec" in path.read_bytes() for path in settings.out.rglob("*") if path.is_file())


def test_table_3_has_the_macro_average() -> None:
    metrics = {"bbh": "accuracy", "gpqa": "accuracy", "ifeval": "prompt_loose", "infobench": "drfr"}
    metrics["mmlu_pro"] = "accuracy"
    results = [
        {"task": task, "headline": name, "metrics": {name: {"value": 10.0 * k, "stderr": 1.0}}, "n": 1}
        for k, (task, name) in enumerate(metrics.items(), 1)
    ]
    assert table_3(results) == {
        "BBH": 10.0,
        "GPQA": 20.0,
        "IF-Eval": 30.0,
        "InfoBench": 40.0,
        "MMLU-Pro": 50.0,
        "Average": 30.0,
    }
    assert table_lines(results)[2] == "| 10.00 | 20.00 | 30.00 | 40.00 | 50.00 | 30.00 |"
    assert lines(results)[2] == "ifeval prompt_loose: 30.00 ± 1.00 (n = 1)"
    assert table_lines([]) == []


@pytest.mark.long
def test_a_killed_run_goes_on_to_the_same_replies(settings: Settings) -> None:
    settings = replace(settings, tasks=("bbh",), limit=8, batch_tokens=1600)
    whole = load_answerer(settings)
    unbroken = Recorder(whole.sampler)
    run_benchmarks(replace(settings, out=settings.out / "whole"), replace(whole, sampler=unbroken))
    killed = Recorder(whole.sampler, fail_at=2)
    with pytest.raises(KeyboardInterrupt):
        run_benchmarks(settings, replace(whole, sampler=killed))
    file = settings.out / "bbh/responses.jsonl"
    done = len(file.read_text().splitlines())
    assert done == sum(map(len, killed.calls[:2])) > 0
    with file.open("a") as handle:
        handle.write('{"id": "snarks/0", "resp')  # what a kill in the middle of a line leaves
    resumed = Recorder(whole.sampler)
    run_benchmarks(settings, replace(whole, sampler=resumed))
    assert sum(map(len, resumed.calls)) == 8 - done
    assert read_records(settings.out / "bbh") == read_records(settings.out / "whole/bbh")
    again = Recorder(whole.sampler)
    before = read_result(settings.out / "bbh")
    run_benchmarks(settings, replace(whole, sampler=again))
    assert again.calls == []
    assert read_result(settings.out / "bbh") == before
    content = file.read_text().splitlines(keepends=True)
    content[2] = content[2].replace('"finished": ', '"finished":  ')  # one of the bytes is not as it was written
    file.write_text("".join(content))
    again = Recorder(whole.sampler)
    run_benchmarks(settings, replace(whole, sampler=again))
    assert sum(map(len, again.calls)) == 1
    assert read_records(settings.out / "bbh") == read_records(settings.out / "whole/bbh")


def test_a_kill_while_scoring_costs_neither_replies_nor_their_speed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(settings, tasks=("bbh",), limit=3)
    whole = load_answerer(settings)

    def stopped(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tutelage.evaluation.run_benchmarks.score", stopped)
        with pytest.raises(KeyboardInterrupt):
            run_benchmarks(settings, whole)
    again = Recorder(whole.sampler)
    (result,) = run_benchmarks(settings, replace(whole, sampler=again))
    assert again.calls == []
    assert (result["speed"]["examples"], result["speed"]["new_tokens"] > 0) == (3, True)


class Stops(Recorder):
    """Is killed once so many replies of a call have ended."""

    def sample(self, prompts: Sequence[Sequence[int]], **options: Any) -> list[Sample]:
        ended, count = options.pop("ended"), 0

        def counting(samples: Any) -> None:
            nonlocal count
            ended(samples)
            count += len(samples)
            if count >= self.fail_at:
                raise KeyboardInterrupt

        return super().sample(prompts, ended=counting, **options)


def test_a_kill_within_a_call_costs_no_reply_that_has_ended(settings: Settings) -> None:
    settings = replace(settings, tasks=("bbh",), limit=8, batch_size=2)
    whole = load_answerer(settings)
    with pytest.raises(KeyboardInterrupt):
        run_benchmarks(settings, replace(whole, sampler=Stops(whole.sampler, fail_at=3)))
    done = len((settings.out / "bbh/responses.jsonl").read_text().splitlines())
    assert 3 <= done < 8
    resumed = Recorder(whole.sampler)
    (result,) = run_benchmarks(settings, replace(whole, sampler=resumed))
    assert [len(call) for call in resumed.calls] == [8 - done]
    assert result["n"] == 8


def test_the_beginning_that_prompts_share_is_counted(settings: Settings) -> None:
    (result,) = run_benchmarks(replace(settings, tasks=("bbh",), limit=8))
    speed = result["speed"]
    assert 0.2 * speed["prompt_tokens"] < speed["shared_prompt_tokens"] < speed["prompt_tokens"]


def test_a_larger_limit_keeps_the_replies_there_are(settings: Settings) -> None:
    answerer = load_answerer(settings)
    run_benchmarks(replace(settings, limit=1), answerer)
    first = read_records(settings.out / "arc_challenge")
    more = Recorder(answerer.sampler)
    run_benchmarks(settings, replace(answerer, sampler=more))
    assert sum(map(len, more.calls)) == 1
    assert first[0] in read_records(settings.out / "arc_challenge")


def test_replies_of_other_settings_are_not_mixed_in(settings: Settings) -> None:
    run_benchmarks(settings)
    with pytest.raises(TutelageError, match=r"holds replies made with another `seed` \(0, now 1\): give another --out"):
        run_benchmarks(replace(settings, seed=1))
    with pytest.raises(TutelageError, match="another `chat`"):
        run_benchmarks(replace(settings, chat=False))
    with pytest.raises(TutelageError, match=r"another `sampler` \(None, now vllm\)"):
        run_benchmarks(replace(settings, sampler="vllm"), load_answerer(settings))


def test_a_quantised_model_does_not_take_the_replies_of_the_whole_one(settings: Settings) -> None:
    answerer, whole = load_answerer(settings), ModelConfig(path=settings.model)
    coarse = replace(settings, loading=whole.model_copy(update={"precision": "int8"}))
    run_benchmarks(replace(settings, loading=whole), answerer)
    with pytest.raises(TutelageError, match=r"another `precision` \(None, now int8\): give another --out"):
        run_benchmarks(coarse, answerer)
    run_benchmarks(replace(coarse, out=settings.out / "coarse"), answerer)
    with pytest.raises(TutelageError, match=r"another `precision` \(int8, now None\)"):
        run_benchmarks(replace(settings, out=settings.out / "coarse"), answerer)


def test_vllm_needs_a_gpu(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(TutelageError, match="--sampler vllm needs a CUDA device"):
        run_benchmarks(replace(settings, sampler="vllm", model="no/such-model"))


def test_data_are_read_before_the_model(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(TutelageError, match=r"ARC-Challenge-test\.jsonl is missing"):
        run_benchmarks(replace(settings, model="no/such-model", data_dir=tmp_path / "empty"))


def test_solved_examples_are_read_before_the_model(settings: Settings, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    item, *_ = benchmark("mmlu_pro").load(data)
    benchmark("mmlu_pro").prompt(item, True, 5)  # what an earlier call read is not what this one has
    (data / "mmlu_pro/mmlu_pro_validation.jsonl").unlink()
    with pytest.raises(TutelageError, match=r"mmlu_pro_validation.jsonl is missing"):
        run_benchmarks(replace(settings, tasks=("arc_challenge", "mmlu_pro"), model="nowhere", data_dir=data))


@pytest.mark.parametrize("missing", ["punkt", "judge", "rules"])
def test_what_scores_is_tried_before_the_model(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    def absent() -> None:
        raise TutelageError("punkt_tab is missing")

    monkeypatch.setattr("tutelage.evaluation.benchmarks.ifeval.find_punkt", absent)
    monkeypatch.setattr("tutelage.evaluation.judges.rules.SCRIPT", "http://localhost:9/none")
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    judges = {"judge": JudgeEndpoint("here", "m"), "rules": JudgeEndpoint("http://localhost:9", "m", rules="official")}
    said = {"punkt": "punkt_tab is missing", "judge": "is not a web address", "rules": "the rules cannot be fetched"}
    tasks = ("ifeval",) if missing == "punkt" else ("infobench",)
    with pytest.raises(TutelageError, match=said[missing]):
        run_benchmarks(replace(settings, tasks=tasks, model="no/such-model", judge=judges.get(missing)))


def test_prompts_come_longest_first_within_their_group(data: Path, tmp_path: Path) -> None:
    recorder = Recorder(Says("So the answer is True."))
    bench = BENCHMARKS["bbh"]
    items = [item for item in bench.load(data) if item.group in ("boolean_expressions", "navigate")]
    answer(bench, items, Answerer(Letters(), recorder, "f", chat=True, batch_tokens=1), tmp_path / "r.jsonl")
    assert [len(call) for call in recorder.calls] == [1, 1, 1]  # a batch holds at least one prompt
    texts = ["".join(map(chr, call[0])) for call in recorder.calls]
    assert [text.rpartition("Q: ")[2].partition("\n")[0] for text in texts] == [
        "True and not False is",
        "not True is",
        "Do you return to the start? Turn around.",
    ]


def test_solved_examples_are_left_out_where_the_context_is_short(data: Path, tmp_path: Path) -> None:
    bench = BENCHMARKS["bbh"]
    items = [item for item in bench.load(data) if item.group == "boolean_expressions"]
    prompts = [bench.prompt(item, True, shots) for item in items for shots in (3, 1, 0)]
    full = [len(ids) for ids in encode(Letters(), prompts)]
    recorder = Recorder(Says("So the answer is True."))
    answerer = Answerer(Letters(), recorder, "f", chat=True, context=2 * full[1])
    assert new_token_limit(bench, answerer) == full[1]
    replies, _ = answer(bench, items, answerer, tmp_path / "r.jsonl")
    notices = prompt_notices(bench, replies, answerer.context, answerer.asking.shots(bench))
    assert sorted(len(prompt) for call in recorder.calls for prompt in call) == sorted([full[1], full[4]])
    assert "2 prompts were given fewer than 3 solved examples" in notices[0]
    answerer = replace(answerer, context=2 * (full[5] - 1))
    replies, _ = answer(bench, items, answerer, tmp_path / "s.jsonl")
    notices = prompt_notices(bench, replies, answerer.context, answerer.asking.shots(bench))
    assert {reply.text for reply in replies.values()} == {""}
    assert "2 prompts leave no room for a reply" in notices[0]
    assert BENCHMARKS["bbh"].score(items, replies)[0].scores["accuracy"] == 0


def test_a_prompt_of_ones_own_is_zero_shot_and_kept_with_the_replies(settings: Settings) -> None:
    own = replace(settings, prompt="{question} {choices}\nLetter?", chat=True)
    answerer = load_answerer(own)
    recorder = Recorder(answerer.sampler)
    run_benchmarks(own, replace(answerer, sampler=recorder))
    texts = {answerer.template.tokenizer.decode(prompt) for call in recorder.calls for prompt in call}
    assert any("What melts ice? A. Heat\nB. Cold\nC. Dark\nD. Noise\nLetter?" in text for text in texts)
    assert not any("best answer" in text for text in texts)
    with pytest.raises(TutelageError, match="made with another `prompt`"):
        run_benchmarks(settings, replace(answerer, prompt=None))
    wrong = replace(own, prompt="{questoin}", out=own.out / "wrong")
    with pytest.raises(TutelageError, match=r"`prompt` of a task on arc_challenge: no column `questoin`.*`question`"):
        run_benchmarks(wrong, replace(answerer, prompt=wrong.prompt))


def test_a_group_alone(settings: Settings) -> None:
    (result,) = run_benchmarks(replace(settings, tasks=("bbh",), group="navigate"))
    assert result["n"] == 1
    with pytest.raises(TutelageError, match=r"bbh: no example is in group `navigat` \(there are: boolean_expressions"):
        BENCHMARKS["bbh"].load(settings.data_dir, group="navigat")


def test_base_models_are_cut_where_they_go_on(data: Path, tmp_path: Path) -> None:
    bench = BENCHMARKS["bbh"]
    items = bench.load(data)[:1]
    text = "So the answer is True.\n\nQ: What else?\nA: So the answer is False."
    for chat, kept in ((False, "So the answer is True.\n"), (True, text)):
        answerer = Answerer(Letters(), Says(text), "f", chat=chat)
        replies, _ = answer(bench, items, answerer, tmp_path / f"{chat}.jsonl")
        assert replies["boolean_expressions/0"].text == kept


@pytest.mark.parametrize("chat", [False, True])
def test_replies_of_base_models_that_an_old_version_counts_as_cut_are_asked_again(
    settings: Settings, chat: bool
) -> None:
    settings = replace(settings, chat=chat, max_new_tokens=4)
    answerer = load_answerer(settings)
    run_benchmarks(settings, answerer)
    folder = settings.out / "arc_challenge"
    file, kept = folder / "responses.jsonl", folder / "settings.json"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    cut = sum(not row["finished"] for row in rows)
    assert cut  # random models seldom end
    before = json.loads(kept.read_text())
    kept.write_text(json.dumps(before | {"method_version": 1}))
    if chat:
        assert len(kept_replies(folder, settings.data_dir).replies) == len(rows)
    else:
        with pytest.raises(TutelageError, match=f"{cut} of {len(rows)} replies are missing or were made"):
            kept_replies(folder, settings.data_dir)
    again = Recorder(answerer.sampler)
    run_benchmarks(settings, replace(answerer, sampler=again))
    assert sum(map(len, again.calls)) == (0 if chat else cut)
    assert json.loads(kept.read_text()) == before
    assert len(file.read_text().splitlines()) == len(rows)


def test_cut_at_takes_the_first_stop() -> None:
    assert cut_at("abc", ["c", "b"]) == "a"
    assert cut_at("abc", ["x", ""]) == "abc"
    assert cut_at("abc", ["a"]) == ""


def test_pairs_are_parted_where_the_context_ends() -> None:
    context, continuation = encode_pair(Letters(), "Answer: ", "yes")
    assert ("".join(map(chr, context)), "".join(map(chr, continuation))) == ("Answer:", " yes")


def test_likelihoods_choose_the_shortest_option_when_every_token_costs_the_same(data: Path, tmp_path: Path) -> None:
    bench = BENCHMARKS["arc_challenge"]
    items: list[Item] = bench.load(data)
    replies, _ = answer(bench, items, Answerer(Letters(), Says(" B."), "f", chat=True), tmp_path / "r.jsonl")
    assert replies["Q_2"].likelihoods == (-5.0, -6.0, -5.0, -5.0, -4.0)  # " Sand", " Light", " Salt", " Iron", " Oil"
    record = bench.score(items, replies)[1]
    assert (record.scores["accuracy"], record.scores["accuracy_likelihood"]) == (1, 0)

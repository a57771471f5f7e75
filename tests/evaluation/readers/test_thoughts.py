"""Replies that think first: what is read as the answer, by the reader and by every scorer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nltk
import pytest
from chat_templates import tokenizer
from letters import Letters, Says
from tiny_benchmarks import write_data

from tutelage.common.types import Conversation, Message, Sample
from tutelage.data.chat_template import ChatTemplate
from tutelage.evaluation import replies as scoring
from tutelage.evaluation.answer_items import Answerer, answer
from tutelage.evaluation.benchmarks import BENCHMARKS
from tutelage.evaluation.benchmarks.base import Reply
from tutelage.evaluation.judges.endpoint import JudgeEndpoint
from tutelage.evaluation.page import render_page
from tutelage.evaluation.readers.thoughts import ReplyText, answer_of, cut_answer, read_reply
from tutelage.evaluation.replies import score_file
from tutelage.evaluation.sampler_lm import sampler_lm
from tutelage.evaluation.tasks import about_replies, evaluate_generation, score_response
from tutelage.recipe.sections import AnswerSamplingConfig, TaskConfig

HARMONY = "<|channel|>analysis<|message|>Is it A? No.<|end|><|start|>assistant<|channel|>final<|message|>B<|return|>"
ENDED = [
    "<think>Is it A? No.</think>B",
    "<think>\n\n</think>\n\nB",
    "\n<think>\nIs it A?\n</think>\n\nB\n",
    "<thinking>Is it A?</thinking>\nB",
    "<reasoning>\nIs it A?\n</reasoning>\n<answer>\nB\n</answer>",
    "<thought>Is it A?</thought>B",
    "<seed:think>Is it A?</seed:think>B",
    "<THINK>Is it A?</THINK>B",
    "[THINK]Is it A?[/THINK]B",
    "<|START_THINKING|>Is it A?<|END_THINKING|><|START_RESPONSE|>B<|END_RESPONSE|>",
    "<|begin_of_thought|>A?<|end_of_thought|>\n\n<|begin_of_solution|>\nB\n<|end_of_solution|>",
    "◁think▷Is it A?◁/think▷B",
    "<|channel>thought\nIs it A?<channel|>B",
    "<think>Is it A?</think><response>B</response>",
    "Here is my thought process:\nIs it A?\nHere is my response:\nB",
    "Here are my reasoning steps:\nIs it A?\n[BEGIN FINAL RESPONSE]\nB",
    "Okay, is it A? No.\n</think>\n\nB",  # the prompt opened the thought
    "Okay, they ask about `<think>`. Is it A?\n</think>\n\nB",
    "Okay, a <think> b </think> c\n</think>\n\nB",
    "Is it A?[/THINK]B",
    "<think>A?</think>\n<think>Or C?</think>B",
    "<think>A?</think> wait </think>B",
    "<think>They want `</think>` in it. A?</think>B",
    'He said "A".</think>B',
    HARMONY,
    f"<|start|>assistant{HARMONY}",
    HARMONY.replace("<|end|>", "").replace("<|return|>", ""),
    HARMONY.replace("final<|message|>", "final <|constrain|>json<|message|>"),
    "<|channel|>commentary<|message|>I look it up.<|end|><|start|>assistant<|channel|>final<|message|>B",
    "analysisIs it A? No.assistantfinalB",
]
UNENDED = [
    "<think>",
    "<think>Is it A? The answer is (A).",
    "<think>A?</think><think>Or C",
    "[THINK]Is it A",
    "<reasoning>A",
    "<think>They want `</think>` in it",
    "<|channel|>analysis<|message|>Is it A?",
    "<|channel|>analysis<|message|>Is it A?<|end|><|start|>assistant<|channel|>commentary<|message|>A",
]
# A tag that is text: after visible text, in quotes or code; or words that open nothing.
PLAIN = [
    "B",
    "  B\n",
    "",
    "Models write <think> before and </think> after their thought.",
    "Use `</think>` to end it.",
    'It ends with "</think>".',
    "```xml\n<think>x</think>\n```",
    "The regex r'<think>.*' matches. I would use <thinking>…",
    "Here is my thought process: first A, then B.",
    "analysis of the poem",
    "A [THINK] token, then [/THINK].",
]


@pytest.mark.parametrize("text", ENDED)
def test_the_answer_is_what_follows_the_thought(text: str) -> None:
    found = read_reply(text)
    assert (found.answer, found.thinks, found.unended) == ("B", True, False)
    assert text[found.start : found.end] == "B"


@pytest.mark.parametrize("text", UNENDED)
def test_a_thought_without_an_end_is_no_answer(text: str) -> None:
    found = read_reply(text)
    assert (found.answer, found.thinks, found.unended) == ("", True, True)


@pytest.mark.parametrize("text", PLAIN)
def test_a_tag_after_visible_text_is_text(text: str) -> None:
    found = read_reply(text)
    assert (found.answer, found.thinks, found.unended) == (text, False, False)


def test_an_answer_may_speak_of_tags() -> None:
    told = "Write <think> before and </think> after it, or `</think>` alone."
    assert answer_of(f"<think>How?</think>\n{told}") == told
    assert answer_of("<think>Which?</think>\n\n<answer>B</answer> is right") == "B"


@pytest.mark.slow
def test_hostile_replies_take_linear_time() -> None:
    for text in (
        "</think>" * 100_000,
        "<think></think>" * 50_000,
        "<think>" * 100_000,
        "<think>" + "`</think>`" * 50_000,
    ):
        read_reply(text)  # seconds at most; quadratic would be hours
    assert read_reply("</think>" * 1000 + "B").answer == "B"


def test_stops_are_of_the_answer() -> None:
    assert cut_answer("<think>a\n\nb</think>\n\nB\n\nQ: C", ["\n\n"]) == "<think>a\n\nb</think>\n\nB"
    assert cut_answer("<think>a\n\nb", ["\n\n"]) == "<think>a\n\nb"
    assert cut_answer("B\n\nQ: C", ["\n\n"]) == "B"


def test_special_tokens_of_a_thought_stay_and_a_prompt_that_opens_one_is_told() -> None:
    plain = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    words = tokenizer(plain + "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}")
    marks = ["[THINK]", "[/THINK]", "<|channel|>", "<|message|>"]
    words.add_special_tokens({"additional_special_tokens": marks}, replace_extra_special_tokens=False)
    template = ChatTemplate(words)
    as_text = ReplyText(template)

    def ids(text: str) -> list[int]:
        return words(text, add_special_tokens=False)["input_ids"]

    prompt = template.encode_prompt([Message("user", "The cat?")])
    assert as_text(prompt, [*ids("A?\n</think>\n\nB"), template.end_of_turn_id]) == "<think>\nA?\n</think>\n\nB"
    assert read_reply(as_text(prompt, ids("the answer is A"))).unended
    asked = ids("<|im_start|>user\nWhat is <think>?<|im_end|>\n<|im_start|>assistant\n")
    assert as_text(asked, ids("[THINK]The cat[/THINK]The dog")) == "[THINK]The cat[/THINK]The dog"
    assert as_text(asked, ids("<|channel|>final<|message|>The dog<|im_end|>")) == "<|channel|>final<|message|>The dog"
    assert as_text([], ids("The dog")) == "The dog"


# --- every scorer ---

RIGHT: dict[str, tuple[str, str]] = {  # task: (id, a reply that is right)
    "bbh": ("boolean_expressions/0", "So the answer is True."),
    "gpqa": ("", "The correct answer is ({})"),
    "ifeval": ("1", "It rains"),
    "mmlu_pro": ("10", "The answer is (B)."),
    "arc_challenge": ("Q_1", "The answer is A."),
    "dialogsum": ("test_0", "They greet."),
    "flores": ("0", "Assam is green."),
}
WRONG = {  # a thought in whose words a scorer would find another answer, or a broken rule
    "bbh": "So the answer is False.",
    "gpqa": "The correct answer is (A), (B), (C), (D)",
    "ifeval": "Commas, commas, commas.",
    "mmlu_pro": "The answer is (C).",
    "arc_challenge": "The answer is B.",
    "dialogsum": "Person one says hi and person two says bye to it.",
    "flores": "Perhaps the state of Assam has green hills.",
}
FORMS = [
    "<think>\n{t}\n</think>\n\n{a}",
    "{t}\n</think>\n\n{a}",
    "[THINK]{t}[/THINK]{a}",
    "<|channel|>analysis<|message|>{t}<|end|><|start|>assistant<|channel|>final<|message|>{a}",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("thoughts"))


def scored(task: str, data: Path, text: str) -> tuple[dict[str, float | None], Any]:
    bench = BENCHMARKS[task]
    items = bench.load(data)
    item = next(item for item in items if item.id == (RIGHT[task][0] or items[0].id))
    (record,) = bench.score([item], {item.id: Reply(text.replace("{}", item.targets[0]))})
    return record.scores, record


@pytest.mark.parametrize("task", RIGHT)
@pytest.mark.slow
def test_benchmarks_score_the_answer_after_the_thought(
    task: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tokenizers/punkt_tab/english").mkdir(parents=True)  # lm-eval looks for it; commas do not need it
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path), *nltk.data.path])
    answer, thought = RIGHT[task][1], WRONG[task]
    plain, _ = scored(task, made, answer)
    for form in FORMS:
        text = form.format(t=thought, a=answer.replace("{}", "{{}}")).replace("{{}}", "{}")
        found, record = scored(task, made, text)
        assert found == plain, form
        assert record.response.startswith(text[:5])
    for unended in (f"<think>{answer}", f"[THINK]{answer}", f"<|channel|>analysis<|message|>{answer}"):
        found, record = scored(task, made, unended)
        assert {name: value for name, value in found.items() if value is not None} == {
            name: 0.0 for name, value in plain.items() if value is not None
        }, unended
        assert record.reason.startswith("the thought does not end: no answer")


def test_unended_thoughts_are_counted_and_raw_replies_kept(made: Path, tmp_path: Path) -> None:
    texts = ["<think>The answer is (B).", "<think>Or A?</think>The answer is (B).", "The answer is (B)."]
    rows = [{"id": id, "response": text} for id, text in zip((10, 11, 12), texts, strict=True)]
    file = tmp_path / "r.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluation = score_file("mmlu_pro", file, made)
    result, records = evaluation.result, evaluation.records
    assert (result["n"], result["unscored"], result["unended_thoughts"]) == (3, 0, 1)
    assert [record.scores["accuracy"] for record in records] == [0, 1, 1]
    assert [record.response for record in records] == texts
    (notice,) = [one for one in result["notices"] if "thought" in one]
    assert notice == (
        "mmlu_pro: 1 of 3 replies are thoughts that do not end, which is no answer and scored as wrong: raise "
        "max_new_tokens"
    )
    page = render_page(result, records)
    assert notice in page
    assert '"thought":20' in page
    assert '"said":"The answer is (B)."' in page


def test_sampled_replies_keep_the_thought_and_stops_do_not_cut_it(made: Path, tmp_path: Path) -> None:
    bench = BENCHMARKS["flores"]  # stops at a line break
    text = "<think>\nhm\n</think>\n\nAssam is green.\nNext"
    items = bench.load(made)[:1]
    replies, _ = answer(bench, items, Answerer(Letters(), Says(text), "f", chat=False), tmp_path / "r.jsonl")
    kept = json.loads((tmp_path / "r.jsonl").read_text())["response"]
    assert kept == replies["0"].text == "<think>\nhm\n</think>\n\nAssam is green."
    assert bench.summarise(bench.score(items, replies))["metrics"]["chrf"]["value"] == pytest.approx(100)


def test_the_judge_reads_the_answer_and_not_a_thought_alone(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tutelage.evaluation.judges import judge as judges

    shown = []

    def ask(endpoint: JudgeEndpoint, items: Any, progress: Any = None) -> list[list[str | None]]:
        shown.extend(item.response for item in items)
        return [["yes"] * len(item.questions) for item in items]

    monkeypatch.setattr(judges, "judge_questions", ask)
    bench = BENCHMARKS["infobench"]
    items = bench.load(made)
    texts = {items[0].id: "<think>Hello?</think>Hi!", items[1].id: "<think>3"}
    replies = {id: Reply(text) for id, text in texts.items()}
    records, notices = scoring.score(bench, items, replies, JudgeEndpoint("http://localhost:1/v1", "j"))
    assert shown == ["Hi!"]
    assert [record.scores["drfr"] for record in records] == [1, 0]
    assert [record.response for record in records] == list(texts.values())
    assert any("1 of 2 replies are thoughts that do not end" in notice for notice in notices)


def test_comet_reads_the_answer(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tutelage.evaluation.judges import comet

    seen: list[Any] = []
    monkeypatch.setattr(comet, "comet_scores", lambda *texts: seen.append(texts[1]) or [0.5] * len(texts[1]))
    bench = BENCHMARKS["flores"]
    items = bench.load(made)[:2]
    replies = {"0": Reply("<think>t</think>Assam is green."), "1": Reply("<think>Tea")}
    scoring.score(bench, items, replies, comet=True)
    assert seen == [["Assam is green.", ""]]


@pytest.mark.parametrize("metric", ["rouge_l", "rouge_l_best", "exact_match", "final_answer", "chrf"])
def test_metrics_of_tasks_score_the_answer(metric: str) -> None:
    row = Conversation(
        "a", (Message("user", "?"),), references=("the answer is B" if metric != "final_answer" else "B",)
    )
    say = "the answer is B"
    for form in FORMS:
        record = score_response(row, form.format(t="the answer is C", a=say), [metric], finished=True, tokens=1)
        assert record.scores[metric] == pytest.approx(1)
    record = score_response(row, f"<think>{say}", [metric], finished=False, tokens=1)
    assert record.scores[metric] == 0
    assert record.reason == "the thought does not end: no answer; empty response"
    # References may be replies of a model that thinks; their thoughts do not count either.
    thinking = replace(row, references=tuple(f"<think>hm</think>{one}" for one in row.references))
    assert score_response(thinking, say, [metric], finished=True, tokens=1).scores[metric] == pytest.approx(1)


def test_tasks_count_unended_thoughts() -> None:
    class Thinks(Says):
        def sample(self, prompts: Any, **settings: Any) -> list[Sample]:
            texts = ["<think>cat" if "".join(map(chr, one)) == "cat" else "<think>hm</think>ox" for one in prompts]
            return [Sample(tuple(map(ord, text)), (0.0,) * len(text), True) for text in texts]

    task = TaskConfig(data="t", metrics=["exact_match"], sampling=AnswerSamplingConfig(max_new_tokens=9))
    rows = [Conversation(id, (Message("user", id),), references=(id,)) for id in ("cat", "ox")]
    records = evaluate_generation("test", task, rows, Letters(), Thinks(""), seed=0)  # type: ignore[arg-type]
    assert [record.scores["exact_match"] for record in records] == [0, 1]
    about = about_replies("test", "base", task, records)
    assert about["unended_thoughts"] == 1
    assert about["notices"] == [
        "base on test: 1 of 2 replies are thoughts that do not end, which is no answer and scored as wrong: raise "
        "max_new_tokens"
    ]


def test_lm_eval_gets_the_answer() -> None:
    from lm_eval.api.instance import Instance

    text = "<think>Q: A?\n\n</think>\nB\n\nQ: more"
    lm = sampler_lm(Letters(), Says(text))  # type: ignore[arg-type]
    request = Instance("generate_until", {}, ("Question", {"until": ["\n\n"], "max_gen_toks": 99}), 0)
    request.task_name, request.doc_id = "t", 0
    assert lm.generate_until([request]) == ["B"]
    assert lm.samples["t", 0][1] == "<think>Q: A?\n\n</think>\nB"

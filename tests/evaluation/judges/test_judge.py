"""The judge against a real local endpoint that speaks the chat-completions format and misbehaves on purpose."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from judge_endpoint import KEY, Endpoint, completion, hangs, hangs_up, sends
from waiting import HANG, wait_for

from tutelage.cli.options import judge_from
from tutelage.common.errors import TutelageError
from tutelage.evaluation.judges import chat_client, rules
from tutelage.evaluation.judges.endpoint import RULES, JudgeEndpoint
from tutelage.evaluation.judges.judge import JudgeItem, judge, judge_questions
from tutelage.evaluation.judges.protocol import read_answer, read_official

pytest.importorskip("openai", reason="the judge needs the openai client (the extra `judge`)")

from openai.resources.chat.completions import Completions


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setattr(chat_client, "FIRST_DELAY", 0.01)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    endpoint = Endpoint()
    yield endpoint
    endpoint.server.shutdown()
    endpoint.server.server_close()


def at(server: Endpoint, folder: Path, **changes: Any) -> JudgeEndpoint:
    return JudgeEndpoint(url=server.url, model="j", cache_folder=folder, **{"timeout": HANG, "retries": 3, **changes})


def item(id: str, *questions: str, input: str = "", response: str = "a text") -> JudgeItem:
    return JudgeItem(id, f"instruction of {id}", input, response, questions)


ITEMS = [item("a", "Is it (no) one?", "Is it two?", "Is it (no) three?", input="the input"), item("b", "Is it four?")]
ANSWERS = [["no", "yes", "no"], ["yes"]]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("YES", "yes"),
        ("no", "no"),
        (" Yes.\n", "yes"),
        ("**No**, although one might say YES.", "no"),
        ("Answer: YES", "yes"),
        ("The answer is: **no**", "no"),
        ("I looked at each line. The answer is yes.", "yes"),
        ("All lines rhyme, so YES", "yes"),
        ("Since line two does not rhyme: NO.", "no"),
        ("<think>YES? or NO? Hmm</think>\n\nNO", "no"),
        ("<think>surely YES", None),
        ("Yes and no.", None),
        ("Yes/No", None),
        ("No, wait: YES", None),
        ("Yes, and no errors were found.", "yes"),
        ("None of the lines rhyme.", None),
        ("Not sure", None),
        ("No-one could tell.", None),
        ("It could be YES, it could be NO.", None),
        ("There is no second sentence.", None),
        ("Yesterday it rained", None),
        ("", None),
    ],
)
def test_what_counts_as_yes_and_as_no(text: str, answer: str | None) -> None:
    assert read_answer(text) == answer


def test_questions_are_one_conversation_in_their_order(server: Endpoint, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    answers = judge_questions(at(server, tmp_path, concurrency=1), ITEMS, lambda done, of: seen.append((done, of)))
    assert answers == ANSWERS
    assert seen == [(1, 2), (2, 2)]
    opening = f'{RULES}\n\nInput:\n"the input"\n\nGenerated Text:\n"a text"\n\nQuestion:\nIs it (no) one?\n'
    assert server.requests[2] == {
        "model": "j",
        "temperature": 0.0,
        "messages": [
            {"role": "user", "content": opening},
            {"role": "assistant", "content": "NO"},
            {"role": "user", "content": "Is it two?\n"},
            {"role": "assistant", "content": "YES"},
            {"role": "user", "content": "Is it (no) three?\n"},
        ],
    }
    last = server.requests[3]["messages"]
    assert [message["content"] for message in last] == [
        f'{RULES}\n\nGenerated Text:\n"a text"\n\nQuestion:\nIs it four?\n'
    ]
    assert set(server.keys) == {f"Bearer {KEY}"}
    assert all(KEY not in path.read_text() for path in tmp_path.iterdir())


def test_responses_are_judged_at_the_same_time(server: Endpoint, tmp_path: Path) -> None:
    lock, asked, most, two = threading.Lock(), 0, 0, threading.Event()

    def slow(body: dict[str, Any]) -> str:
        nonlocal asked, most
        with lock:
            asked += 1
            most = max(most, asked)
            if asked > 1:
                two.set()
        two.wait(HANG)
        with lock:  # before the answer is sent, so that no next question can be here yet
            asked -= 1
        return "YES"

    server.text = slow
    items = [item(str(n), "one?", "two?", response=f"text {n}") for n in range(12)]
    assert judge_questions(at(server, tmp_path, concurrency=6), items) == [["yes", "yes"]] * 12
    assert 2 <= most <= 6


MISBEHAVIOURS = {
    "busy": sends(429, {"error": {"message": "slow down"}}),
    "failing": sends(500, {"error": {"message": "oops"}}),
    "overloaded, in HTML": sends(503, b"<html>overloaded</html>", Content_Type="text/html"),
    "slow": hangs,
    "hanging up": hangs_up,
    "half a body": sends(200, b'{"choices": [', Content_Length="500"),
    "broken JSON": sends(200, b'{"choices": ['),
    "not JSON": sends(200, b"<html>welcome</html>", Content_Type="text/html"),
    "no choices": sends(200, {**completion("x"), "choices": []}),
    "no text": sends(200, completion(None)),
    "blank text": sends(200, completion("  ")),
    "cut": sends(200, completion("Let me think about the", "length")),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "slow")) for n in MISBEHAVIOURS])
def test_a_misbehaving_endpoint_is_asked_again(
    server: Endpoint, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.misbehave = {0: MISBEHAVIOURS[name], 1: MISBEHAVIOURS[name], 3: MISBEHAVIOURS[name]}
    create = Completions.create

    def impatient(self: Completions, **body: Any) -> Any:
        """Wait long for every answer but those that never come."""
        number = len(server.requests)
        try:
            return create(self, **body, timeout=0.3 if server.misbehave.get(number) is hangs else HANG)
        finally:
            wait_for(lambda: len(server.requests) > number, "the request to arrive")

    monkeypatch.setattr(Completions, "create", impatient)
    found = judge(at(server, tmp_path, concurrency=1), ITEMS)
    assert found.answers == ANSWERS
    assert (found.asked, found.cached, found.retried, found.unscored) == (4, 0, 3, [])
    assert len(server.requests) == 7


def test_retry_after_is_honoured(server: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.misbehave = {0: sends(429, {"error": {"message": "slow down"}}, Retry_After="0.2")}
    delay, delays = chat_client._delay, []
    monkeypatch.setattr(chat_client, "_delay", lambda *given: delays.append(delay(*given)) or delays[-1])
    assert judge_questions(at(server, tmp_path), ITEMS[1:]) == [["yes"]]
    assert 0.2 <= delays[0] < 0.21  # and a hundredth of a second at random
    assert server.times[1] - server.times[0] >= delays[0]


def test_a_rerun_costs_nothing_and_a_killed_run_goes_on(server: Endpoint, tmp_path: Path) -> None:
    server.misbehave = {n: sends(500, {}) for n in range(2, 100)}
    with pytest.raises(TutelageError, match="2 answers are kept, so the same command continues"):
        judge(at(server, tmp_path, concurrency=1, retries=0), [*ITEMS, *(item(str(n), f"{n}?") for n in range(9))])
    with (tmp_path / "answers.jsonl").open("a") as handle:
        handle.write('{"key": "half a li')  # what a kill leaves
    server.misbehave = {}
    before = len(server.requests)
    found = judge(at(server, tmp_path), ITEMS)
    assert found.answers == ANSWERS
    assert (found.asked, found.cached) == (2, 2)
    assert len(server.requests) == before + 2
    again = judge(at(server, tmp_path), ITEMS)
    assert again.answers == ANSWERS
    assert (again.asked, again.cached) == (0, 4)
    # another response, another model, other rules: all of them new questions
    for changed in (
        judge(at(server, tmp_path), [item("b", "Is it four?", response="another text")]),
        judge(JudgeEndpoint(server.url, "other", cache_folder=tmp_path), ITEMS[1:]),
        judge(at(server, tmp_path, rules="Say YES or NO."), ITEMS[1:]),
    ):
        assert (changed.asked, changed.cached) == (1, 0)


def test_neither_yes_nor_no_is_unscored_and_reported(server: Endpoint, tmp_path: Path) -> None:
    server.text = lambda body: "Hard to tell." if "one" in body["messages"][-1]["content"][-20:] else "YES"
    assert judge_questions(at(server, tmp_path), ITEMS) == [[None, "yes", "yes"], ["yes"]]
    report = json.loads((tmp_path / "judge-report.json").read_text())
    assert report["summary"].startswith("4 questions: 3 scored, 1 unscored; 4 asked, 0 from the cache")
    assert report["unscored"] == [
        {"id": "a", "number": 1, "question": "Is it (no) one?", "text": "Hard to tell.", "reason": "neither yes nor no"}
    ]
    assert judge(at(server, tmp_path), ITEMS).cached == 4


def test_an_answer_that_stays_cut_is_unscored_unless_its_first_word_decides(server: Endpoint, tmp_path: Path) -> None:
    server.always = sends(200, completion("Looking at the text, I would", "length"))
    found = judge(at(server, tmp_path), ITEMS[1:])
    assert found.answers == [[None]]
    assert (found.unscored[0].text, found.unscored[0].reason) == (
        "Looking at the text, I would",
        "cut at the length limit (3 tries)",
    )
    server.always = sends(200, completion("No, for the text is", "length"))
    found = judge(at(server, tmp_path), ITEMS[1:])
    assert (found.answers, found.asked, found.cached) == ([["no"]], 1, 0)  # the cut answer was not kept


def test_a_refused_question_is_unscored_with_those_after_it(server: Endpoint, tmp_path: Path) -> None:
    server.misbehave = {1: sends(400, {"error": {"message": "flagged by the content filter"}})}
    found = judge(at(server, tmp_path, concurrency=1), ITEMS)
    assert found.answers == [["no", None, None], ["yes"]]
    assert [(one.number, one.text) for one in found.unscored] == [(2, None), (3, None)]
    assert "refused with status 400" in found.unscored[0].reason
    assert "flagged by the content filter" in found.unscored[0].reason
    assert found.unscored[1].reason == "not asked, because question 2 got no answer"
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            sends(401, {"error": {"message": f"Incorrect API key: {KEY}"}}),
            r"\[key\].*check the key in \$OPENAI_API_KEY",
        ),
        (sends(404, {"error": {"message": "no such model"}}), "no such model; check the address and the model's name"),
        (sends(429, {"error": {"message": "pay", "code": "insufficient_quota"}}), "the account's quota is used up"),
        (sends(429, {"error": {"message": "tomorrow"}}, Retry_After="4000"), "it asks to wait 4000 s"),
    ],
)
def test_an_unusable_endpoint_is_one_line_at_once(
    server: Endpoint, tmp_path: Path, answer: Callable[[BaseHTTPRequestHandler], None], words: str
) -> None:
    server.always = answer
    with pytest.raises(TutelageError, match=words) as caught:
        judge(at(server, tmp_path, concurrency=1), [item(str(n), f"{n}?") for n in range(9)])
    assert len(server.requests) == 1
    assert KEY not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_endpoint_that_is_down_is_given_up_on(server: Endpoint, tmp_path: Path) -> None:
    many = [item(str(n), f"{n}?") for n in range(50)]
    server.always = sends(502, {})
    with pytest.raises(TutelageError, match=r"status 502 \(2 tries\); 0 answers are kept"):
        judge(at(server, tmp_path, retries=1, concurrency=1), many)
    assert len(server.requests) == 2 * chat_client.FAILURES_IN_A_ROW
    with pytest.raises(TutelageError, match="gives no answers: no connection"):
        judge(JudgeEndpoint("http://127.0.0.1:9/v1", "j", cache_folder=tmp_path, retries=0), many[:1])


def test_the_command_takes_the_judges_limits(server: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path))
    given = judge_from(server.url, "j", 1, 16)
    assert judge_questions(given, ITEMS) == judge_questions(at(server, tmp_path / "other"), ITEMS)
    assert server.requests[0]["max_tokens"] == 16
    assert "max_tokens" not in server.requests[-1]


def test_what_cannot_be_asked_is_named(server: Endpoint, tmp_path: Path) -> None:
    with pytest.raises(TutelageError, match="the id `b` twice"):
        judge(at(server, tmp_path), [ITEMS[1], ITEMS[1]])
    with pytest.raises(TutelageError, match="`c` has no questions"):
        judge(at(server, tmp_path), [item("c")])
    with pytest.raises(TutelageError, match="--judge-url: `localhost:8000` is not a web address"):
        judge(JudgeEndpoint("localhost:8000", "j", cache_folder=tmp_path), ITEMS)
    assert judge_questions(at(server, tmp_path), []) == []
    assert server.requests == []


def test_a_real_model_behind_a_real_server(tmp_path: Path) -> None:
    missing = [name for name in ("fastapi", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"transformers' own server needs {' and '.join(missing)} (transformers[serving])")
    folder = _tiny_chat_model(tmp_path / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder), "--port", str(port)]
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen([*command, "--device", "cpu"], stdout=log, stderr=subprocess.STDOUT)
    try:
        if not _answers(f"http://127.0.0.1:{port}/health", process):
            pytest.skip(f"transformers' own server did not start: {(tmp_path / 'server.log').read_text()[-300:]}")
        endpoint = JudgeEndpoint(f"http://localhost:{port}/v1", str(folder), cache_folder=tmp_path, max_tokens=4)
        found = judge(endpoint, ITEMS)
        assert [len(row) for row in found.answers] == [3, 1]
        assert all(text is not None for text in found.texts[1])
        assert found.unscored  # random weights say neither yes nor no
    finally:
        process.terminate()
        process.wait(HANG)


def _tiny_chat_model(folder: Path) -> Path:
    from tiny import llama
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(["yes no"], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    fast.chat_template = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    llama(vocab=len(fast), packed=False).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def _answers(address: str, process: subprocess.Popen[bytes]) -> bool:
    """Whether the server comes up, rather than ending."""

    def up() -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=HANG):
            return True
        return False

    return wait_for(lambda: "up" if up() else process.poll() is not None and "ended", "the server") == "up"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("YES", "yes"),
        ("no, it is not", "no"),
        ("Not sure", "no"),
        ("Yesterday it rained", "yes"),
        ("It is so: YES.", "yes"),
        ("NOT so: YES.", "no"),
        ("**YES**", "yes"),
        ("**Yes**", None),
        ("It is YES or NO", None),
        ("ANOTHER text", "no"),
    ],
)
def test_the_benchmarks_own_decision(text: str, answer: str | None) -> None:
    assert read_official(text) == answer


def test_an_answer_that_is_neither_ends_the_official_conversation_as_a_no(server: Endpoint, tmp_path: Path) -> None:
    """As in the script, whose share of yes counts it with those answered no, and not the questions after it."""
    server.text = lambda body: "Hard to tell." if "two" in body["messages"][-1]["content"][-20:] else "YES"
    found = judge(at(server, tmp_path, decision="official"), ITEMS)
    assert found.answers == [["yes", "no", None], ["yes"]]
    assert found.unscored[0].reason == "not asked, because question 2 was answered with neither yes nor no"
    assert judge(at(server, tmp_path), ITEMS).answers == [["yes", None, "yes"], ["yes"]]


def test_the_official_rules_are_fetched_once_or_given_as_a_file(
    server: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    script = tmp_path / "evaluation.py"
    script.write_text("import os\nSYS_MSG = 'Made-up rules:\\n- YES'\nprint('never run')\n")
    monkeypatch.setattr(rules, "SCRIPT", script.as_uri())
    given = judge_from(server.url, "j", rules="official")
    assert given is not None
    assert (given.decision, given.about["rules"]) == ("official", "official")
    assert judge_questions(given, ITEMS[1:]) == [["yes"]]
    assert server.requests[0]["messages"][0]["content"].startswith("Made-up rules:\n- YES\n\nGenerated Text:\n")
    monkeypatch.setattr(rules, "SCRIPT", "file:///nowhere")
    assert given.wording == "Made-up rules:\n- YES"
    of_file = judge_from(server.url, "j", rules=str(script), decision="official")
    assert of_file is not None
    assert (of_file.wording, of_file.decision) == (given.wording, "official")
    others = at(server, tmp_path), at(server, tmp_path, max_tokens=1)
    assert len({one.fingerprint for one in (given, of_file, *others)}) == 4
    script.write_text("x = 1")
    with pytest.raises(TutelageError, match=r"evaluation\.py has no text called SYS_MSG: give a file with the rules"):
        judge_from(server.url, "j", rules=str(script))
    with pytest.raises(TutelageError, match=r"absent\.txt cannot be read"):
        judge_from(server.url, "j", rules=str(tmp_path / "absent.txt"))
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "other"))
    with pytest.raises(TutelageError, match=r"`rules: official`: the rules cannot be fetched .*: download file:///now"):
        judge(given, ITEMS)

"""A teacher of which an endpoint gives the likeliest tokens: the run of a cached top-k, or one clear line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from aiohttp import web
from recipes_fixture import Workshop
from teacher_servers import Served

from tutelage.common.errors import TutelageError
from tutelage.common.types import TopLogprobs
from tutelage.models.load import LoadedModel, load_model
from tutelage.recipe.sections import ModelConfig
from tutelage.runs.preflight.check import find_problems
from tutelage.runs.run import Run
from tutelage.teachers import patience
from tutelage.teachers.local import LocalSource
from tutelage.teachers.openai import OpenAISource
from tutelage.teachers.protocol import Question
from tutelage.teachers.top_k import TopKSource

KEY = "sk-very-secret-1234567890"
QUESTION = Question(torch.tensor([5, 6, 7, 8, 9, 10, 11]), (4, 3), torch.tensor([1, 2, 4]))
Distil = Callable[..., Any]
Change = Callable[[dict[str, Any]], Any]


class Endpoint:
    """vLLM's `/v1/completions` with `prompt_logprobs`, by a model of transformers; `change` edits its answers."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded, self.bodies, self.keys = loaded, list[dict[str, Any]](), list[str | None]()
        self.change: Change = lambda answer: answer

    def app(self) -> web.Application:
        made = web.Application(client_max_size=2**26)
        made.router.add_post("/v1/completions", self.complete)
        return made

    async def complete(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.bodies.append(body)
        self.keys.append(request.headers.get("Authorization"))
        choices = [
            {"index": i, "text": "", "prompt_logprobs": self.logprobs(ids, body["prompt_logprobs"])}
            for i, ids in enumerate(body["prompt"])
        ]
        changed = self.change({"object": "text_completion", "model": body["model"], "choices": choices[::-1]})
        return changed if isinstance(changed, web.Response) else web.json_response(changed)

    @torch.no_grad()
    def logprobs(self, ids: list[int], k: int) -> list[dict[str, Any] | None]:
        source = LocalSource(self.loaded)
        hidden = source.answer(Question(torch.tensor(ids), (len(ids),), torch.arange(len(ids) - 1)))
        logits = (hidden @ source.head().weight.t()).log_softmax(-1)
        out: list[dict[str, Any] | None] = [None]
        for row, own in zip(logits, ids[1:], strict=True):
            order = row.argsort(descending=True).tolist()
            shown = dict.fromkeys([own, *order[:k]])  # the prompt's own token comes first
            out.append({str(t): {"logprob": float(row[t]), "rank": order.index(t) + 1} for t in shown})
        return out


@pytest.fixture
def endpoint(tiny_models: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Served, Endpoint]]:
    monkeypatch.setattr(patience, "FIRST_DELAY", 0.01)
    made = Endpoint(load_model(ModelConfig(path=str(tiny_models / "teacher"))))
    served = Served(made.app)
    yield served, made
    served.stop()


def source(served: Served, endpoint: Endpoint, k: int = 5, wait: float = 20.0) -> OpenAISource:
    rows = endpoint.loaded.model.get_input_embeddings().weight.shape[0]
    return OpenAISource(f"{served.url}/v1", "big", k, "teacher", rows, "OPENAI_API_KEY", wait)


def test_it_gives_the_likeliest_tokens_and_the_mass_of_the_others(endpoint: tuple[Served, Endpoint]) -> None:
    served, model = endpoint
    got = source(served, model).answer(QUESTION)
    expected = TopKSource(LocalSource(model.loaded), 5).answer(QUESTION)
    assert torch.equal(got.ids, expected.ids)
    torch.testing.assert_close(got.logprobs, expected.logprobs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got.tail, expected.tail, rtol=1e-4, atol=1e-5)
    (body,) = model.bodies
    assert body | {"prompt": 0} == {
        "model": "big",
        "prompt": 0,
        "max_tokens": 1,
        "temperature": 0,
        "prompt_logprobs": 5,
    }
    assert body["prompt"] == [[5, 6, 7, 8], [9, 10, 11]]


@pytest.mark.slow
@pytest.mark.parametrize("on_policy", [0.0, 0.5])
def test_it_gives_the_run_of_a_local_top_k(
    distil: Distil, endpoint: tuple[Served, Endpoint], on_policy: float, capsys: pytest.CaptureFixture[str]
) -> None:
    served, model = endpoint
    signal = {"openai": f"{served.url}/v1", "model": "big"}
    local = distil("local", on_policy, signal={"cache": "top_k"})
    asked = distil("asked", on_policy, signal=signal)
    asked.equals(local, 1e-4)
    assert asked.run.fingerprint == local.run.fingerprint
    assert all(line["loss_error_bound"] > 0.0 for line in asked.metrics)
    assert "gkd: approximate: of the teacher only the 20 likeliest tokens count" in capsys.readouterr().out
    (notice,) = json.loads((asked.run.folder / "result.json").read_text())["notices"]
    bound = asked.metrics[-1]["loss_error_bound"]
    assert notice.startswith("gkd (seed 0) had of its teacher the 20 likeliest tokens: its loss is approximate, ")
    assert notice.endswith(f"at most {bound:.4f} below the exact one")
    count = len(model.bodies)
    distil("kept", on_policy, signal=signal | {"cache": "top_k"}).equals(local, 1e-4)
    assert len(model.bodies) > count


def without_own(answer: dict[str, Any]) -> dict[str, Any]:
    del answer["choices"][0]["prompt_logprobs"][1]["10"]
    return answer


def changed(**entry: Any) -> Change:
    def change(answer: dict[str, Any]) -> dict[str, Any]:
        for choice in answer["choices"]:
            for position in choice["prompt_logprobs"][1:]:
                for one in position.values():
                    one.update(entry)
        return answer

    return change


BAD: dict[str, tuple[Change, str]] = {
    "no logprobs": (lambda answer: {"choices": [{"index": i, "text": ""} for i in range(2)]}, "KeyError"),
    "null": (
        lambda answer: {"choices": [{"index": i, "prompt_logprobs": None} for i in range(2)]},
        "0 positions for 4 tokens",
    ),
    "one answer": (lambda answer: {"choices": answer["choices"][:1]}, "1 answers to 2 prompts"),
    "another tokenizer": (without_own, "token 10 was sent, and its own log-probability is not there"),
    "not a number": (changed(logprob=None), "TypeError"),
    "NaN": (changed(logprob="nan"), "no log-probability"),
    "too likely": (changed(logprob=-0.1), "probabilities of more than 1 together"),
    "a page": (lambda answer: web.Response(text="<html>", content_type="text/html"), "JSONDecodeError"),
    "a refusal": (
        lambda answer: web.json_response({"error": {"message": f"prompt_logprobs > max ({KEY})"}}, status=400),
        r"refuses \(status 400\): prompt_logprobs > max \(\[token\]\)$",
    ),
    "not found": (lambda answer: web.json_response({"message": "no model big"}, status=404), "no model big"),
}


@pytest.mark.parametrize("kind", BAD)
def test_garbage_is_one_line(endpoint: tuple[Served, Endpoint], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    served, model = endpoint
    model.change, message = BAD[kind]
    with pytest.raises(TutelageError, match=message) as error:
        source(served, model).answer(QUESTION)
    assert str(error.value).startswith(f"the teacher `big` at {served.url}/v1: ")
    assert "\n" not in str(error.value)
    assert KEY not in str(error.value)
    assert model.keys == [f"Bearer {KEY}"]


def test_a_busy_endpoint_is_asked_again(endpoint: tuple[Served, Endpoint], capsys: pytest.CaptureFixture[str]) -> None:
    served, model = endpoint
    served.misbehave = {0: lambda _: web.json_response({"error": {"message": "queue full"}}, status=429)}
    assert isinstance(source(served, model).answer(QUESTION), TopLogprobs)
    assert "big` at " in (said := capsys.readouterr().out)
    assert "status 429 (queue full): asked again in " in said


@pytest.mark.slow
def test_before_the_first_run_the_endpoint_is_asked_for_two_tokens(
    plan: Callable[..., Run], endpoint: tuple[Served, Endpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    served, model = endpoint
    run = plan(signal={"openai": f"{served.url}/v1", "model": "big", "top_k": 7})

    def problems() -> list[tuple[str, bool]]:
        return [(one.text, one.stops) for one in find_problems([run], run.folder.parent, here=False)]

    assert problems() == []
    (body,) = model.bodies
    rows = model.loaded.model.get_input_embeddings().weight.shape[0]
    assert (body["prompt"], body["prompt_logprobs"]) == ([[rows - 1, rows - 2]], 7)
    for kind in ("a refusal", "no logprobs", "not found"):
        model.change, _ = BAD[kind]
        ((text, stops),) = problems()
        assert text.startswith(f"stage `gkd`: the teacher `big` at {served.url}/v1: ")
        assert stops
    served.stop()
    try:
        ((text, stops),) = problems()
        assert not stops
        assert text.endswith("then the same command goes on; the stage waits 600 s for it")
    finally:
        served.start()


def test_only_small_files_of_the_teacher_are_read(workshop: Workshop, tiny_models: Path) -> None:
    from tutelage.models.load import load_shape

    shape = load_shape(ModelConfig(path=str(tiny_models / "teacher")))
    assert all(parameter.is_meta for parameter in shape.model.parameters())
    whole = load_model(ModelConfig(path=str(tiny_models / "teacher")))
    assert (shape.context, shape.template.text, shape.name) == (whole.context, whole.template.text, whole.name)
    assert [tuple(p.shape) for p in shape.model.parameters()] == [tuple(p.shape) for p in whole.model.parameters()]

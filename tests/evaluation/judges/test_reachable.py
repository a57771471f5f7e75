"""A judge that does not answer, or is another one, is told before any reply is sampled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from judge_endpoint import Endpoint, sends
from tiny_benchmarks import write_data

import tutelage
from tutelage.common.errors import TutelageError
from tutelage.evaluation import run_benchmarks
from tutelage.evaluation.judges.endpoint import JudgeEndpoint
from tutelage.evaluation.run_benchmarks import Settings

pytest.importorskip("openai", reason="the judge needs the openai client (the extra `judge`)")


class Loaded(Exception):
    """The model would be loaded now."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Endpoint]:
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))

    def load(settings: Settings) -> Any:
        raise Loaded

    monkeypatch.setattr(run_benchmarks, "load_answerer", load)
    endpoint = Endpoint()
    yield endpoint
    endpoint.server.shutdown()
    endpoint.server.server_close()


def settings(folder: Path, url: str, model: str = "j") -> Settings:
    data = folder / "data"
    if not data.is_dir():
        write_data(data)
    return Settings(("infobench",), "m", folder / "out", data, judge=JudgeEndpoint(url, model, retries=0))


def test_before_anything_is_sampled(server: Endpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Loaded):
        run_benchmarks.run_benchmarks(settings(tmp_path, server.url))
    with pytest.raises(TutelageError, match=r"judged by `k`: .* does not list that model \(it has: j\): correct it"):
        run_benchmarks.run_benchmarks(settings(tmp_path, server.url, "k"))
    with pytest.raises(TutelageError, match="does not answer: start it, or correct the address"):
        run_benchmarks.run_benchmarks(settings(tmp_path, "http://127.0.0.1:9/v1"))
    server.always = sends(404, {})
    assert capsys.readouterr().err == ""
    with pytest.raises(Loaded):
        run_benchmarks.run_benchmarks(settings(tmp_path, server.url))
    assert "note: infobench is judged by `j`: " in capsys.readouterr().err
    assert server.requests == []  # no question was asked


def test_replies_that_are_all_there_may_have_been_judged(server: Endpoint, tmp_path: Path) -> None:
    one = settings(tmp_path, "http://127.0.0.1:9/v1")
    folder = one.out / "infobench"
    folder.mkdir(parents=True)
    (folder / "responses.jsonl").write_text('{"id": "easy_1"}\n' * 2)
    with pytest.raises(Loaded):
        run_benchmarks.run_benchmarks(one)


def test_a_call_takes_a_judge(server: Endpoint, tmp_path: Path, tiny_models: Path) -> None:
    about: dict[str, Any] = {"data_dir": write_data(tmp_path / "data"), "out": tmp_path / "out"}
    model = tiny_models / "student"
    with pytest.raises(Loaded):
        tutelage.evaluate(model, "infobench", judge={"model": "j", "url": server.url}, **about)
    for judge, message in (
        ({"model": "k", "url": server.url}, "does not list that model"),
        ({"url": server.url}, "judge: give the name of its `model`"),
        ({"modle": "j"}, "unknown key `modle`"),
    ):
        with pytest.raises(TutelageError, match=message):
            tutelage.evaluate(model, "infobench", judge=judge, **about)
    for asked in ({"tasks": "ifeval"}, {"data": [{"prompt": "a", "completion": "b"}]}):
        with pytest.raises(TutelageError, match="judge: nothing here is judged: leave it out, or give `infobench`"):
            tutelage.evaluate(model, judge={"model": "j"}, **asked)

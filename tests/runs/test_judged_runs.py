"""A judge, or COMET, that is added later scores the kept replies; nothing is sampled and no model is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from comet_stand_in import stand_in
from judge_endpoint import KEY, Endpoint, sends
from recipes_fixture import Workshop
from tiny_benchmarks import write_data
from tiny_study import without_models, write_study

from tutelage.cli.main import main
from tutelage.common.errors import TutelageError
from tutelage.evaluation.compare import compare_folders, table
from tutelage.evaluation.judges import chat_client
from tutelage.evaluation.records import read_records
from tutelage.runs.do_run import do_run
from tutelage.runs.fingerprints import sampling_of
from tutelage.runs.preflight import Problem, find_problems
from tutelage.runs.run import Run
from tutelage.study.grid import plan_study

pytest.importorskip("openai", reason="the judge needs the openai client (the extra `judge`)")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setattr(chat_client, "FIRST_DELAY", 0.01)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    endpoint = Endpoint(models=("j", "k"))
    endpoint.text = lambda body: "NO" if "alone" in body["messages"][-1]["content"] else "YES"
    yield endpoint
    endpoint.server.shutdown()
    endpoint.server.server_close()


@pytest.fixture(autouse=True)
def _place(workshop: Workshop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TUTELAGE_DATA", str(write_data(tmp_path / "data")))
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TUTELAGE_JUDGE_URL", raising=False)


def planned(workshop: Workshop, task: str, judge: Any = None) -> Run:
    """The run of the untrained student on a benchmark, in a study with this judge."""
    file = write_study(workshop)
    study = yaml.safe_load(file.read_text())
    study["grids"][0] |= {"tasks": [task], "methods": ["base"], "sizes": []}
    study |= {"tasks": {task: {"benchmark": task, "chat": False}}, "judge": judge}
    file.write_text(yaml.safe_dump(study))
    ((_, run),) = plan_study(file, workshop.runs).points
    return run


def problems(workshop: Workshop, run: Run) -> list[Problem]:
    return find_problems([run], workshop.runs)


@pytest.mark.slow
def test_a_judge_that_is_filled_in_later_samples_nothing(
    workshop: Workshop, server: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    unjudged = planned(workshop, "infobench", {"model": None, "url": server.url})
    before = do_run(unjudged)
    assert (before["judge"], before["metrics"]["drfr"]["value"], before["unscored"]) == (None, None, 5)
    without_models(monkeypatch)
    run = planned(workshop, "infobench", {"model": "j", "url": server.url})
    assert sampling_of(run.fingerprint) == sampling_of(unjudged.fingerprint)
    assert not run.done
    result = do_run(run)
    assert result["metrics"]["drfr"]["value"] == 80.0  # four of five questions
    assert result["judge"]["model"] == "j"
    assert (result["judge"]["rules"], result["judge"]["decision"]) == ("tutelage", "tutelage")
    replies = [f"{one.folder}/benchmark/infobench/responses.jsonl" for one in (unjudged, run)]
    assert Path(replies[0]).read_bytes() == Path(replies[1]).read_bytes()
    assert KEY not in "".join(path.read_text() for path in run.folder.glob("*.json*"))
    # where it is reached and how fast is no part of it; who it is, and what it is told, are
    assert planned(workshop, "infobench", {"model": "j", "url": "http://elsewhere/v1", "requests": 1}).done
    asked = len(server.requests)
    server.text = lambda body: "NO"
    other = planned(workshop, "infobench", {"model": "k", "url": server.url})
    assert do_run(other)["metrics"]["drfr"]["value"] == 0.0
    assert len(server.requests) == asked + 5
    (workshop.folder / "rules.txt").write_text("Say YES or NO.")
    ruled = planned(workshop, "infobench", {"model": "k", "url": server.url, "rules": "rules.txt"})
    assert ruled.fingerprint not in (other.fingerprint, run.fingerprint)
    assert do_run(ruled)["judge"]["rules"].startswith("own (")
    assert server.requests[-1]["messages"][0]["content"].startswith("Say YES or NO.\n\n")
    assert planned(workshop, "infobench", None).fingerprint == unjudged.fingerprint
    warned = table(compare_folders(run.folder, other.folder))
    assert "a is judged by j (tutelage rules), b by k (tutelage rules): their scores cannot be compared" in warned
    assert "b has no judge, so it is unscored" in table(compare_folders(run.folder, unjudged.folder))


@pytest.mark.usefixtures("undrawn")
@pytest.mark.slow
def test_the_same_command_judges_what_it_has_sampled(
    workshop: Workshop, server: Endpoint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = workshop.folder / "study.yaml"
    command = [str(file), "--runs", str(workshop.runs)]
    (workshop.folder / "judge.yaml").write_text("model:\n")
    planned(workshop, "infobench", "judge.yaml")
    main(["study", "run", *command])
    assert "note: infobench stays unscored in 1 run, as no judge is named" in capsys.readouterr().err
    main(["report", *command, "--out", str(workshop.folder / "unjudged")])
    assert "InFoBench is unscored: name a judge" in (workshop.folder / "unjudged/report.html").read_text()
    without_models(monkeypatch)
    (workshop.folder / "judge.yaml").write_text(f"model: j\nurl: {server.url}\n")
    main(["study", "run", *command])
    assert "no judge" not in capsys.readouterr().err
    main(["report", *command, "--out", str(workshop.folder / "judged")])
    page = (workshop.folder / "judged/report.html").read_text()
    assert "unscored: name a judge" not in page
    assert ">80.0" in page


@pytest.mark.slow
def test_a_judge_that_fails_is_asked_again_from_the_kept_replies(
    workshop: Workshop, server: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    do_run(planned(workshop, "infobench"))
    without_models(monkeypatch)
    run = planned(workshop, "infobench", {"model": "j", "url": server.url})
    server.always = sends(401, {"error": {"message": "no"}})
    with pytest.raises(TutelageError, match=r"check the key in \$OPENAI_API_KEY"):
        do_run(run)
    server.always = None
    assert do_run(run)["metrics"]["drfr"]["value"] == 80.0
    with pytest.raises(
        TutelageError, match=r"infobench is judged by `new`: set `judge\.url`, or export TUTELAGE_JUDGE"
    ):
        do_run(planned(workshop, "infobench", {"model": "new"}))


@pytest.mark.slow
def test_the_command_judges_runs_and_folders_of_scores(
    workshop: Workshop, server: Endpoint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = planned(workshop, "infobench"), workshop.folder / "scores"
    do_run(run)
    model = str(workshop.models / "student")
    main(["evaluate", "--model", model, "--tasks", "infobench", "--out", str(out), "--no-chat"])
    assert "infobench drfr: unscored (n = 2)\n" in (printed := capsys.readouterr().out)
    assert "| – | – | – | unscored | – | – |" in printed
    without_models(monkeypatch)
    judge = ["--judge-url", server.url, "--judge-model", "j"]
    for folder, name in ((workshop.runs, run.folder.name), (out, "infobench")):
        main(["rescore", str(folder), *judge])
        assert capsys.readouterr().out == f"{name}: infobench drfr unscored → 80.00 (2 replies)\n"
        main(["rescore", str(folder), *judge])
        assert "scored by today's reading" in capsys.readouterr().out
        main(["rescore", str(folder)])  # what the judge said is kept
        assert "→" not in capsys.readouterr().out
    assert planned(workshop, "infobench", {"model": "j", "url": server.url}).done
    assert json.loads((out / "infobench/result.json").read_text())["judge"]["model"] == "j"
    with pytest.raises(SystemExit):
        main(["rescore", str(out), "--judge-rules", "official"])
    assert "--judge-rules and --judge-decision need a judge" in capsys.readouterr().err


@pytest.mark.slow
def test_comet_that_is_set_up_later_samples_nothing(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain = planned(workshop, "flores")
    before = do_run(plain)
    assert before["comet"] is None
    assert "comet" not in before["metrics"]
    without_models(monkeypatch)
    stand_in(tmp_path / "cache")
    run = planned(workshop, "flores")
    assert run.fingerprint == f"{plain.fingerprint}_comet"
    result = do_run(run)
    assert result["comet"] == "Unbabel/wmt22-comet-da"
    words = [len(record.response.split()) / 10 for record in read_records(run.folder)]
    assert result["metrics"]["comet"]["value"] == pytest.approx(100 * sum(words) / len(words))
    assert result["metrics"]["chrf"] == before["metrics"]["chrf"]
    warned = table(compare_folders(run.folder, plain.folder))
    assert "COMET has scored only a: compare them by chrF, or run `tutelage setup comet` and score b again" in warned
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "elsewhere"))  # shown on a machine without COMET, too
    assert planned(workshop, "flores").fingerprint == run.fingerprint


@pytest.mark.slow
def test_a_run_with_comet_is_not_done_without_it(workshop: Workshop, tmp_path: Path) -> None:
    stand_in(tmp_path / "cache", extra="sys.exit('out of memory')")
    run = planned(workshop, "flores")
    with pytest.raises(TutelageError, match="COMET ran out of memory"):
        do_run(run)
    assert not run.done
    stand_in(tmp_path / "cache")
    assert do_run(run)["comet"]


@pytest.mark.slow
def test_preflight_asks_the_endpoint(
    workshop: Workshop, server: Endpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def texts(**judge: Any) -> list[str]:
        run = planned(workshop, "infobench", {"model": "j", "url": server.url} | judge)
        return [problem.text for problem in find_problems([run], workshop.runs) if problem.stops]

    start = "infobench is judged by"
    assert texts() == []
    assert texts(model="l") == [f"{start} `l`: {server.url} does not list that model (it has: j, k): correct it"]
    server.always = sends(401, {"error": {"message": f"bad {KEY}"}})
    refused = f"{start} `j`: {server.url} wants a key, and $OPENAI_API_KEY is refused: export the right one"
    assert texts() == [refused]
    monkeypatch.delenv("OPENAI_API_KEY")
    assert texts() == [refused.replace("is refused", "is not set")]
    assert texts(api_key_env="MY_KEY") == [refused.replace("OPENAI_API_KEY is refused", "MY_KEY is not set")]
    server.always = sends(404, {"error": {"message": "no such page"}})
    (note,) = problems(workshop, planned(workshop, "infobench", {"model": "j", "url": server.url}))
    assert (note.stops, "does not list its models, so the name is not checked" in note.text) == (False, True)
    down = "http://127.0.0.1:9/v1"
    assert texts(url=down) == [f"{start} `j`: {down} does not answer: start it, or correct the address"]
    monkeypatch.setattr("tutelage.evaluation.judges.rules.SCRIPT", (tmp_path / "absent.py").as_uri())
    (text,) = texts(rules="official")
    assert text.startswith("`rules: official`: the rules cannot be fetched (")
    with pytest.raises(TutelageError, match=r"rules`: .*absent\.txt cannot be read"):
        texts(rules="absent.txt")


@pytest.mark.slow
def test_what_stays_unscored_is_pointed_at(
    workshop: Workshop, server: Endpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    run = planned(workshop, "infobench", {"model": None})
    note = "infobench stays unscored in 1 run, as no judge is named: "
    note += f"fill in `judge.model` in {workshop.folder}/study.yaml"
    assert [(p.text.partition(";")[0], p.stops) for p in problems(workshop, run)] == [(note, False)]
    do_run(run)
    assert [p.text.partition(";")[0] for p in problems(workshop, run)] == [note]  # also once it is done
    (workshop.folder / "judge.yaml").write_text("model:\n")
    planned(workshop, "infobench", "judge.yaml")
    main(["study", "plan", str(workshop.folder / "study.yaml"), "--runs", str(workshop.runs)])
    assert f"fill in `model` in {workshop.folder}/judge.yaml" in capsys.readouterr().out
    (workshop.folder / "judge.yaml").write_text("modell: j\n")
    with pytest.raises(TutelageError, match=r"judge\.yaml:1: unknown key `modell`: did you mean `model`"):
        planned(workshop, "infobench", "judge.yaml")


def test_an_included_study_takes_the_judge_of_the_one_that_includes_it(workshop: Workshop) -> None:
    planned(workshop, "infobench")
    outer = workshop.folder / "outer.yaml"
    outer.write_text(yaml.safe_dump({"name": "outer", "include": ["study.yaml"], "judge": {"model": "a"}}))
    assert [run.judge.model for _, run in plan_study(outer, workshop.runs).points if run.judge] == ["a"]
    planned(workshop, "infobench", {"model": "b"})
    assert [run.judge.model for _, run in plan_study(outer, workshop.runs).points if run.judge] == ["b"]

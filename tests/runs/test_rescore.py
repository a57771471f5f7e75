"""A benchmark run whose reading has changed is scored again from its kept replies; nothing is sampled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from recipes_fixture import ROWS, Workshop
from tiny_benchmarks import write_data
from tiny_study import without_models, write_study

from tutelage.cli.main import main
from tutelage.common.checksums import unseal
from tutelage.common.errors import TutelageError
from tutelage.evaluation import run_benchmarks
from tutelage.evaluation.benchmarks import BENCHMARKS
from tutelage.evaluation.benchmarks.base import Reply
from tutelage.evaluation.judges.comet import MODEL
from tutelage.evaluation.records import read_records
from tutelage.evaluation.replies import Evaluation, write_evaluation
from tutelage.evaluation.rescore import kept_replies, rescore
from tutelage.evaluation.run_benchmarks import Settings
from tutelage.recipe.load import load_recipe
from tutelage.runs.do_run import do_run
from tutelage.runs.fingerprints import sampling_of
from tutelage.runs.planner import Planner
from tutelage.runs.run import Run
from tutelage.runs.stages.earlier import earlier_folders
from tutelage.study.grid import plan_study
from tutelage.study.status import study_status

OLD = "01d01d00"


def planned(workshop: Workshop, *tasks: str, **arc: Any) -> list[Run]:
    file = write_study(workshop)
    study = yaml.safe_load(file.read_text())
    study["grids"][0] |= {"tasks": [*tasks], "methods": ["base"], "sizes": []}
    study["tasks"]["arc"] = {"benchmark": "arc_challenge", "chat": False} | arc
    file.write_text(yaml.safe_dump(study))
    return [run for _, run in plan_study(file, workshop.runs).points]


def with_old_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tutelage.evaluation.benchmarks.base.reading_fingerprint", lambda module: OLD)
    monkeypatch.setattr("tutelage.runs.planner.reading_fingerprint", lambda module: OLD)


@pytest.fixture
def old(workshop: Workshop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """A finished run of an earlier reading, whose replies are all "(B)" and were counted as wrong."""
    monkeypatch.setenv("TUTELAGE_DATA", str(write_data(tmp_path / "data")))
    with monkeypatch.context() as patch:
        with_old_reading(patch)
        (run,) = planned(workshop, "arc")
        do_run(run)
    file = run.folder / "benchmark/arc_challenge/responses.jsonl"
    rows = [unseal(line) | {"response": "The answer is (B)."} for line in file.read_text().splitlines()]
    (run.folder / "checksums.json").unlink()  # as in a folder from before there were checksums
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def test_a_run_of_another_reading_has_another_fingerprint_and_the_same_sampling(workshop: Workshop, old: Run) -> None:
    (new,) = planned(workshop, "arc")
    assert old.fingerprint == f"{sampling_of(new.fingerprint)}_{OLD}"
    assert new.fingerprint == f"{sampling_of(new.fingerprint)}_{BENCHMARKS['arc_challenge'].reading}"
    assert (old.done, new.done) == (True, False)


def test_a_study_that_resumes_scores_the_kept_replies(
    workshop: Workshop, old: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_models(monkeypatch)
    (new,) = planned(workshop, "arc")
    result = do_run(new)
    assert (result["metrics"]["accuracy"]["value"], result["reading"]) == (50.0, BENCHMARKS["arc_challenge"].reading)
    assert (result["model"], result["fingerprint"], result["n"]) == ("base", new.fingerprint, 2)
    assert [record.answer for record in read_records(new.folder)] == ["B", "B"]
    assert (new.folder / "benchmark/arc_challenge/responses.jsonl").is_file()
    assert old.done


@pytest.mark.slow
def test_a_tasks_own_prompt_and_group_are_those_of_the_kept_replies(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TUTELAGE_DATA", str(write_data(tmp_path / "data")))
    own = {"benchmark": "bbh", "prompt": "{prompt}\nAnswer:", "group": "snarks"}
    with monkeypatch.context() as patch:
        with_old_reading(patch)
        (run,) = planned(workshop, "arc", **own)
        before = do_run(run)
    without_models(monkeypatch)
    (new,) = planned(workshop, "arc", **own)
    result = do_run(new)
    assert (result["n"], result["group"], result["shots"]) == (before["n"], "snarks", 0)
    assert result["metrics"] == before["metrics"]
    (other,) = planned(workshop, "arc", **own | {"prompt": "{prompt}"})
    assert sampling_of(other.fingerprint) != sampling_of(new.fingerprint)


def test_the_command_makes_the_run_that_a_study_plans(
    workshop: Workshop, old: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_models(monkeypatch)
    main(["rescore", str(workshop.runs)])
    printed = capsys.readouterr().out
    assert printed.startswith(f"{old.folder.name}: arc_challenge accuracy ")
    assert printed.endswith(" → 50.00 (2 replies)\n")
    (new,) = planned(workshop, "arc")
    assert new.done
    assert [state.state for state in study_status(plan_study(workshop.folder / "study.yaml", workshop.runs))] == [
        "done"
    ]
    assert do_run(new)["metrics"]["accuracy"]["value"] == 50.0
    assert json.loads((new.folder / "config.json").read_text())["fingerprint"] == new.fingerprint
    main(["rescore", str(workshop.runs)])
    assert sorted(capsys.readouterr().out.splitlines()) == sorted(
        [
            f"{old.folder.name}: scored by today's reading in {new.folder.name}",
            f"{new.folder.name}: scored by today's reading",
        ]
    )


@pytest.mark.slow
def test_replies_of_a_group_to_a_prompt_of_its_own_are_scored_again(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data, model = write_data(tmp_path / "data"), str(workshop.models / "student")
    settings = Settings(("bbh",), model, tmp_path / "out", data, prompt="Read: {input}", group="navigate", chat=True)
    (before,) = run_benchmarks.run_benchmarks(settings)
    without_models(monkeypatch)
    after = rescore(kept_replies(tmp_path / "out" / "bbh", data)).result
    assert (after["n"], after["group"], after["prompt"], after["shots"]) == (1, "navigate", "Read: {input}", 0)
    assert after["metrics"] == before["metrics"]
    monkeypatch.setattr("tutelage.evaluation.answer_items.fill_template", lambda *_: "another text")
    with pytest.raises(TutelageError, match="1 of 1 replies are missing or were made with other prompts"):
        rescore(kept_replies(tmp_path / "out" / "bbh", data))


def test_what_cannot_be_scored_again_is_skipped_with_the_reason(
    workshop: Workshop, old: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    file = old.folder / "benchmark/arc_challenge/responses.jsonl"
    lines = file.read_text().splitlines()
    file.write_text(lines[0] + "\n")
    main(["rescore", str(workshop.runs)])
    assert "skipped: " in (printed := capsys.readouterr().out)
    assert "1 of 2 replies are missing or were made with other prompts" in printed
    other = unseal(lines[1]) | {"asked": "000000000000"}
    file.write_text(f"{lines[0]}\n{json.dumps(other)}\n")
    main(["rescore", str(workshop.runs)])
    assert "1 of 2 replies are missing or were made with other prompts" in capsys.readouterr().out
    (new,) = planned(workshop, "arc")
    assert not new.done
    assert do_run(new)["n"] == 2  # the other reply is sampled
    rows = (new.folder / "benchmark/arc_challenge/responses.jsonl").read_text().splitlines()
    assert [json.loads(row)["response"] == "The answer is (B)." for row in rows].count(True) == 1


def test_a_folder_without_replies_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["rescore", str(tmp_path)])
    assert "holds no kept replies" in capsys.readouterr().err


@pytest.mark.slow
def test_scores_of_the_evaluate_command_are_renewed_in_place(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = write_data(tmp_path / "data"), tmp_path / "scores"
    monkeypatch.setenv("TUTELAGE_DATA", str(data))
    with monkeypatch.context() as patch:
        with_old_reading(patch)
        run_benchmarks.run_benchmarks(
            Settings(
                tasks=("arc_challenge", "bbh"), model=str(workshop.models / "student"), out=out, chat=False, limit=2
            )
        )
    without_models(monkeypatch)
    before = (out / "bbh/result.json").read_text()
    main(["rescore", str(out)])
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in printed] == ["arc_challenge", "bbh"]
    assert all("→" in line for line in printed)
    assert (out / f"bbh/result-{OLD}.json").read_text() == before
    assert (out / f"bbh/examples-{OLD}.jsonl").is_file()
    now, was = json.loads((out / "bbh/result.json").read_text()), json.loads(before)
    assert now["reading"] == BENCHMARKS["bbh"].reading
    assert {key: now[key] for key in was if key != "reading"} == {key: was[key] for key in was if key != "reading"}
    assert json.loads((out / "summary.json").read_text())["results"][1] == now
    main(["rescore", str(out)])
    assert all(line.endswith("scored by today's reading") for line in capsys.readouterr().out.splitlines())


def test_scores_of_a_file_of_replies_are_renewed_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where examples have no reply, or two; another model's summary beside the folder is left alone."""
    monkeypatch.setenv("TUTELAGE_DATA", str(write_data(tmp_path / "data")))
    rows = [{"id": 11, "response": "The answer is (B).", "finished": False}, *[{"id": 12, "response": "(A)"}] * 2]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "scores" / "mine"
    with pytest.raises(SystemExit):  # for the doubled id, after all was written
        main(["evaluate", "--tasks", "mmlu_pro", "--responses", str(tmp_path / "r.jsonl"), "--out", str(out)])
    (tmp_path / "scores" / "summary.json").write_text('{"results": [{"task": "mmlu_pro"}]}')
    before = json.loads((out / "result.json").read_text())
    capsys.readouterr()
    main(["rescore", str(tmp_path / "scores")])
    assert capsys.readouterr().out == "mine: scored by today's reading\n"
    monkeypatch.setattr("tutelage.evaluation.benchmarks.base.reading_fingerprint", lambda module: OLD)
    main(["rescore", str(tmp_path / "scores")])
    assert capsys.readouterr().out == "mine: mmlu_pro accuracy 100.00 → 100.00 (1 reply)\n"
    after = json.loads((out / "result.json").read_text())
    assert before["notices"][0] == "1 of 3 examples has no reply and is left out: 10"
    assert after == before | {"reading": OLD, "cut": 1, "mean_tokens": 0.0}
    assert (out / f"result-{before['reading']}.json").is_file()
    assert json.loads((tmp_path / "scores" / "summary.json").read_text()) == {"results": [{"task": "mmlu_pro"}]}


def test_what_a_judge_and_comet_said_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tutelage.evaluation.judges.comet.comet_scores", _no_comet)
    data = write_data(tmp_path / "data")
    said = {"infobench": {"easy_1": Reply("Hi", judgements=("yes", "no"))}, "flores": {"0": Reply("Tea", comet=0.5)}}
    for task, replies in said.items():
        bench, folder = BENCHMARKS[task], tmp_path / task
        items = [item for item in bench.load(data) if item.id in replies]
        monkeypatch.setattr(type(bench), "load", lambda *_, items=items, **__: items)
        records = bench.score(items, replies)
        write_evaluation(folder, bench, Evaluation(bench.summarise(records) | {"chat": True}, records))
        rows = [{"id": id, "response": reply.text} for id, reply in replies.items()]
        (folder / "responses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        name = "drfr" if task == "infobench" else "comet"
        assert rescore(kept_replies(folder, data)).result["metrics"][name]["value"] == 50.0
        empty = "".join(json.dumps(row | {"response": " "}) + "\n" for row in rows)
        (folder / "responses.jsonl").write_text(empty)
        assert (
            rescore(kept_replies(folder, data)).result["metrics"][name]["value"] == 0.0
        )  # no answer, whatever was said


def test_scores_of_another_comet_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tutelage.evaluation.judges.comet.comet_scores", _no_comet)
    data, bench, folder = write_data(tmp_path / "data"), BENCHMARKS["flores"], tmp_path / "flores"
    items = [item for item in bench.load(data) if item.id == "0"]
    monkeypatch.setattr(type(bench), "load", lambda *_, **__: items)
    records = bench.score(items, {"0": Reply("Tea", comet=0.5)})
    (tmp_path / "flores").mkdir()
    (folder / "responses.jsonl").write_text(json.dumps({"id": "0", "response": "Tea"}) + "\n")
    for model, kept in ((MODEL, True), ("some/older-comet", False)):
        result = bench.summarise(records) | {"chat": True, "comet": model}
        write_evaluation(folder, bench, Evaluation(result, records))
        found = rescore(kept_replies(folder, data)).result
        assert (found["comet"] == MODEL, "comet" in found["metrics"]) == (kept, kept)


def _no_comet(*_: Any) -> list[float]:
    raise TutelageError("COMET is not set up")


def test_answers_to_a_recipes_task_are_scored_again(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        with_old_reading(patch)
        (run,) = planned(workshop, "test")
        before = do_run(run)
    without_models(monkeypatch)
    (new,) = planned(workshop, "test")
    assert new.folder != run.folder
    result = do_run(new)
    assert result["metrics"] == before["metrics"]
    assert read_records(new.folder) == read_records(run.folder)


def test_another_metric_of_a_recipes_task_samples_nothing(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kept answers are scored by the metrics of today's task; other sampling settings need other answers."""

    def run_with(**changes: Any) -> Run:
        file = workshop.write(**{f"tasks__test__{key}": value for key, value in changes.items()})
        return Planner(load_recipe(file), workshop.folder, workshop.runs).evaluation("base", "test", 0)

    before = run_with(metrics=["rouge_l"])
    do_run(before)
    without_models(monkeypatch)
    again = run_with(metrics=["chrf", "rouge_l", "exact_match"], headline="exact_match")
    result = do_run(again)
    assert (list(result["metrics"]), result["headline"]) == (["chrf", "rouge_l", "exact_match"], "exact_match")
    old, new = read_records(before.folder), read_records(again.folder)
    assert [one.response for one in old] == [one.response for one in new]
    assert [one.scores["rouge_l"] for one in old] == [one.scores["rouge_l"] for one in new]
    longer = {"temperature": 0.0, "max_new_tokens": 7}
    assert run_with(metrics=["chrf"], sampling=longer).also == ()
    assert run_with(metrics=["rouge_l"]).done
    workshop.rows("test", ROWS[1:4])
    assert earlier_folders(run_with(metrics=["chrf"])) == []  # other rows


@pytest.mark.usefixtures("undrawn")
def test_answers_to_a_recipes_task_are_scored_again_and_the_report_says_that_they_are_to_be(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = workshop.write(stages=[{"name": "scores", "kind": "evaluate", "models": ["base"], "tasks": ["test"]}])
    with monkeypatch.context() as patch:
        with_old_reading(patch)
        assert main(["run", str(recipe), "--runs", str(workshop.runs)]) in (None, 0)
    (old,) = workshop.runs.glob("base-on-test-s0-*")
    (old / "checksums.json").unlink(missing_ok=True)
    rows = [unseal(line) for line in (old / "examples.jsonl").read_text().splitlines()]
    answers = [row | {"response": row["references"][0], "scores": {"rouge_l": 0.0}} for row in rows]
    (old / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    report = ["report", str(recipe), "--runs", str(workshop.runs), "--out", str(workshop.folder / "report")]
    main(report)
    assert (
        f"1 evaluations are scored by an earlier reading, and count as missing: `tutelage rescore {workshop.runs}`"
        in (capsys.readouterr().out)
    )
    without_models(monkeypatch)
    main(["rescore", str(workshop.runs)])
    assert "test rouge_l" in capsys.readouterr().out
    main(report)
    out = capsys.readouterr().out
    assert "earlier reading" not in out
    assert "100.0" in out
    main(["rescore", str(workshop.runs)])
    assert capsys.readouterr().out.count("scored by today's reading") == 2  # the old folder stays

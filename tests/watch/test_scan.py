"""What a folder of runs holds: states, time left, new points only, half-written files, links to elsewhere."""

from __future__ import annotations

import json
import math
import os
import platform
import time
from pathlib import Path
from typing import Any

import pytest
import watched

from tutelage.common.planned import announce, planned, withdraw
from tutelage.watch import scan
from tutelage.watch.scan import CURVES, MOST_POINTS, MOST_SAMPLES, RunsView, parse_have


@pytest.fixture(autouse=True)
def _always_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "FRESH_SECONDS", -1.0)


def runs_of(view: RunsView) -> dict[str, dict[str, Any]]:
    return {run["name"]: run for run in view.news({})["runs"]}


def test_what_nobody_would_write_stops_no_page(tmp_path: Path) -> None:
    odd = (math.nan, math.inf, [1], {"a": 1}, None)
    for place, value in enumerate(odd):
        folder = watched.begin(tmp_path, f"run{place}", stage=value, seed=value, training={"max_steps": "x"})
        watched.steps(folder, 1, 3, seconds=1e308)
    for training in ([], {"epochs": [2]}, {"max_steps": math.inf}, "x"):
        watched.steps(watched.begin(tmp_path, f"trained {training}", training=training), 1, 2)
    rows = [
        {"folder": f"next{place}", "stage": value, "parents": value} for place, value in enumerate((*odd, [[1]], 3))
    ]
    announce(tmp_path, rows)
    found = RunsView(tmp_path).news({})
    withdraw(tmp_path)
    json.dumps(found, allow_nan=False)  # as the page gets it
    assert len(found["runs"]) == 2 * len(odd) + 4 + 2
    assert all(run["state"] in ("running", "queued") for run in found["runs"])


def test_every_state_with_its_numbers(tmp_path: Path) -> None:
    watched.steps(watched.begin(tmp_path, "gkd"), 1, 6)
    watched.finish(watched.begin(tmp_path, "sft"))
    metrics = {"rouge_l": {"value": 27.5, "stderr": 0.5}}
    watched.finish(watched.begin(tmp_path, "sft-on-test"), headline="rouge_l", metrics=metrics)
    perfect = {"rouge_l": {"value": 100.0, "stderr": 0.0}}
    watched.finish(watched.begin(tmp_path, "best-on-test"), headline="rouge_l", metrics=perfect)
    (watched.begin(tmp_path, "bad", running=False) / "error.txt").write_text("first\nbad: no rows\n")
    watched.begin(tmp_path, "killed", running=False)
    (tmp_path / "mine-report").mkdir()
    (tmp_path / "mine-report" / "report.html").write_text("<p>report")
    rows = [
        {"folder": name, "stage": name, "kind": "evaluate", "seed": 1, "parents": parents}
        for name, parents in (("gkd", []), ("sft", []), ("next", ["gkd"]), ("never", ["bad"]), ("nor", ["never"]))
    ]
    announce(tmp_path, rows)
    view = RunsView(tmp_path)
    runs = runs_of(view)
    assert {name: run["state"] for name, run in runs.items()} == {
        **{
            "gkd": "running",
            "sft": "done",
            "sft-on-test": "done",
            "best-on-test": "done",
            "bad": "failed",
            "killed": "stopped",
        },
        **{"next": "queued", "never": "blocked", "nor": "blocked"},
    }
    gkd = runs["gkd"]
    assert (gkd["step"], gkd["steps"], gkd["eta"]) == (6, 20, 14 * 3.0)
    assert runs["bad"]["reason"] == "bad: no rows"
    assert runs["never"]["reason"] == "builds on a run that failed: bad"
    assert (runs["next"]["stage"], runs["next"]["seed"]) == ("next", 1)
    assert runs["sft"]["seconds"] == 75.0
    assert runs["sft-on-test"]["score"] == {"metric": "rouge_l", "value": 27.5, "stderr": 0.5}
    assert runs["best-on-test"]["score"] == {"metric": "rouge_l", "value": 100.0, "stderr": None}
    assert [report["name"] for report in view.news({})["reports"]] == ["mine-report"]
    withdraw(tmp_path)
    assert "next" not in runs_of(view)


def test_runs_of_one_stage_are_told_apart_by_their_time(tmp_path: Path) -> None:
    folders = [watched.begin(tmp_path, name, stage="gkd on test") for name in ("gkd-1", "gkd-2", "gkd-3")]
    other = watched.begin(tmp_path, "sft", stage="sft")
    for folder in (*folders[:2], other):
        watched.finish(folder)
    for number, folder in enumerate(folders):
        for file in ("result.json", "config.json"):
            if (folder / file).exists():
                os.utime(folder / file, (1.7e9 + number, 1.7e9 + number))
    found = {name: run.get("when") for name, run in runs_of(RunsView(tmp_path)).items()}
    assert found == {"gkd-1": 1.7e9, "gkd-2": 1.7e9 + 1, "gkd-3": 1.7e9 + 2, "sft": None}


def test_only_living_processes_announce(tmp_path: Path) -> None:
    announce(tmp_path / "nowhere", [{"folder": "a"}])  # makes no folder
    assert not (tmp_path / "nowhere").exists()
    left = tmp_path / ".planned-here-1"
    left.write_text(f"{2**22 - 1} 0 {platform.node()}\n[]\n")  # of a process that was killed
    announce(tmp_path, [{"folder": "a", "parents": []}])
    assert not left.exists()
    (file,) = tmp_path.glob(".planned-*")
    assert [row["folder"] for row in planned(tmp_path)] == ["a"]
    mark, _, rows = file.read_text().partition("\n")
    file.write_text(f"{os.getpid()} 1 {platform.node()}\n{rows}")  # another process had the id
    assert planned(tmp_path) == []
    for broken in ("", mark, f"{mark}\n[", f"{mark}\n[1, {{}}]", f"{mark}\n" + "[" * 100_000):
        file.write_text(broken)
        assert planned(tmp_path) == []


def test_a_page_gets_only_what_it_lacks(tmp_path: Path) -> None:
    folder, view = watched.begin(tmp_path, "gkd"), RunsView(tmp_path)
    assert view.news({"gkd": (0, 0)})["curves"]["gkd"] == {"begun": 0, "first": 0, "known": 0, "samples": []}
    watched.steps(folder, 1, 3)
    watched.sample(folder, 3, "p", "a")
    first = view.news({"gkd": (0, 0)})["curves"]["gkd"]
    assert (first["step"], first["first"], first["known"], first["begun"]) == ([1, 2, 3], 0, 3, 1)
    assert first["loss"] == [4.0, 2.0, 4.0 / 3]
    assert first["validation_loss"] == [None] * 3
    assert first["samples"] == [{"step": 3, "prompt": "p", "answer": "a", "cut": False}]
    assert view.news({"gkd": (1, 3)})["curves"]["gkd"] == {"begun": 1, "first": 3, "known": 3}
    watched.steps(folder, 4, 4)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')  # half a line
    assert view.news({"gkd": (1, 3)})["curves"]["gkd"]["step"] == [4]
    watched.replace_metrics(folder, 2)  # resumed from the checkpoint after step 2
    watched.steps(folder, 3, 3)
    again = view.news({"gkd": (1, 4)})["curves"]["gkd"]
    assert (again["step"], again["first"], again["begun"]) == ([1, 2, 3], 0, 2)
    assert view.news({"nowhere": (0, 0), "../gkd": (0, 0)})["curves"] == {}


def test_long_runs_are_thinned_and_end_with_their_last_point(tmp_path: Path) -> None:
    folder = watched.begin(tmp_path, "gkd")
    watched.steps(folder, 1, 2 * MOST_POINTS + 1)
    for step in range(20):
        watched.sample(folder, step, "p", str(step))
    news = RunsView(tmp_path).news({"gkd": (0, 0)})["curves"]["gkd"]
    assert news["known"] == 2 * MOST_POINTS + 1
    assert len(news["step"]) <= MOST_POINTS
    assert news["step"][-1] == 2 * MOST_POINTS + 1
    assert [sample["answer"] for sample in news["samples"]] == [str(step) for step in range(20 - MOST_SAMPLES, 20)]


@pytest.mark.parametrize(
    "content", ["", "{", "[1]", "null", "[" * 100_000, '{"stage": {"a": 1}, "training": 3}', "\udcff"]
)
def test_half_written_and_damaged_files_are_nothing_yet(tmp_path: Path, content: str) -> None:
    for name in ("config.json", "metrics.jsonl", "samples.jsonl", "result.json", "error.txt"):
        folder = watched.begin(tmp_path, name.replace(".", "-"), running=name in ("metrics.jsonl", "samples.jsonl"))
        (folder / name).write_bytes(content.encode("utf-8", "surrogateescape") + b"\n")
    view = RunsView(tmp_path)
    news = view.news(dict.fromkeys(runs_of(view), (0, 0)))
    json.dumps(news, allow_nan=False)
    assert len(news["runs"]) == 5


def test_damaged_lines_are_left_out_and_counted_and_what_is_no_number_is_none(tmp_path: Path) -> None:
    folder = watched.begin(tmp_path, "gkd")
    watched.steps(folder, 1, 2)
    text = (folder / "metrics.jsonl").read_text().replace('"step": 1', '"step": 9')
    (folder / "metrics.jsonl").write_text(
        text + '{"step": 3, "loss": NaN, "learning_rate": "x", "tokens_per_s": true}\n'
    )
    view = RunsView(tmp_path)
    news = view.news({"gkd": (0, 0)})["curves"]["gkd"]
    assert news["step"] == [2, 3]
    assert [news[name][1] for name in CURVES] == [None] * len(CURVES)
    assert runs_of(view)["gkd"]["damaged"] == 1


def test_links_that_lead_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    watched.steps(watched.begin(secret, "other", running=False), 1, 2)
    (secret / "words").write_text("secret words\n")
    (secret / "other" / "report.html").write_text("secret page")
    root = tmp_path / "runs"
    folder = watched.begin(root, "gkd", running=False)
    (root / "other").symlink_to(secret / "other")
    (folder / "error.txt").symlink_to(secret / "words")
    (folder / "metrics.jsonl").symlink_to(secret / "other" / "metrics.jsonl")
    (folder / "report.html").symlink_to(secret / "other" / "report.html")
    view = RunsView(root)
    news = view.news({"gkd": (0, 0), "other": (0, 0)})
    assert "secret" not in json.dumps(news)
    assert news["curves"]["gkd"]["known"] == 0
    assert list(news["curves"]) == ["gkd"]
    assert view.report_file("gkd", "report.html") is None


@pytest.mark.slow
def test_two_hundred_runs_are_looked_at_quickly(tmp_path: Path) -> None:
    for i in range(200):
        folder = watched.begin(tmp_path, f"run-{i}")
        watched.steps(folder, 1, 20)
        if i > 3:
            watched.finish(folder)
    view = RunsView(tmp_path)
    view.news({})
    began = time.process_time()
    for _ in range(5):
        news = view.news({f"run-{i}": (1, 20) for i in range(4)})
    assert (time.process_time() - began) / 5 < 0.2  # of the two seconds between questions; about 0.01 when quiet
    assert len(json.dumps(news)) < 60_000


@pytest.mark.parametrize("content", [None, [], "x", {"a": 1}, {"a": [1]}, {"a": [1, True]}, {"a": [1, 2.5]}])
def test_what_is_no_question_is_refused(content: Any) -> None:
    with pytest.raises(ValueError, match="no "):
        parse_have(content)
    assert parse_have({"a": [1, 2]}) == {"a": (1, 2)}

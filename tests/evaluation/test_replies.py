"""Scoring replies made elsewhere, by the functions and by the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_benchmarks import write_data

import tutelage
from tutelage.cli.main import main
from tutelage.common.errors import TutelageError
from tutelage.evaluation.benchmarks.gpqa import unseal
from tutelage.evaluation.judges.endpoint import JudgeEndpoint
from tutelage.evaluation.records import read_records, read_result
from tutelage.evaluation.replies import problem, score_file


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data")


def write(file: Path, *rows: Any) -> Path:
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return file


def reply(id: str | int, text: str = "x", **more: Any) -> dict[str, Any]:
    return {"id": id, "response": text, **more}


def test_missing_unknown_and_doubled_ids_are_named(data: Path, tmp_path: Path) -> None:
    file = write(
        tmp_path / "r.jsonl",
        reply(11, "The answer is (B)."),
        reply("12", "The answer is (A)."),
        reply("12", "The answer is (B)."),
        reply("99"),
    )
    result = score_file("mmlu_pro", file, data).result
    assert (result["n"], result["missing"], result["unknown"], result["doubled"]) == (1, ["10"], ["99"], ["12"])
    assert result["metrics"]["accuracy"] == {"value": 100.0, "stderr": None, "stderr_tasks": None}
    assert result["notices"][0] == "1 of 3 examples has no reply and is left out: 10"
    assert problem(result) == (
        "1 id is not in this benchmark: 99; 1 id has more than one reply, of which none is scored: 12"
    )


def test_a_full_file_has_no_notices(data: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "r.jsonl", *(reply(id, "The answer is (B).") for id in (10, 11, 12)))
    result = score_file("mmlu_pro", file, data).result
    assert (result["n"], result["missing"], problem(result)) == (3, [], None)
    assert result["notices"] == []  # three of three are better than guessing


def test_with_a_limit_other_replies_are_passed_over(data: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "r.jsonl", *(reply(id, "The answer is (B).") for id in (10, 11, 12)))
    result = score_file("mmlu_pro", file, data, limit=2).result
    assert (result["n"], result["missing"], result["unknown"]) == (2, [], [])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"r.jsonl:2: not valid JSON"),
        ('"x"', r"r.jsonl:2: has no `id`"),
        ('{"response": "x"}', r"r.jsonl:2: has no `id`"),
        ('{"id": true, "response": "x"}', r"r.jsonl:2: has no `id`"),
        ('{"id": 11}', r"r.jsonl:2: `response` of `11` is not a text"),
        ('{"id": 11, "response": null}', r"r.jsonl:2: `response` of `11` is not a text"),
        ('{"id": 11, "response": 3}', r"r.jsonl:2: `response` of `11` is not a text"),
        ('{"id": ' + "9" * 5000 + "}", r"r.jsonl:2: not valid JSON"),
        ("[" * 100_000, r"r.jsonl:2: not valid JSON"),
    ],
)
def test_rows_that_are_no_replies_are_named(data: Path, tmp_path: Path, line: str, message: str) -> None:
    file = write(tmp_path / "r.jsonl", reply(10), line)
    with pytest.raises(TutelageError, match=message) as raised:
        score_file("mmlu_pro", file, data)
    assert "\n" not in str(raised.value)


def test_other_keys_of_a_row_do_no_harm(data: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "r.jsonl", reply(10, "The answer is (B).", tokens=[1, 2], shots="5", likelihoods="none"))
    result = score_file("mmlu_pro", file, data).result
    assert (result["n"], result["metrics"]["accuracy"]["value"]) == (1, 100.0)


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        ("arc_challenge", reply("Q_1", likelihoods=["a"]), r"r\.jsonl:1: `likelihoods` is not a list of numbers"),
        ("arc_challenge", reply("Q_1", likelihoods=[-1.0]), "`Q_1` has 4 options but 1 likelihoods"),
        ("gpqa", reply("rec1", "sealed:%%%"), r"r\.jsonl:1: `response` of `rec1`: .* cannot be opened"),
    ],
)
def test_evidence_that_cannot_be_read_is_named(
    data: Path, tmp_path: Path, task: str, row: dict[str, Any], message: str
) -> None:
    with pytest.raises(TutelageError, match=message) as raised:
        score_file(task, write(tmp_path / "r.jsonl", row), data)
    assert "\n" not in str(raised.value)


def test_a_lone_surrogate_can_be_reported(data: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "r.jsonl", reply("z\ud83d"), reply(10, "B \ud83d"))
    result = score_file("mmlu_pro", file, data).result
    assert result["unknown"] == ["z\\ud83d"]
    assert json.dumps(result, ensure_ascii=False).encode("utf-8")


def test_files_that_are_absent_or_empty(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TutelageError, match=r"nowhere\.jsonl does not exist"):
        score_file("mmlu_pro", tmp_path / "nowhere.jsonl", data)
    with pytest.raises(TutelageError, match="is a folder; give a JSON Lines file"):
        score_file("mmlu_pro", tmp_path, data)
    with pytest.raises(TutelageError, match="holds no reply"):
        score_file("mmlu_pro", write(tmp_path / "r.jsonl"), data)
    with pytest.raises(TutelageError, match=r"--data-dir: .*no_data is not a folder"):
        score_file("mmlu_pro", write(tmp_path / "r.jsonl", reply(10)), tmp_path / "no_data")


def test_infobench_takes_judgements(data: Path, tmp_path: Path) -> None:
    file = write(
        tmp_path / "r.jsonl",
        {"id": "easy_1", "judgements": ["Yes", "no."]},
        {"id": "hard_1", "response": "3", "judgements": ["yes", None, "maybe"]},
    )
    result = score_file("infobench", file, data).result
    assert (result["n"], result["questions"], result["unscored"]) == (2, 5, 2)
    assert result["metrics"]["drfr"]["value"] == pytest.approx(200 / 3)
    assert result["metrics"]["drfr_hard"]["value"] == pytest.approx(100.0)
    with pytest.raises(TutelageError, match=r"r\.jsonl:1: `judgements` is not a list"):
        score_file("infobench", write(tmp_path / "r.jsonl", {"id": "easy_1", "judgements": "yes"}), data)
    with pytest.raises(TutelageError, match="`easy_1` has 2 questions but 0 judgements"):
        score_file("infobench", write(tmp_path / "r.jsonl", {"id": "easy_1", "judgements": []}), data)


def test_infobench_without_judgements_says_how_to_get_them(data: Path, tmp_path: Path) -> None:
    result = score_file("infobench", write(tmp_path / "r.jsonl", reply("easy_1")), data).result
    assert result["notices"][0].startswith("infobench: 1 replies are not judged, so they are unscored: name a judge (")
    assert (result["judge"], result["metrics"]["drfr"]["value"]) == (None, None)


def test_infobench_asks_the_judge(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tutelage.evaluation.judges import judge

    asked = []

    def answer(endpoint: Any, items: Any) -> list[list[str | None]]:
        asked.extend(items)
        return [["yes"] * len(item.questions) for item in items]

    monkeypatch.setattr(judge, "judge_questions", answer)
    endpoint = JudgeEndpoint(url="http://localhost:1", model="m")
    file = write(tmp_path / "r.jsonl", reply("easy_1", "Hello"), {"id": "hard_1", "judgements": ["no", "no", "no"]})
    result = score_file("infobench", file, data, judge=endpoint).result
    assert [(item.id, item.response, tuple(item.questions)) for item in asked] == [
        ("easy_1", "Hello", ("Is it a greeting?", "Is it short?"))
    ]
    assert result["metrics"]["drfr"]["value"] == pytest.approx(40.0)
    assert "judged by m" in result["notices"][0]


def test_flores_says_why_there_is_no_comet(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tutelage.evaluation.judges import comet

    def absent(*_: Any, **__: Any) -> list[float]:
        raise TutelageError("COMET is not set up: run `tutelage setup comet`")

    monkeypatch.setattr(comet, "comet_scores", absent)
    file = write(tmp_path / "r.jsonl", *(reply(k, "Tea grows here.") for k in range(3)))
    result = score_file("flores", file, data).result
    assert list(result["metrics"]) == ["chrf"]
    assert result["notices"] == ["flores: no COMET: COMET is not set up: run `tutelage setup comet`"]
    monkeypatch.setattr(comet, "comet_scores", lambda sources, texts, references: [0.5, 0.75, float("nan")])
    metrics = score_file("flores", file, data).result["metrics"]
    assert metrics["comet"]["value"] == pytest.approx(62.5)
    assert metrics["chrf"]["value"] > 0


def test_guessing_is_reported(data: Path, tmp_path: Path) -> None:
    file = write(
        tmp_path / "r.jsonl", *(reply(id, f"The answer is ({letter}).") for id, letter in [(10, "B"), (12, "A")])
    )
    result = score_file("mmlu_pro", file, data).result
    assert result["chance"] == pytest.approx(100 * (1 / 3 + 1 / 2) / 2)
    assert result["notices"][-1].startswith(
        "mmlu_pro (accuracy) is at chance level: 50.00 with 2 examples, where guessing gives 41.67"
    )


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command_prints_one_object_and_writes_evidence(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "r.jsonl", reply("test_0", "They greet."), reply("test_1", "They have tea."))
    out = tmp_path / "out"
    main(
        [
            "evaluate",
            "--tasks",
            "dialogsum",
            "--responses",
            str(file),
            "--data-dir",
            str(data),
            "--json",
            "--out",
            str(out),
        ]
    )
    result = json.loads(capsys.readouterr().out)
    assert {"task", "n", "unscored", "metrics", "groups"} <= set(result)
    assert (result["task"], result["n"], result["unscored"]) == ("dialogsum", 2, 0)
    assert set(result["metrics"]) == {"rouge_l", "rouge_l_best"}
    assert result["metrics"]["rouge_l_best"] == {"value": 100.0, "stderr": 0.0}
    assert read_result(out) == result
    assert "They greet." in (out / "examples.html").read_text()
    records = read_records(out)
    assert [(record.id, record.response, record.scores["rouge_l_best"]) for record in records] == [
        ("test_0", "They greet.", 1.0),
        ("test_1", "They have tea.", 1.0),
    ]


def test_the_command_ends_with_1_for_unknown_ids_but_prints(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "r.jsonl", reply("test_0", "They greet."), reply("test_7"))
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "--tasks", "dialogsum", "--responses", str(file), "--data-dir", str(data), "--json"])
    printed = capsys.readouterr()
    assert stopped.value.code == 1
    assert json.loads(printed.out)["unknown"] == ["test_7"]
    last = printed.err.splitlines()[-1]
    assert last.startswith(f"tutelage: {file}: 1 id is not in this benchmark: test_7; correct the file")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--responses", "r.jsonl"], "--responses needs one name in --tasks"),
        (["--responses", "r.jsonl", "--tasks", "bbh,gpqa"], "--responses needs one name in --tasks"),
        (
            ["--responses", "r.jsonl", "--tasks", "bbh", "--model", "m"],
            "--responses needs one name in --tasks, and neither",
        ),
        (["--responses", "r.jsonl", "--tasks", "rhymes"], "no benchmark is called `rhymes`"),
        (["--tasks", "bbh"], "give --model and --tasks"),
        (["--model", "m"], "give --model and --tasks"),
        (["--tasks", "infobench", "--responses", "r", "--judge-url", "u"], "--judge-url and --judge-model go together"),
    ],
)
def test_options_that_do_not_go_together(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", *arguments])
    assert stopped.value.code == 1
    assert message in capsys.readouterr().err


def test_a_file_in_the_place_of_the_folder_is_one_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "r.jsonl", reply("test_0", "They greet."))
    options = ["--responses", str(file), "--data-dir", str(data), "--out", str(file)]
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "--tasks", "dialogsum", *options])
    assert stopped.value.code == 1
    assert f"tutelage: {file} cannot be written: {file} is a file" in capsys.readouterr().err


def test_gpqa_leaves_no_text_on_disk(data: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "r.jsonl", reply("rec1", "Which one is rec1? The answer is right rec1."))
    out = tmp_path / "out"
    main(["evaluate", "--tasks", "gpqa", "--responses", str(file), "--data-dir", str(data), "--out", str(out)])
    assert not any(b"Which one" in path.read_bytes() for path in out.rglob("*") if path.is_file())
    assert "rec1" in (out / "examples.html").read_text()
    record = read_records(out)[0]
    assert unseal(record.response).startswith("Which one is rec1?")
    assert record.scores["accuracy"] == 1  # the option's text names its letter


@pytest.mark.slow
def test_no_model_is_loaded(data: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "r.jsonl", {"id": "easy_1", "judgements": ["yes", "yes"]})
    options = ["--data-dir", str(data), "--json"]
    code = (
        "import sys\nfrom tutelage.cli import main\nmain(sys.argv[1:])\n"
        "heavy = ('transformers', 'tutelage.models.load', 'matplotlib', 'tutelage.sampling.sampler')\n"
        "print(*[m for m in heavy if m in sys.modules])"
    )
    source = Path(tutelage.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code, "evaluate", "--tasks", "infobench", "--responses", str(file), *options],
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=True,
    )
    printed, heavy = done.stdout.splitlines()
    assert json.loads(printed)["metrics"]["drfr"]["value"] == 100.0
    assert heavy == ""

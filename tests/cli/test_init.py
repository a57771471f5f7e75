"""`tutelage init`: forms of files, the recipe that is written, misuse in one line, and a written recipe that runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from question_tables import PAIRS, Typed, lines, table
from recipes_fixture import save_tiny

from tutelage.cli.init import _pairs
from tutelage.cli.main import main
from tutelage.data.dataset import load_dataset
from tutelage.recipe import load_recipe
from tutelage.runs.cost.cpu import Pace
from tutelage.runs.planner import Planner
from tutelage.runs.preflight import find_problems
from tutelage.runs.run import with_parents


def planned(config: Any, folder: Path) -> list[Any]:
    """The recipe's runs; what keeps them from starting is a failure of the test."""
    planner = Planner(config, folder, folder / "runs", auto_device="cpu")
    runs = with_parents([planner.evaluation(model, "test", 0) for model in config.stages[-1].models])
    assert [problem.text for problem in find_problems(runs, folder / "runs") if problem.stops] == []
    return runs


@pytest.mark.slow
def test_a_csv_becomes_a_recipe_with_disjoint_slices(
    here: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table(tmp_path / "desk.csv")
    config = here("desk.csv")
    rows = {
        name: {row.id for row in load_dataset(name, config.data[name], tmp_path).conversations} for name in config.data
    }
    assert {name: len(found) for name, found in rows.items()} == {"train": 42, "dev": 6, "test": 12}
    assert len(rows["train"] | rows["dev"] | rows["test"]) == 60
    assert config.data["train"].prompt == "{question}"
    assert config.tasks["test"].metrics == ["exact_match", "rouge_l"]
    assert [stage.name for stage in config.stages] == ["teacher_sft", "sft", "sft_again", "gkd", "scores"]
    assert len(planned(config, tmp_path)) == 8
    said = capsys.readouterr().out
    for words in ("60 rows", "vocabularies: equal", "reads 512 tokens", "1 minute here", "tutelage run mine.yaml"):
        assert words in said
    *_, wrote, inspect, run = said.splitlines()  # nothing long between what was seen and what to do
    assert wrote.startswith("Wrote mine.yaml: about ")
    assert "data inspect" in inspect
    assert "tutelage run" in run
    assert len(said.splitlines()) <= 20
    begins = said.splitlines().index("what will run, and for how long here:") + 1
    stages = said.splitlines()[begins : begins + 5]
    assert [line.split()[0] for line in stages] == [stage.name for stage in config.stages]
    assert all(re.search(r" (a few seconds|\d+ s)  +\w+ \w+", line) for line in stages)
    assert 15 <= (tmp_path / "mine.yaml").read_text().count("\n") <= 25


@pytest.mark.slow
def test_times_are_those_of_quiet_cores_whatever_else_runs(
    here: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table(tmp_path / "desk.csv")
    said: list[list[str]] = []
    for busy in (1.0, 9.0):
        monkeypatch.setattr("tutelage.start.estimate.measured_pace", lambda busy=busy: Pace(1e6, busy))
        here("desk.csv", "--force")
        lines = capsys.readouterr().out.splitlines()
        begins = next(place for place, line in enumerate(lines) if line.startswith("what will run"))
        said.append([*lines[begins : begins + 6], next(line for line in lines if line.startswith("Wrote"))])
    quiet, beside = said
    assert quiet[1:6] == beside[1:6]
    assert (quiet[0], beside[0]) == tuple(f"what will run, and for how long here{w}:" for w in ("", " on quiet cores"))
    wrote = re.escape(quiet[6].partition(" here")[0])
    now = r"[\d.]+ (minutes|hours) while other programs keep them as busy as now"
    assert re.match(rf"{wrote} here on quiet cores \({now}\), ", beside[6])


def write_sharegpt(folder: Path) -> str:
    turns = [[{"from": "human", "value": q}, {"from": "gpt", "value": a}] for q, a in PAIRS]
    lines(folder / "chats.jsonl", [{"conversations": one} for one in turns])
    return "chats.jsonl"


def write_parquet(folder: Path) -> str:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    columns = {"article": [q for q, _ in PAIRS], "highlights": [a for _, a in PAIRS], "n": list(range(60))}
    parquet.write_table(pa.table(columns), folder / "news.parquet")
    return "news.parquet"


def write_folder(folder: Path) -> str:
    (folder / "set").mkdir()
    for name, part in (("train", PAIRS[:40]), ("validation", PAIRS[40:50]), ("test", PAIRS[50:])):
        lines(folder / "set" / f"{name}.jsonl", [{"prompt": q, "completion": a} for q, a in part])
    return "set"


def write_turns_inside(folder: Path) -> str:
    turns = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in PAIRS]
    lines(folder / "pairs.jsonl", [{"chosen": one, "score": 1} for one in turns])
    return "pairs.jsonl"


def write_alpaca(folder: Path) -> str:
    lines(
        folder / "a.jsonl", [{"instruction": q, "input": "x" * (i % 2), "output": a} for i, (q, a) in enumerate(PAIRS)]
    )
    return "a.jsonl"


@pytest.mark.parametrize("write", [write_sharegpt, write_parquet, write_folder, write_turns_inside, write_alpaca])
@pytest.mark.slow
def test_other_forms_are_planned_as_they_stand(
    here: Callable[..., Any], tmp_path: Path, write: Callable[[Path], str]
) -> None:
    config = here(write(tmp_path))
    assert len(planned(config, tmp_path)) == 8
    sizes = [len(load_dataset(name, config.data[name], tmp_path).conversations) for name in ("train", "dev", "test")]
    assert sizes == ([40, 10, 10] if write is write_folder else [42, 6, 12])
    (first, *_) = load_dataset("test", config.data["test"], tmp_path).conversations
    assert first.prompt[-1].content.startswith("Where is room")
    assert first.targets[0].startswith("Room")


def write_binary(folder: Path) -> None:
    (folder / "x.csv").write_bytes(bytes(range(256)) * 9)


def write_mixed(folder: Path) -> None:
    lines(folder / "x.jsonl", [{"prompt": q, "completion": a} if i % 2 else {"q": q} for i, (q, a) in enumerate(PAIRS)])


MISUSE: dict[str, tuple[Callable[[Path], Any], list[str], str]] = {
    "missing file": (lambda folder: None, ["x.csv"], "no file `x.csv` here: give the path"),
    "no file": (lambda folder: None, [], "no data: name your file"),
    "empty file": (lambda folder: (folder / "x.csv").write_text(""), ["x.csv"], "x.csv: the file has no rows"),
    "only a header": (lambda folder: table(folder / "x.csv", rows=[]), ["x.csv"], "x.csv: the file has no rows"),
    "one column": (
        lambda folder: table(folder / "x.csv", ("a",), [["b"]] * 30),
        ["x.csv"],
        "it has one with text (`a`)",
    ),
    "semicolons in some rows": (
        lambda folder: table(folder / "x.csv", ("a;b",), [["c;d"], ["c"], ["d"]] * 30),
        ["x.csv"],
        "x.csv: its first line (`a;b`) and its rows do not agree on what separates the columns: save it with commas",
    ),
    "no header": (
        lambda folder: table(folder / "x.csv", ("Q" * 70, "b")),
        ["x.csv"],
        "looks like a row and not like names of columns (`QQQ",
    ),
    "no header, and columns": (
        lambda folder: table(folder / "x.csv", PAIRS[0]),
        ["x.csv", "--prompt", "question", "--completion", "answer"],
        "the first line looks like a row: put the columns' names above it",
    ),
    "no questions": (
        lambda folder: table(folder / "x.csv", rows=[["", a] for _, a in PAIRS]),
        ["x.csv"],
        "and only `answer` does. Give --prompt and --completion (columns: answer, question (empty))",
    ),
    "texts": (lambda folder: lines(folder / "x.jsonl", ["a", "b"]), ["x.jsonl"], "(x.jsonl:1 is a text, and no object"),
    "a table called JSON": (
        lambda folder: table(folder / "x.jsonl"),
        ["x.jsonl"],
        "column 1 (char 0)); is it a table? Then call it .csv",
    ),
    "one row": (lambda folder: table(folder / "x.csv", rows=PAIRS[:1]), ["x.csv"], "1 usable row is too few"),
    "an empty folder": (lambda folder: (folder / "x").mkdir(), ["x"], "the folder `x` has no data file (.json, "),
    "three rows": (lambda folder: table(folder / "x.csv", rows=PAIRS[:3]), ["x.csv"], "3 usable rows are too few"),
    "binary": (write_binary, ["x.csv"], "is not UTF-8"),
    "binary lines": (
        lambda f: (f / "x.jsonl").write_bytes(b"\xff\x00\n" * 9),
        ["x.jsonl"],
        "no row can be read (not UTF-8",
    ),
    "mixed forms": (
        write_mixed,
        ["x.jsonl"],
        "x.jsonl:1, x.jsonl:3, x.jsonl:5 and 27 more: neither",
    ),
    "unknown columns": (
        lambda folder: table(
            folder / "x.csv", ("a", "b", "c"), [[*pair, f"d {n % 2}"] for n, pair in enumerate(PAIRS)]
        ),
        ["x.csv"],
        "which column is the question and which the answer? Give --prompt and --completion (columns: a, b, c); "
        "a guess: --prompt a --completion b",
    ),
    "wrong column": (
        lambda folder: table(folder / "x.csv"),
        ["x.csv", "--prompt", "questoin", "--completion", "answer"],
        "no column `questoin`, did you mean `question`?",
    ),
    "half": (lambda folder: table(folder / "x.csv"), ["x.csv", "--prompt", "question"], "go together: give both"),
    "other format": (lambda folder: (folder / "x.xlsx").write_text("x"), ["x.xlsx"], "the formats are .json"),
    "other format, and a recipe there": (
        lambda folder: [(folder / name).touch() for name in ("x.xlsx", "mine.yaml")],
        ["x.xlsx"],
        "x.xlsx; the formats are .json",
    ),
    "a name": (lambda folder: table(folder / "x.csv"), ["x.csv", "--name", "a b"], "--name a b: a name has letters"),
    "no answers": (
        lambda folder: lines(folder / "x.jsonl", [{"prompt": q} for q, _ in PAIRS]),
        ["x.jsonl"],
        "it has one with text (`prompt`)",
    ),
    "a recipe there": (lambda folder: (folder / "mine.yaml").touch(), ["x.csv"], "mine.yaml exists"),
}


@pytest.mark.parametrize("case", MISUSE)
def test_misuse_is_one_line(
    case: str, here: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare, arguments, message = MISUSE[case]
    prepare(tmp_path)
    if case == "a recipe there":
        table(tmp_path / "x.csv")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(SystemExit) as stop:
        here(*arguments)
    assert stop.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tutelage: ")
    assert message in line
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


@pytest.mark.parametrize(
    ("typed", "prompt", "completion"),
    [
        ("", "{text}", "{reply}"),  # what is proposed
        ("reply\ntxt\ntext\n", "{reply}", "{text}"),
        ("text\ntext\n\nreply: {reply}\n", "{text}", "reply: {reply}"),  # the same twice: asked for both again
    ],
)
def test_questions_have_proposals_and_are_asked_again(
    here: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    typed: str, prompt: str, completion: str,
) -> None:  # fmt: skip
    rows = [[("phone", "mail")[n % 2], q, "ab"[n % 2] * (n % 9), a] for n, (q, a) in enumerate(PAIRS)]
    table(tmp_path / "x.csv", ("channel", "text", "code", "reply"), rows)
    monkeypatch.setattr("tutelage.start.files._COMPLETIONS", ())  # as if `reply` were no usual name
    monkeypatch.setattr("tutelage.start.files._PROMPTS", ())
    monkeypatch.setattr("sys.stdin", Typed(f"trian.csv\n\n{typed}\n\n"))
    config = here()
    assert (config.data["train"].prompt, config.data["train"].completion) == (prompt, completion)
    said = capsys.readouterr().out
    assert "no file `trian.csv` here: there are x.csv" in said
    assert ("no column `txt`, did you mean `text`? (columns: channel, text, code, reply)" in said) == ("txt" in typed)
    assert ("`text` cannot be the question and the answer" in said) == ("text\ntext\n\n" in typed)
    assert "  not used: `channel`, `code`; to use `channel`: --prompt" in said


def test_models_are_asked_for_again(
    tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher, student = str(tiny_models / "teacher"), str(tiny_models / "student")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    typed = ["./techer", student, "owner/model", student, "n", teacher, student]
    monkeypatch.setattr("sys.stdin", Typed("\n".join([*typed, ""])))
    (pair,) = _pairs(None, None, "cuda", asks=True)
    assert (pair.teacher, pair.student, pair.unseen) == (teacher, student, ())
    said = capsys.readouterr().out
    assert "teacher: model folder techer does not exist" in said
    assert "owner/model, of unknown size; cannot be looked at: `owner/model` is not in the local cache" in said
    assert said.count("Teacher [") == 3


def test_no_answer_is_one_line(
    here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", Typed())
    with pytest.raises(SystemExit) as stop:
        here()
    assert stop.value.code == 130
    assert capsys.readouterr().err.strip() == "tutelage: stopped; nothing was written"


@pytest.mark.slow
def test_force_replaces_and_bad_rows_are_allowed_for(
    here: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").touch()
    lines(tmp_path / "x.jsonl", [*({"prompt": q, "completion": a} for q, a in PAIRS), {"prompt": "no answer"}])
    config = here("x.jsonl", "--force")
    assert config.data["train"].max_bad_rows == 0.03
    assert len(planned(config, tmp_path)) == 8
    assert "bad row: x.jsonl:61: " in capsys.readouterr().out


@pytest.mark.slow
def test_texts_of_data_do_not_steer_the_terminal(
    here: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table(tmp_path / "x.csv", ("q\x1b[2J", "a"))
    config = here("x.csv", "--yes")
    assert config.data["train"].prompt == "{q\x1b[2J}"
    said = capsys.readouterr().out
    assert "columns are guessed" in said
    assert "\x1b" not in said


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_a_written_recipe_runs_to_its_report(here: Callable[..., Any], tmp_path: Path) -> None:
    table(tmp_path / "desk.csv", rows=PAIRS[:24])
    here("desk.csv")
    main(["run", "mine.yaml", "training.epochs=1", "tasks.test.sampling.max_new_tokens=4", "stages.gkd.on_policy=0.2"])
    report = (tmp_path / "runs" / "mine-report" / "table.md").read_text()
    assert report.count("\n|") >= 5
    assert (tmp_path / "models" / "mine-gkd" / "README.md").is_file() or list(tmp_path.glob("**/mine-gkd/README.md"))


@pytest.mark.slow
def test_the_built_in_model_is_proposed_without_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_models: Path
) -> None:
    """The teacher here is a tiny model in its place: the real one takes seconds to be read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUTELAGE_CACHE", str(tiny_models / "cache"))
    save_tiny(tmp_path / "built-in", layers=30, seed=1)
    monkeypatch.setattr("tutelage.start.models.BUILT_IN", str(tmp_path / "built-in"))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    table(tmp_path / "desk.csv")
    main(["init", "desk.csv"])
    config = load_recipe(tmp_path / "desk.yaml")
    made = [stage.name for stage in config.stages].index(str(config.student))
    assert config.stages[0].kind == "prune"
    assert len((tmp_path / "healing-rows.jsonl").read_text().splitlines()) == 800
    healing = config.training_of(config.stages[made])  # type: ignore[arg-type]
    assert (healing.max_length, healing.epochs, config.data["heal"].size) == (256, 1, 320)
    assert config.training.epochs == 2
    rates = {s.name: config.training_of(s).learning_rate for s in config.stages if s.kind in ("sft", "distill")}  # type: ignore[arg-type]
    assert rates == {"heal": 6e-4, "teacher_sft": 2e-4, "sft": 4e-4, "sft_again": 4e-4, "gkd": 2e-4}
    (teaching,) = (config.training_of(stage) for stage in config.stages if stage.name == "teacher_sft")  # type: ignore[arg-type]
    assert (teaching.epochs, teaching.max_steps) == (2, None)  # not the demo's few steps
    assert len(planned(config, tmp_path)) == 8 + made + 1

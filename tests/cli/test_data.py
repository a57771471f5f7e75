"""`tutelage data inspect`: rows as the model sees them, counts, and one-line errors."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
import yaml
from look_alikes import LOOK_ALIKES
from recipes_fixture import Workshop
from rich.console import Console

from tutelage.cli.data import _show
from tutelage.cli.main import main
from tutelage.runs.stages.inspect_data import SequenceText


def turns(*texts: str, **more: Any) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)], **more}


def test_rows_are_shown_with_what_is_learnt(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    long = turns("The cat sat. " * 60, "no room")
    workshop.rows(
        "train", [turns("The cat?", "1 2", "Hello", "3", tools=[{"name": "f"}]), turns("a\x1b[31m", "b"), long, {}]
    )
    file = workshop.write(data__train__max_bad_rows=0.3)
    main(["data", "inspect", str(file), "--section", "train", "--rows", "2"])
    out = capsys.readouterr().out
    assert "data.train: 4 rows read" in out
    assert "bad row: train.jsonl:4: neither `messages`" in out
    assert "used: 2 rows as 2 sequences" in out
    assert "left out as too long: 1 row (train.jsonl:3)" in out
    assert "training would stop: `max_bad_rows` allows 30.0%" in out
    assert "left out or changed: `tools` (not written by the chat template) in 1 row (train.jsonl:1)" in out
    assert "<|im_start|>user\nThe cat?<|im_end|>\n<|im_start|>assistant\n⟦1 2<|im_end|>⟧" in out
    assert "Hello<|im_end|>\n<|im_start|>assistant\n⟦3<|im_end|>⟧" in out
    assert "a\\x1b[31m<|im_end|>" in out  # a row cannot steer the terminal
    assert "\x1b" not in out


def test_a_template_that_thinks_gives_a_sequence_per_turn(
    workshop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    (workshop.folder / "q.jinja").write_text(LOOK_ALIKES["qwen 3"])
    workshop.rows("train", [turns("a", "b", "c", "d")])
    file = workshop.write(student__chat_template=str(workshop.folder / "q.jinja"))
    main(["data", "inspect", str(file), "student.thinking=false", "--section", "train"])
    out = capsys.readouterr().out
    assert "1 rows are 2 sequences, since the chat template renders earlier turns differently" in out
    assert "--- train.jsonl:1, sequence 2: " in out
    assert out.count("<think>\n\n</think>\n\n⟦") == 2


def test_each_section_has_the_length_limit_of_the_stages_that_use_it(
    workshop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    workshop.rows("heal", [turns("a", "b"), turns("The cat sat. " * 40, "no room")])
    heal = {"name": "heal", "kind": "sft", "data": "heal", "training": {"max_length": 32, "validation": "test"}}
    file = workshop.write(
        data__heal={"path": "heal.jsonl", "max_bad_rows": 0.5}, stages=[heal, *workshop.recipe["stages"]]
    )
    main(["data", "inspect", str(file), "--rows", "1"])
    train, test, heal = capsys.readouterr().out.split("\n\ndata.")
    assert "used: 12 rows as 12 sequences; `training.max_length` is 96\n" in train
    assert "used: 1 rows as 1 sequences; `max_length` is 32 for stage `heal`\n" in heal
    assert "left out as too long: 1 row (heal.jsonl:2)" in heal
    assert "`max_length` is 32 for stage `heal`" in test  # it measures its loss on them
    main(["data", "inspect", str(file), "stages.gkd.training.max_length=64", "--section", "train", "--rows", "1"])
    out = capsys.readouterr().out
    assert "12 sequences; `training.max_length` is 96 for stage `sft`\n" in out
    assert "12 sequences; `max_length` is 64 for stage `gkd`\n" in out
    assert out.count("--- train.jsonl:1") == 1


def test_rows_left_out_are_named_once_for_all_slices_of_a_file(
    workshop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    workshop.rows("train", [*(turns(f"q{n}", "a") for n in range(6)), turns("q0", "a"), turns(" ", "a"), {}])
    both = {"path": "train.jsonl", "max_bad_rows": 0.3, "distinct": True}
    file = workshop.write(data={"train": {**both, "skip": 2}, "test": {**both, "size": 2}})
    main(["data", "inspect", str(file), "--rows", "0"])
    train, test = capsys.readouterr().out.split("\n\ndata.")
    assert "bad row: train.jsonl:8: turn 1 is an empty user turn\n" in train
    assert "1 of 9 rows is an exact repetition and left out: train.jsonl:7 (it repeats train.jsonl:1)\n" in train
    assert "used: 4 rows" in train
    assert "bad rows: 2, named above\n1 of 9 rows is an exact repetition and left out, as named above\n" in test
    assert "train.jsonl:" not in test


def test_sections_for_evaluation_are_prompts(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    workshop.rows("test", [{"prompt": "Say a.", "references": ["a"]}])
    main(["data", "inspect", str(workshop.write()), "--section", "test", "--model", "teacher"])
    out = capsys.readouterr().out
    assert "used as prompts; tokens per prompt: " in out
    assert "Say a.<|im_end|>\n<|im_start|>assistant\n" in out
    assert "\nexpected: a\n" in out
    assert "⟦" not in out


def test_rows_of_two_sections_that_contradict_each_other_are_named(
    workshop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    workshop.rows("train", [turns("Who?", "Ada"), turns("When?", "At noon")])
    workshop.rows("test", [turns("Who?", "Bo")])
    main(["data", "inspect", str(workshop.write()), "--rows", "0"])
    assert (
        "note: the only question of task `test` is also in data.train, on which models are trained, with another answer"
        ": the reference or the training row is wrong, unless both answers are right (test.jsonl:1 asks what "
        "train.jsonl:1 asks)\n"
    ) in capsys.readouterr().out
    main(["data", "inspect", str(workshop.write()), "--rows", "0", "--section", "test"])
    assert "note: " not in capsys.readouterr().out


def test_rows_that_contradict_others_are_named(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    workshop.rows("train", [turns("a", "b"), turns("c", "d"), turns("a", "c"), turns("c", "d")])
    workshop.rows("test", [{"prompt": "Say a.", "references": ["a"]}] * 2)
    main(["data", "inspect", str(workshop.write())])
    out = capsys.readouterr().out
    assert "keep the right answer: train.jsonl:3 (it asks what train.jsonl:1 asks)" in out
    assert "counts twice: remove train.jsonl:4 (it repeats train.jsonl:2), or set `distinct: true`" in out
    assert "remove test.jsonl:2 (it repeats test.jsonl:1)" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--section", "trian"], "--section trian: no data section is called so (there are: train, test)"),
        (["student.path=nowhere/model"], "cannot load `nowhere/model`"),
        (["student.thinking=true"], "`thinking: true`: the chat template has no `enable_thinking`"),
        (["data.train.path=no.jsonl"], "data.train.path: no file `no.jsonl`"),
    ],
)
def test_mistakes_are_one_line(
    workshop: Workshop, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["data", "inspect", str(workshop.write()), *arguments])
    assert stopped.value.code == 1
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error


def test_a_terminal_gets_colour_and_no_marks() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, color_system="standard", highlight=False)
    _show(console, SequenceText("x:1", ((False, "[bold]read[/bold] "), (True, "learnt"))))
    assert out.getvalue().endswith("[bold]read[/bold] \x1b[30;42mlearnt\x1b[0m\n")


def test_the_summary_of_a_run_says_what_is_left_out(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    from tutelage.recipe.load import load_recipe
    from tutelage.runs.do_run import do_run
    from tutelage.runs.planner import Planner

    (workshop.folder / "q.jinja").write_text(LOOK_ALIKES["qwen 3"])
    workshop.rows("train", [turns("a", "b", "c", "d", system="s"), turns("a", "b")])
    file = workshop.write(student__chat_template=str(workshop.folder / "q.jinja"), training__batch_size=1)
    run = Planner(load_recipe(file), workshop.folder, workshop.runs).stage_run("sft", 0)
    do_run(run)
    report = json.loads((run.folder / "data.json").read_text())["train"]
    assert (report["rows"], report["split_rows"], report["sequences"]) == (2, 1, 3)
    assert report["left_out"] == {"column `system` (not read)": 1}
    assert len((run.folder / "metrics.jsonl").read_text().splitlines()) == 3  # a step per sequence
    out = capsys.readouterr().out
    assert "sft: data.train: left out or changed: column `system` (not read) in 1 row (train.jsonl:1)" in out


def test_a_run_names_rows_left_out_of_slices_of_one_file_once(
    workshop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    from tutelage.common.progress import told_once
    from tutelage.recipe.load import load_recipe
    from tutelage.runs.do_run import do_run
    from tutelage.runs.planner import Planner

    workshop.rows("train", [*(turns(f"q{n}", "a") for n in range(4)), turns("q0", "a"), {}])
    own = {"path": "train.jsonl", "max_bad_rows": 0.5, "distinct": True}
    data = {"train": {**own, "skip": 2}, "dev": {**own, "size": 2}, "test": {"path": "test.jsonl"}}
    run = Planner(
        load_recipe(workshop.write(data=data, training__validation="dev")), workshop.folder, workshop.runs
    ).stage_run("sft", 0)
    with told_once():
        do_run(run)
    out = capsys.readouterr().out
    assert out.count("1 of 6 rows is bad and left out: train.jsonl:6: neither") == 1
    assert out.count("1 of 6 rows is an exact repetition and left out: train.jsonl:5 (it repeats train.jsonl:1)") == 1
    report = json.loads((run.folder / "data.json").read_text())
    assert [report[name]["repeated"] for name in ("train", "dev")] == [["train.jsonl:5 (it repeats train.jsonl:1)"]] * 2


# --- numbers in YAML -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("written", ["5e-3", "5E-3", "+5e-3", "0.5e-2", ".5e-2", "5.e-3", '"5e-3"', "0.005"])
def test_numbers_as_people_write_them(workshop: Workshop, written: str) -> None:
    from tutelage.recipe.load import load_recipe

    workshop.recipe["search"] = {"task": "test", "grid": {"learning_rate": ["GRID", 1.0e-7], "epochs": [1, 2]}}
    file = workshop.write(training__adam_eps="EPS")
    text = file.read_text().replace("GRID", written).replace("EPS", written)
    file.write_text(text)
    recipe = load_recipe(file, [f"training.weight_decay={written}", f"search.grid.adam_eps=[{written}]"])
    assert recipe.search is not None
    assert recipe.search.grid == {"learning_rate": [0.005, 1e-7], "epochs": [1, 2], "adam_eps": [0.005]}
    assert (recipe.training.adam_eps, recipe.training.weight_decay) == (0.005, 0.005)


@pytest.mark.parametrize("text", ["e5", "1e", "1e-", "5e-3x", "v1e5", "1e5.2", "'1e5'", "--1e5"])
def test_other_texts_stay_texts(text: str) -> None:
    from tutelage.recipe.load import parse_yaml

    assert parse_yaml(f"a: {text}") == {"a": yaml.safe_load(text)}
    assert isinstance(parse_yaml(f"a: {text}")["a"], str)

"""Answers in the terminal: the sampler's own, over several turns, from one model or two."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from chat_templates import tokenizer
from recipes_fixture import ROWS, Workshop, save_tiny
from rich.console import Console

from tutelage.api.evaluating import evaluate
from tutelage.api.results import Model
from tutelage.cli.main import main
from tutelage.common.errors import TutelageError
from tutelage.common.interrupt import Terminated
from tutelage.common.types import Message
from tutelage.delivery.chat import HELP, LONGEST, ChatSettings, Speaker, _view, chat, plain
from tutelage.delivery.find_model import FoundModel, find_model, longest_answer_of, thinking_of
from tutelage.models.load import load_model
from tutelage.recipe.load import load_recipe
from tutelage.recipe.sections import ModelConfig, SamplingConfig
from tutelage.runs.do_run import do_run
from tutelage.runs.planner import Planner
from tutelage.sampling.make_sampler import make_sampler

SHORT = ChatSettings(max_new_tokens=8)


@pytest.fixture(scope="module")
def speaker(tiny_models: Path) -> Speaker:
    return Speaker(FoundModel("one", str(tiny_models / "student")), SHORT)


@pytest.fixture(scope="module")
def other(tiny_models: Path) -> Speaker:
    return Speaker(FoundModel("two", str(tiny_models / "teacher")), SHORT)


def say(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_answers_are_those_of_the_sampler(speaker: Speaker, tiny_models: Path) -> None:
    loaded = load_model(ModelConfig(path=str(tiny_models / "student")))
    sampler = make_sampler(loaded, SamplingConfig(max_new_tokens=8))
    speaker.begin("Be brief.")
    turns = [Message("system", "Be brief.")]
    for question in ("The cat sat?", "And the dog?"):
        turns.append(Message("user", question))
        prompt = loaded.template.encode_prompt(turns)
        (sample,) = sampler.sample([prompt], max_new_tokens=8, temperature=0.0, top_p=1.0, seeds=[0])
        shown: list[str] = []
        answer = speaker.answer(question, shown.append)
        assert answer == plain(loaded.template.decode(sample.tokens)).strip()
        assert shown[-1].strip() == answer
        assert len(shown) == len(sample.tokens)
        turns.append(Message("assistant", answer))
    assert speaker.turns == turns
    speaker.begin()
    assert speaker.turns == []


@pytest.mark.slow
def test_the_longest_answer_is_the_recipes_else_the_generation_configs(made: Workshop, tmp_path: Path) -> None:
    """The recipe's tasks allow 6 tokens; its GKD, all on the rows, never uses the 512 of its own sampling."""
    for name in ("tiny-sft", "tiny-gkd"):
        found = find_model(str(made.folder / "models" / name))
        assert (longest_answer_of(found), Speaker(found, ChatSettings()).longest) == (6, 6)
        assert Speaker(found, SHORT).longest == 8  # as asked
    folder = tmp_path / "elsewhere"
    shutil.copytree(made.models / "student", folder)
    assert Speaker(FoundModel("one", str(folder)), ChatSettings()).longest == LONGEST
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**config, "max_new_tokens": 40}))
    assert Speaker(FoundModel("one", str(folder)), ChatSettings()).longest == 40


def test_a_temperature_draws_by_the_seed(tiny_models: Path) -> None:
    found = FoundModel("one", str(tiny_models / "student"))
    answers = []
    for seed in (0, 0, 1):
        speaker = Speaker(found, ChatSettings(temperature=2.0, max_new_tokens=12, seed=seed))
        answers.append(speaker.answer("The cat?"))
    assert answers[0] == answers[1] != answers[2]


def test_what_does_not_fit_is_forgotten_oldest_first(speaker: Speaker, monkeypatch: pytest.MonkeyPatch) -> None:
    speaker.begin("S")
    speaker.answer("first")
    speaker.answer("second")
    whole = [*speaker.turns, Message("user", "third")]
    room = len(speaker.template.encode_prompt([whole[0], *whole[3:]])) + SHORT.max_new_tokens
    monkeypatch.setattr(speaker.model.config, "max_position_embeddings", room)
    speaker.answer("third")
    assert [turn.content for turn in speaker.turns if turn.role != "assistant"] == ["S", "second", "third"]
    before = speaker.turns
    with pytest.raises(TutelageError, match=rf"one: that has \d+ tokens, and the model reads {room}: ask shorter"):
        speaker.answer("x" * 500)
    assert speaker.turns == before


def test_lines_of_a_pipe_are_questions(
    speaker: Speaker, other: Speaker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for one in (speaker, other):
        one.begin()
    alone = [plain(one.answer("The cat?")) or "(an empty answer)" for one in (speaker, other)]
    say(monkeypatch, "The cat?\n\n/reset\nThe cat?\n/nonsense\n/quit\nnever asked\n")
    chat([speaker, other])
    once = f"one: {alone[0]}\ntwo: {alone[1]}\n"
    written, notes = capsys.readouterr()
    assert written.startswith(once + "\n" + once)  # an empty line for the empty line
    cut = [f"{one.name} did not end its answer, which was cut at 8 tokens" for one in (speaker, other) if one.cut]
    assert cut  # random models hardly ever end
    assert [line.partition(":")[0] for line in notes.splitlines()] == cut + cut
    assert " ".join(written[2 * len(once) + 1 :].split()) == HELP
    say(monkeypatch, "The cat?\n/system Be brief.\nThe cat?\n")
    chat([speaker])
    assert speaker.turns[0] == Message("system", "Be brief.")
    assert len(speaker.turns) == 3
    assert "one:" not in capsys.readouterr().out


def test_the_command_answers_a_pipe(
    tiny_models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say(monkeypatch, "The cat?")
    main(["chat", str(tiny_models / "student"), str(tiny_models / "teacher"), "--max-new-tokens", "3"])
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines() if ": " in line] == [
        "student",
        "teacher",
    ]


@pytest.mark.slow
def test_the_system_turn_of_the_training_rows_is_the_default(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun: list[str] = []
    monkeypatch.setattr(Speaker, "begin", lambda _, system="": begun.append(system))
    said = "Be brief, cat"
    turns = [("user", "The cat?"), ("assistant", "The dog ran.")]
    for name, system in (("with", [("system", said)]), ("without", [])):
        row = {"messages": [{"role": role, "content": text} for role, text in [*system, *turns]]}
        workshop.rows("train", [row] * 8)
        run = Planner(load_recipe(workshop.write(name=name)), workshop.folder, workshop.runs).stage_run("sft", 0)
        do_run(run)
        for options in ([], ["--system", ""]):
            say(monkeypatch, "")
            main(["chat", str(run.folder), *options])
            assert (f"system: {said} (as" in capsys.readouterr().err) == bool(system and not options)
        Model("sft", run.folder, "sft").generate("The cat?", max_new_tokens=1)
    assert begun == [said, "", said, "", "", ""]


def test_a_model_is_asked_as_it_was_trained(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chat template that is saved with it does not say whether it may think."""
    qwen = Path(__file__).parents[1] / "helpers/rows/look_alikes/qwen_3.jinja"
    save_tiny(tmp_path / "qwen", 2, 0, tokenizer(qwen.read_text()))
    workshop.rows("train", ROWS)
    recipe = load_recipe(workshop.write(student={"path": str(tmp_path / "qwen"), "thinking": False}))
    run = Planner(recipe, workshop.folder, workshop.runs).stage_run("sft", 0)
    do_run(run)
    prompt = Speaker(find_model(str(run.folder)), SHORT).template.render([Message("user", "The cat?")], True)
    assert prompt.endswith("assistant\n<think>\n\n</think>\n\n")
    asked: list[ModelConfig] = []
    monkeypatch.setattr("tutelage.cli.evaluate._run_benchmarks", lambda settings, _: asked.append(settings.loading))
    for options in ([], ["--thinking"]):
        main(["evaluate", "--model", str(run.folder), "--tasks", "ifeval", *options])
    monkeypatch.setattr("tutelage.api.evaluating._evaluate_benchmarks", lambda loading, *_: asked.append(loading))
    evaluate(run.folder, "ifeval")
    assert [one.thinking for one in asked] == [False, True, False]
    assert thinking_of(find_model(str(tmp_path / "qwen"))) is None


@pytest.mark.parametrize("questions", [1, 2])
def test_a_model_of_single_questions_is_asked_each_anew(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, questions: int
) -> None:
    turns = [("user", "The cat?"), ("assistant", "The dog ran.")] * questions
    workshop.rows("train", [{"messages": [{"role": role, "content": text} for role, text in turns]}] * 8)
    run = Planner(load_recipe(workshop.write()), workshop.folder, workshop.runs).stage_run("sft", 0)
    do_run(run)
    before: list[int] = []
    monkeypatch.setattr(
        Speaker,
        "answer",
        lambda one, text, _: before.append(len(one.turns)) or one.turns.append(Message("user", text)) or "so",
    )
    say(monkeypatch, "The cat?\nThe dog?\n/keep\nThe cat?\nThe dog?\n")
    main(["chat", str(run.folder)])
    assert before == ([0, 0, 1, 2] if questions == 1 else [0, 1, 2, 3])


def raised(error: type[BaseException]) -> str:
    raise error


def test_a_stopped_answer_is_no_part_of_the_conversation(
    speaker: Speaker, other: Speaker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> str:
        raise KeyboardInterrupt

    say(monkeypatch, "The cat?\n")
    monkeypatch.setattr(other, "answer", stop)
    with pytest.raises(KeyboardInterrupt):  # of a pipe's questions, nobody would ask the next
        chat([speaker, other])
    assert speaker.turns == other.turns == []
    assert capsys.readouterr().out == "stopped\n"
    say(monkeypatch, "The cat?\n")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr(Console, "input", lambda *_: sys.stdin.readline() or raised(EOFError))
    chat([speaker, other])
    assert speaker.turns == other.turns == []
    monkeypatch.setattr(Console, "input", lambda *_: raised(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        chat([speaker, other])
    say(monkeypatch, "The cat?\n")
    monkeypatch.setattr(other, "answer", lambda *_: raised(Terminated))
    with pytest.raises(Terminated):
        chat([speaker, other])


@pytest.mark.parametrize(("width", "beside"), [(100, True), (80, True), (79, False), (30, False)])
def test_two_answers_stand_side_by_side_where_there_is_room(width: int, beside: bool) -> None:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    console.print(_view(["one", "two"], ["a " * 60, "b [bold]not markup[/]"], console))
    lines = console.file.getvalue().splitlines()
    assert any("one" in line and "two" in line for line in lines) == beside
    assert max(map(len, lines)) <= width
    assert "[bold]not" in " ".join(lines)


def test_a_terminal_shows_answers_as_they_come(speaker: Speaker, monkeypatch: pytest.MonkeyPatch) -> None:
    say(monkeypatch, "The cat?\n")
    console = Console(file=io.StringIO(), width=60, force_terminal=True, highlight=False)
    chat([speaker], console=console)
    written = console.file.getvalue()
    assert plain(speaker.turns[-1].content).split("\n")[0] in written
    assert "\x1b[1A" in written or written.count("one") > 1  # the answer was drawn again with every token


def test_a_model_cannot_steer_the_terminal() -> None:
    assert plain("a\x1b[2Jb\x07\x9b31m\tc\nd\u202e") == "a[2Jb31m\tc\nd"
    assert torch.is_grad_enabled()


def test_what_is_no_text_on_standard_input_is_a_question_too(
    speaker: Speaker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for encoding, errors in (("utf-8", "strict"), ("ascii", "surrogateescape")):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff cat?\n"), encoding, errors))
        chat([speaker])
        assert speaker.turns[0].content.endswith(" cat?")
        assert capsys.readouterr().out.strip()
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(TutelageError, match="standard input is closed"):
        chat([speaker])

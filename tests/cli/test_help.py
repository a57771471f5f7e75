"""Help that answers: version, two examples per verb that the verb accepts, completion, narrow terminals, no colour."""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import tutelage
from tutelage.cli.main import app, main
from tutelage.cli.narrow_help import SETTINGS
from tutelage.cli.options import print_markdown
from tutelage.common.progress import print_lines

SOURCE = Path(tutelage.__file__).parent.parent


def verbs(command: Any = None, path: tuple[str, ...] = ()) -> list[tuple[str, Any]]:
    """All commands that do something, as ("study plan", command)."""
    command = command or get_command(app)
    inner = getattr(command, "commands", None)
    if inner is None:
        return [(" ".join(path), command)]
    return [found for name, one in inner.items() for found in verbs(one, (*path, name))]


def tutelage_says(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(SOURCE), "PATH": "", "TERM": "xterm-256color", **variables}
    command = [sys.executable, "-m", "tutelage", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    assert capsys.readouterr().out == f"tutelage {tutelage.__version__}\n"


@pytest.mark.parametrize(("name", "command"), verbs(), ids=[name for name, _ in verbs()])
def test_every_verb_has_two_examples_that_it_accepts(name: str, command: Any) -> None:
    examples = re.findall(r"^\s*tutelage (.+)$", command.callback.__doc__, re.MULTILINE)
    assert len(examples) >= 2, name
    for example in examples:
        words = shlex.split(re.split(r" [|>] ", example)[0])
        assert " ".join(words[: len(name.split())]) == name
        command.make_context(name, words[len(name.split()) :], **SETTINGS)  # a wrong option or value is an error


@pytest.mark.slow
def test_completion_completes_verbs_and_options() -> None:
    for words, place, expected in (("tutelage ex", 1, ["export"]), ("tutelage export --p", 2, ["--push", "--public"])):
        asked = {"_TUTELAGE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(place)}
        assert tutelage_says(**asked).stdout.split() == expected
    # What `--show-completion` prints in bash; the option itself asks which shell started it, and here that may be any.
    script = tutelage_says(_TUTELAGE_COMPLETE="source_bash").stdout
    assert "complete -o default -F _tutelage_completion tutelage" in script


@pytest.mark.slow
def test_narrow_terminals_show_whole_words_and_no_color_shows_none() -> None:
    narrow = tutelage_says("export", "--help", COLUMNS="50").stdout
    assert max(map(len, narrow.splitlines())) <= 50
    assert "…" not in narrow.replace("exports", "")
    assert "│" not in narrow
    assert narrow.startswith("Usage: tutelage export")
    alone = tutelage_says(COLUMNS="50")
    assert alone.returncode == 2
    assert alone.stderr.count("\n") > 20  # the help, not one line of it
    plain = tutelage_says("export", "--help", NO_COLOR="1", FORCE_COLOR="1").stdout
    assert not re.search(r"\x1b\[[\d;]*3\d", plain)


def test_long_lines_break_between_words_in_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    line = "missing GPU             none: training runs on the CPU, slowly"
    command = "                        → pip install 'tutelage[vllm]' and some more words"
    path = "  examples: " + "a-long/path" * 6 + " is kept whole"
    monkeypatch.setenv("COLUMNS", "40")
    screen, log = Screen(), io.StringIO()
    for file in (screen, log):
        print_lines([line, command, path], 24, file)
    assert log.getvalue() == f"{line}\n{command}\n{path}\n"
    shown = screen.getvalue().splitlines()
    assert shown[:3] == ["missing GPU             none: training", " " * 20 + "runs on the CPU,", " " * 20 + "slowly"]
    assert shown[3] == command  # can be copied
    assert " " * 20 + "a-long/path" * 6 in shown


def test_a_table_without_room_is_a_block_per_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = "**test**\n\n| model | ROUGE-L | Δ (95 %) |\n| --- | --- | --- |\n"
    table += "| gkd | 25.1 ± 0.4 | +1.2 (0.3 to 2.1) |\n\nEnd."
    print_markdown(table)
    assert capsys.readouterr().out == table + "\n"  # no terminal: Markdown
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "30")
    print_markdown(table)
    assert "\ngkd\n  ROUGE-L: 25.1 ± 0.4\n  Δ (95 %): +1.2 (0.3 to 2.1)\n\nEnd." in capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", "55")  # a difference is beside its score where there is room for it
    print_markdown(table.replace("gkd", "gkd, then gkd once more"))
    assert "\n  ROUGE-L: 25.1 ± 0.4; Δ (95 %): +1.2 (0.3 to 2.1)\n\nEnd." in capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", "60")
    print_markdown(table)
    shown = capsys.readouterr().out
    assert "────" in shown
    assert "ROUGE-L:" not in shown


@pytest.mark.slow
def test_help_is_whole_in_a_narrow_terminal() -> None:
    for verb in ([], ["evaluate"], ["study"]):
        shown = tutelage_says(*verb, "--help", COLUMNS="40").stdout
        assert max(map(len, shown.splitlines())) <= 40
        assert "..." not in shown.partition("Commands:")[2]
    assert "…" not in tutelage_says("evaluate", "--help", COLUMNS="80").stdout

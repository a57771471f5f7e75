"""Commands and options that do not exist: one line that says what was meant."""

from __future__ import annotations

import pytest

from tutelage.cli.main import main


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("rnu", "No such command 'rnu': did you mean `run`?"),
        ("trian", "No such command 'trian': did you mean `run`?"),
        ("eval", "No such command 'eval': did you mean `evaluate`?"),
        ("version", "No such command 'version': did you mean `--version`?"),
        ("xyzzy", "No such command 'xyzzy': there are run, init, doctor, "),
        ("study train", "No such command 'train': did you mean `run`?"),
        ("--verison", "No such option: --verison: did you mean `--version`?"),
        ("run r.yaml --reprot x", "No such option: --reprot: did you mean `--report`?"),
        ("plan r.yaml", "No such command 'plan': did you mean `run --plan`?"),
        ("run r.yaml --dry-run", "No such option: --dry-run: did you mean --plan, which prints what would run, and"),
        ("run r.yaml --foo", "No such option: --foo ("),
        ("init --epochs 3", "No such option: --epochs ("),  # which takes no keys of a recipe
    ],
)
def test_a_misspelt_word_is_answered_with_what_was_meant(
    words: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert error_of(words, capsys).startswith(f"tutelage: {line}")


@pytest.mark.parametrize(
    ("option", "key"),
    [
        ("--epochs 3", "training.epochs=3"),
        ("--epochs=3", "training.epochs=3"),
        ("--training.epochs 3", "training.epochs=3"),
        ("--batch-size 4", "training.batch_size=4"),
        ("--lr 1e-4", "training.learning_rate=1e-4"),
        ("--seed 3", "'seeds=[3]'"),
        ("--teacher some/model", "teacher.path=some/model"),
        ("--beta 0.1", "stages.STAGE.beta=0.1"),
    ],
)
@pytest.mark.parametrize("command", ["run r.yaml", "data inspect r.yaml"])
def test_an_option_that_is_a_key_of_recipes_is_answered_with_the_key(
    command: str, option: str, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = option.replace("=", " ").split()[0]
    line = f"tutelage: No such option: {name}: keys of the recipe are given without dashes: {key} (tutelage "
    assert error_of(f"{command} {option}", capsys).startswith(line)


@pytest.mark.parametrize("words", ["help", "-h", "help run", "run -h"])
def test_help_has_the_names_that_people_try(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(words.split())
    assert f"Usage: tutelage {'run ' * ('run' in words)}" in capsys.readouterr().out


def error_of(words: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        main(words.split())
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line

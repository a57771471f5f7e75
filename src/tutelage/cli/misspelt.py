"""What was meant by a command or an option that does not exist."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from tutelage.common.errors import did_you_mean

# What other programs call our commands.
_ELSEWHERE = {
    **{"train": "run", "distill": "run", "start": "init", "new": "init", "talk": "chat", "generate": "chat"},
    **{"plan": "run --plan", "dry-run": "run --plan", "check": "run --plan", "estimate": "run --plan"},
    **{"test": "evaluate", "score": "evaluate", "status": "watch", "version": "--version"},
}

_PLANS = ("--dry-run", "--dry_run", "--dryrun", "--estimate", "--check")


def no_command(name: str, commands: Sequence[str]) -> str:
    """The error for a command that does not exist among `commands`."""
    known = {one: meant for one, meant in _ELSEWHERE.items() if meant.partition(" ")[0] in (*commands, "--version")}
    known |= {one: one for one in commands}
    near = get_close_matches(name, known, n=1)
    meant = f"did you mean `{known[near[0]]}`?" if near else f"there are {', '.join(commands)}"
    return f"No such command '{name}': {meant}"


def no_option(name: str, command: Any, arguments: Sequence[str]) -> str:
    """The error for an option that the command does not have. A key of a recipe is said as the command takes it.

    `arguments`: all words of the command line.
    """
    said = f"No such option: {name}"
    options = [one for parameter in command.params for one in parameter.opts if one.startswith("-")]
    if name in _PLANS and "--plan" in options:
        return f"{said}: did you mean --plan, which prints what would run, and runs nothing?"
    near = get_close_matches(name.strip("-"), [one.strip("-") for one in options], n=1, cutoff=0.7)
    if near:
        return f"{said}: {did_you_mean(near[0], options)}"
    key = _recipe_key(name.lstrip("-").replace("-", "_")) if _takes_keys(command) else None
    if key is None:
        return said
    place = next(place for place, word in enumerate(arguments) if word.partition("=")[0] == name)
    _, equals, value = arguments[place].partition("=")
    value = value if equals else next(iter(arguments[place + 1 :]), "")
    value = f"[{value}]" if key == "seeds" and value[:1] != "[" else value
    return f"{said}: keys of the recipe are given without dashes: {shlex.quote(f'{key}={value}')}"


def _takes_keys(command: Any) -> bool:
    return any(parameter.name == "overrides" for parameter in command.params)


def _recipe_key(name: str) -> str | None:
    """The key of a recipe that somebody may mean by a name, perhaps a part of it."""
    from tutelage.recipe.recipe import RecipeConfig
    from tutelage.recipe.sections import TrainingConfig
    from tutelage.recipe.stages import DistillStage

    known: Mapping[str, str] = {
        **{key: f"stages.STAGE.{key}" for key in DistillStage.model_fields},
        **{key: f"training.{key}" for key in TrainingConfig.model_fields},
        **{key: key for key in RecipeConfig.model_fields},
        **{"teacher": "teacher.path", "student": "student.path", "lr": "training.learning_rate"},
    }
    if "." in name:
        return name if name.partition(".")[0] in RecipeConfig.model_fields else None
    near = get_close_matches(name, known, n=1, cutoff=0.8)
    return known[near[0]] if near else None

"""Keyword arguments as keys of a recipe's sections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tutelage.common.errors import TutelageError, did_you_mean
from tutelage.recipe.base import first_message
from tutelage.recipe.sections import DataConfig, TrainingConfig
from tutelage.recipe.stages import DistillStage, SftStage

# What rows, training and GKD can be told; the rest of these sections is said by other arguments.
DATA = tuple(key for key in DataConfig.model_fields if key not in ("path", "size", "skip", "seed", "order", "text"))
TRAINING = tuple(key for key in TrainingConfig.model_fields if key != "validation")
DISTILL = tuple(key for key in DistillStage.model_fields if key not in SftStage.model_fields and key != "teacher")


Sections = tuple[dict[str, Any], dict[str, Any], dict[str, Any]]  # of data, of training, of a distill stage


def sort_settings(settings: Mapping[str, Any]) -> Sections:
    """The settings that are keys of a data section, of `training` and of a `distill` stage.

    Raises TutelageError, with the nearest known key, for one that is none of these, and for a value of `training` that
    is not valid.
    """
    known = (*DATA, *TRAINING, *DISTILL)
    for key in settings:
        if key not in known:
            hint = did_you_mean(key, known, "docs/recipe.md has the keys of data, training and distill stages")
            raise TutelageError(f"unknown setting `{key}`: {hint}")
    data, training, distill = ({k: v for k, v in settings.items() if k in own} for own in (DATA, TRAINING, DISTILL))
    section(TrainingConfig, training)
    return data, training, distill


def section(kind: Any, content: Mapping[str, Any]) -> Any:
    """A section of a recipe, of the pydantic model `kind`. Raises TutelageError that names the wrong key."""
    try:
        return kind.model_validate(dict(content))
    except ValueError as error:
        raise TutelageError(first_message(error)) from None

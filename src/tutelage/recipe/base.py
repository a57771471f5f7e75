"""Base of all sections of a recipe: strict pydantic models and one-line error messages."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tutelage.common.errors import did_you_mean


class Section(BaseModel):
    """A section of a recipe: frozen, and an unknown key is an error that suggests the nearest known key."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for key in data:
                if key not in cls.model_fields:
                    hint = did_you_mean(str(key), cls.model_fields, f"valid keys: {', '.join(cls.model_fields)}")
                    raise ValueError(f"unknown key `{key}`: {hint}")
        return data


Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"  # names become parts of folder names
NAME_LENGTH = 100


def names_of_folders(named: dict[str, Any]) -> dict[str, Any]:
    """The section. Raises ValueError for a name in it that cannot be part of a folder's name, or would leave its
    folder."""
    for name in named:
        if not name.strip(" .") or len(name) > NAME_LENGTH or any(c in "/\\" or not c.isprintable() for c in name):
            raise ValueError(
                f"the name `{name[:NAME_LENGTH]}` becomes part of a folder's name: at most {NAME_LENGTH} characters, "
                "without `/` and `\\`"
            )
    return named


def first_message(error: ValueError) -> str:
    """The first error of a pydantic `ValidationError` as `key: what is wrong`; of another ValueError, its message."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    location = list(first["loc"])
    if location[:1] == ["stages"]:
        del location[2:3]  # pydantic puts the stage's kind after its number; it is not a key
    # Nor is the name of one type of `student`, perhaps within that of its validator.
    location = [part for part in location if "ModelConfig" not in str(part)]
    if location and (str(location[-1]).startswith("constrained-") or "[" in str(location[-1])):
        del location[-1]  # the name of one type of a union is not a key either
    where = ".".join(map(str, location))
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message

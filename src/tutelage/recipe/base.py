"""What every section of a recipe is made of: strict models, one-line complaints, and fingerprints."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tutelage.common.errors import did_you_mean


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        """An unknown key is nearly always a slip of the pen: name the key that was meant."""
        if isinstance(data, dict):
            for key in data:
                if key not in cls.model_fields:
                    hint = did_you_mean(str(key), cls.model_fields, f"valid keys: {', '.join(cls.model_fields)}")
                    raise ValueError(f"unknown key `{key}`: {hint}")
        return data


Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]


def first_message(error: ValueError) -> str:
    """The first complaint of a pydantic error as `key: what is wrong`."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    loc = list(first["loc"])
    if loc[:1] == ["stages"]:
        del loc[2:3]  # a stage's kind stands after its number, and is no key
    if loc and (str(loc[-1]).startswith("constrained-") or "[" in str(loc[-1])):
        del loc[-1]  # nor is the name of a type, of several that a value may have
    where = ".".join(map(str, loc))
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message

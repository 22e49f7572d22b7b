"""A table of a job file: checked as a whole, with one sentence about the first thing wrong in it.

A field's description is what a message says is allowed, so a rule is written where its key is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from hwprofiles.errors import RequestError, near, nearest

NESTED = "lists or tables lie in one another too deep to be a job; mend that first"

# What a key may hold; the description is what a message says is allowed.
Count = Annotated[int, Field(ge=1, lt=2**31, description="an integer of 1 or more, below 2147483648")]
CountOrZero = Annotated[int, Field(ge=0, lt=2**31, description="an integer of 0 or more, below 2147483648")]
Positive = Annotated[float, Field(gt=0, description="a number above 0")]
Text = Annotated[str, Field(min_length=1, description="a text that is not empty")]


def _storable(arguments: dict[str, Any]) -> dict[str, Any]:
    """Refuse what JSON, in which jobs are kept, has no word for."""
    try:
        json.dumps(arguments, allow_nan=False)
    except ValueError:
        raise PydanticCustomError("arguments", "nan or inf") from None
    return arguments


Arguments = Annotated[
    dict[str, Any],
    AfterValidator(_storable),
    Field(description="a table of keyword arguments, without nan and inf"),
]
Function = Annotated[
    str, Field(pattern=r"^([A-Za-z_][\w.]*:[A-Za-z_]\w*)?$", description='"module:function"')
]
Checkpoint = Annotated[
    str, Field(pattern=r"^(.+\.(safetensors|pt|pth))?$", description="a .safetensors, .pt or .pth file")
]
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
NAME_TOLD = "up to 64 letters, digits, dots, dashes and underscores, a letter or digit first"
FileName = Annotated[str, Field(pattern=f"^{NAME}$", description=NAME_TOLD)]
Name = Annotated[str, Field(pattern=f"^({NAME})?$", description=NAME_TOLD)]


class Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def checked(cls, content: Mapping[str, Any], where: str) -> Self:
        """Build the table, or raise a RequestError about the first thing wrong in `where`."""
        try:
            # Strict means in JSON what it means in a job file: lists are tuples, texts are not numbers.
            return cls.model_validate_json(json.dumps(content, default=str))
        except RecursionError:
            raise RequestError(f"{where}: {NESTED}") from None
        except ValidationError as error:
            # A misspelt key is also a missing one: say the former.
            first = min(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
            raise RequestError(f"{where}: {_sentence(cls, first)}") from None


def _sentence(table: type[Table], problem: ErrorDetails) -> str:
    path, value = problem["loc"], json.dumps(problem["input"], ensure_ascii=False, default=str)
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    given = f"{key} = {value if len(value) <= 60 else value[:57] + '...'}"
    siblings, field = _find(table, path)
    options = [option for option in get_args(field.annotation) if isinstance(option, str)]
    allowed = ", ".join(options) or field.description or "a table"
    match problem["type"]:
        case "extra_forbidden":
            return f"{given} is an unknown key; {nearest(str(path[-1]), siblings)}"
        case "missing":
            return f"{key} is missing; allowed: {allowed}"
        case "value_error":
            return f"{key or 'the job'} {problem['ctx']['error']}"
        case "json_invalid":  # of what was valid TOML, only how deep it goes
            return NESTED
        case "literal_error":
            meant = near(str(problem["input"]), options)
            return f"{given} is none of {allowed}{meant and f'; {meant}'}"
        case _:
            return f"{given} is not allowed; allowed: {allowed}"


def _find(table: type[Table], path: tuple[int | str, ...]) -> tuple[Mapping[str, FieldInfo], FieldInfo]:
    """Follow a path as far as it is known; return the last table's keys and the last known field."""
    keys, field = table.model_fields, FieldInfo()
    for part in path:
        inner = _table_in(field.annotation)
        keys = inner.model_fields if inner else keys
        field = keys.get(str(part), field)
    return keys, field


def _table_in(annotation: object) -> type[Table] | None:
    if isinstance(annotation, type) and issubclass(annotation, Table):
        return annotation
    return next(filter(None, map(_table_in, get_args(annotation))), None)

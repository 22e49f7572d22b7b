"""Data that somebody else wrote: JSON that says one thing only, and what is wrong with it in one sentence."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json


def parse_json(text: str | bytes) -> Any:
    """Return what JSON holds. NaN and infinite numbers are for the reader to refuse.

    Raises:
        ValueError: it is no JSON; or it holds what cannot be written again or is read in several ways: text
            that is no Unicode (a lone surrogate), a name twice in one object, lists in lists by the
            thousand, a number of thousands of digits.
    """
    data = text.encode() if isinstance(text, str) else text
    from_json(data)  # refuses all but the names, and in linear time
    return json.loads(data, object_pairs_hook=_each_name_once)


def _each_name_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{twice[:80]!r} is there twice in one object")
    return found


def said(error: Exception) -> str:
    """What an error says, in a sentence: of data that do not fit a type the first place that does not."""
    if not isinstance(error, ValidationError):
        return str(error)
    return first_fault(error.errors(include_url=False))


def first_fault(faults: Sequence[Mapping[str, Any]]) -> str:
    """The first of the faults that pydantic lists, after its place: "device.batch: ..."."""
    first = faults[0]
    place = ".".join(str(part)[:80] for part in first["loc"])
    sentence = first["msg"].removeprefix("Value error, ")
    return f"{place}: {sentence}" if place else str(sentence)

from __future__ import annotations

import pytest

from hwprofiles.foreign import parse_json, said


@pytest.mark.parametrize(
    "text", ['{"a": [1, 2.5, null, "\\ud83d\\ude00"]}', b'{"a": [1, 2.5, null, "\xf0\x9f\x98\x80"]}']
)
def test_json_is_read_from_text_and_from_bytes(text: str | bytes) -> None:
    assert parse_json(text) == {"a": [1, 2.5, None, "\N{GRINNING FACE}"]}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "EOF"),
        ("{} {}", "trailing"),
        (r'["\ud800"]', "hex escape"),
        (r'{"\udc00": 1}', "surrogate"),
        ('"\ud800"', "surrogates not allowed"),
        (b'"\xff"', "invalid unicode"),
        ("[" * 100_000, "recursion limit"),
        ("1" * 5000, "out of range"),
        ('{"a": {"b": 1, "c": 2, "b": 3}}', "'b' is there twice"),
    ],
)
def test_what_could_not_be_written_again_or_is_told_twice_is_refused(text: str | bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says) as refused:
        parse_json(text)
    assert said(refused.value) == str(refused.value)

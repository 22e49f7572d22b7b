"""What users are told of places of this machine: neither where they are nor what lies above them."""

from __future__ import annotations

import os
import re
from pathlib import Path

_ROOT = r"/(?:(?<![\w.]/)|(?<=\\[bfnrt]/))"
"""What a path begins with. JSON has two signs for the end of a line, the second of which is a letter."""
_TOP = "|".join(re.escape(folder) for folder in os.listdir("/"))
_PATH = re.compile(
    rf"""/(?<='/)/*(?:{_TOP})/[^'\n\\]*(?=')|{_ROOT}(?:{_TOP})(?![\w-])(?:/+[^\s/"'`\\:;,<>(){{}}\[\]]+)*"""
)
"""A path that begins as those of this machine do, within quotes with its spaces; what begins otherwise, such
as that of a call, is none."""


def from_runs(text: str, runs: Path) -> str:
    """A text in which what lies in the folder of runs is named from there on."""
    folder = rf"{_ROOT}{re.escape(str(runs)[1:])}(?:/+(?=[\w.])|(?![\w.-]))"
    return re.sub(folder, lambda found: "" if found[0].endswith("/") else runs.name, text)


def hidden(text: str, runs: Path) -> str:
    """A text with paths of this machine as what they are to users: what lies in the folder of runs is named
    from there on, anything else by its last name."""
    return _PATH.sub(lambda path: path[0].rstrip("/").rpartition("/")[2], from_runs(text, runs))

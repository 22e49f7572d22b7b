"""Writes the page of covered ops: `python -m trials.oprules > docs/ops.md`."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Iterator

from trials.oprules import RULES, Rule, attention, contractions, images, movement, norms, pointwise

INTRODUCTION = """\
# Ops

What a model may consist of, after `torch.export`, and what becomes of its units: channels, features, heads
and places of their width. An op that is not here is refused by name. Units that an op needs to stay are
frozen by name, with the reason; `prunefront inspect` shows both. Every group is proved before it is searched:
removing its units computes what masking them does.

Attention loses whole heads and, apart from them, places of their width, the same ones of every head: two
groups, such as `blocks.0.attn.qkv` of kind "heads" and `blocks.0.attn.qkv.width` of kind "head width".
Queries and keys lose the same places, in pairs where rotary positions turn them; values lose their own,
unless a view gives one projection a single width for all three. Scores keep the scale of the dense width.

Convolutions and pools over sequences (`conv1d`, `max_pool1d` and their like) are pruned, repaired and
counted, but no runtime has rules for their kernels yet: latencies of such models are refused by the
operator's name.

This page is written by `python -m trials.oprules > docs/ops.md` from the rules themselves;
[CONTRIBUTING.md](../CONTRIBUTING.md) explains how to add one.
"""
_CHAPTERS = (contractions, attention, norms, pointwise, images, movement)


def page() -> str:
    """The whole page, in Markdown."""
    return "\n".join([INTRODUCTION, *(line for module in _CHAPTERS for line in _chapter(module.__name__))])


def _chapter(module: str) -> Iterator[str]:
    ops: dict[type[Rule], list[str]] = defaultdict(list)
    for op, rule in RULES.items():
        kind = type(rule)
        if kind.__module__ == module:
            ops[kind].append(op.removeprefix("aten.").removesuffix(".default"))
    yield f"## {_text(inspect.getmodule(next(iter(ops)))).split(': ')[0].removesuffix('.')}\n"
    yield "| ops | what becomes of units |"
    yield "| --- | --- |"
    for kind, names in ops.items():
        yield f"| {', '.join(f'`{name}`' for name in names)} | {_text(kind)} |"
    yield ""


def _text(of: object) -> str:
    """A docstring as one line."""
    return " ".join((inspect.getdoc(of) or "").split())


if __name__ == "__main__":
    print(page(), end="")

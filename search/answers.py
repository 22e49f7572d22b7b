"""Requests put to workers, each until it is answered: answers come in the order in which they are there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from search.loop import MAX_DEATHS, Workers


class Answer(NamedTuple):
    """What came of the request of that number: a value, or None and the reason."""

    number: int
    value: Any
    reason: str = ""


def answers(workers: Workers, requests: Sequence[Any]) -> Iterator[Answer]:
    """Put all requests to the workers; one that its worker dies of is put again, up to `MAX_DEATHS` times."""
    waiting, running, deaths = list(range(len(requests))), 0, Counter[int]()
    while waiting or running:
        while waiting and workers.free > 0:
            workers.submit(waiting[0], requests[waiting.pop(0)])
            running += 1
        for finished in workers.wait(1.0):
            number, running = finished.key, running - 1
            assert isinstance(number, int)
            deaths[number] += finished.died
            if finished.died and deaths[number] < MAX_DEATHS:
                waiting.append(number)
            elif finished.died:
                yield Answer(number, None, f"its worker died {MAX_DEATHS} times")
            else:
                yield Answer(number, finished.value, finished.error)

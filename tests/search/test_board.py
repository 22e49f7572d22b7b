"""A board that has been looked at before shows what one that is opened anew shows."""

from __future__ import annotations

import shutil
from pathlib import Path

from benchmarks.large_job import add_large_job
from search.board import Board
from search.place import Place
from trials.candidate import Candidate, Facts, Trial
from trials.store import Store


def test_a_front_has_each_trial_as_it_is_now(planned_runs: Path, tmp_path: Path) -> None:
    shutil.copytree(planned_runs, runs := tmp_path / "runs")
    place = Place(runs, "many")
    with Store.open(runs / "prunefront.db") as store:
        add_large_job(store, Place(runs, "small"), "many", "ann", 30)
        board = Board.open(store.job("many"), place)
        known, sizes = board.front(store), [group.size for group in board.coupling.groups]
        first, second = (
            Trial(number=number, candidate=Candidate(tuple(sizes)), seed=0, target=1.0, origin="auto")
            for number in (30, 31)
        )
        store.save("many", first, second)
        store.save("many", first.start(), second.start())
        assert board.front(store)["trials"]["state"] == [*known["trials"]["state"], "running", "running"]
        facts = Facts(accuracy=0.99, accuracy_error=0.01, loss=0.1, divergence=0.1, macs=1, parameters=1)
        for ended in (second.start().finish(facts), first.start().fail("why not")):
            store.save("many", ended)
            assert board.front(store) == Board.open(store.job("many"), place).front(store)

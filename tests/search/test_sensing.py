"""What each group alone costs is measured once, and no measurement is lost or made twice."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from hwprofiles.errors import RequestError
from search.plan import Prepared
from search.progress import Silent
from search.sensing import FILE, known, sense
from search.sensitivity import probes
from tests.search.test_score import FACTS
from trials.candidate import Candidate, Space
from trials.pool import Finished
from trials.requests import Outcome, Request


class Stopped(BaseException):
    """The process is gone."""


class Workers:
    """Two workers in this process: divergence is the share of units gone, and some candidates go wrong.

    Args:
        deadly: candidates of which a worker dies as often as this says.
        stop_after: answers after which this process is gone.
    """

    def __init__(
        self, deadly: dict[Candidate, int] | None = None, failing: bool = False, stop_after: int = -1
    ) -> None:
        self.deadly, self.failing, self.stop_after = deadly or {}, failing, stop_after
        self.running: list[tuple[int, Request]] = []
        self.seen: list[Candidate] = []

    @property
    def free(self) -> int:
        return 2 - len(self.running)

    def submit(self, key: int, request: Request) -> None:
        assert request.probe
        self.running.append((key, request))

    def wait(self, timeout_s: float) -> list[Finished]:
        if len(self.seen) == self.stop_after:
            raise Stopped
        key, request = self.running.pop()
        self.seen.append(request.candidate)
        if self.deadly.get(request.candidate, 0) > 0:
            self.deadly[request.candidate] -= 1
            return [Finished(key=key, died=True)]
        if self.failing:
            return [Finished(key=key, error="it is not finite")]
        facts = replace(FACTS, divergence=1 / sum(request.candidate.kept))
        return [Finished(key=key, value=Outcome(facts=facts, kept={}))]


@pytest.fixture
def planned(prepared: Prepared, tmp_path: Path) -> Prepared:
    """The small job in a folder of runs of its own."""
    place = replace(prepared.place, runs=tmp_path)
    place.folder.mkdir()
    return replace(prepared, place=place)


def test_every_probe_is_measured_once_and_never_again_also_by_another_job(planned: Prepared) -> None:
    workers, wanted = Workers(), [probe.candidate for probe in probes(planned.space)]
    found = sense(planned, workers, Silent())
    assert sorted(workers.seen, key=lambda each: each.kept) == sorted(wanted, key=lambda each: each.kept)
    for probe in probes(planned.space):
        assert found.measured[probe.group][probe.kept] == 1 / sum(probe.candidate.kept)
    other = replace(planned, place=replace(planned.place, job="other"))
    assert sense(planned, Workers(stop_after=0), Silent()) == found
    assert sense(other, Workers(stop_after=0), Silent()) == found


def test_what_was_measured_before_the_process_was_gone_is_not_measured_again(planned: Prepared) -> None:
    first, second = Workers(stop_after=4), Workers()
    with pytest.raises(Stopped):
        sense(planned, first, Silent())
    assert sense(planned, second, Silent()) == sense(planned, Workers(stop_after=0), Silent())
    assert len(first.seen) == 4
    assert not set(first.seen) & set(second.seen)


def test_a_report_shows_what_the_job_itself_starts_from(planned: Prepared) -> None:
    found = sense(planned, Workers(), Silent())
    assert known(planned) == found
    assert not known(replace(planned, place=replace(planned.place, job="other"))).measured


def test_what_others_measure_later_changes_nothing(planned: Prepared) -> None:
    before = sense(planned, Workers(), Silent())
    narrower = Space(tuple(replace(axis, lowest=1, step=1) for axis in planned.space.axes))
    other = replace(planned, place=replace(planned.place, job="other"), space=narrower)
    workers = Workers()
    assert sense(other, workers, Silent()) != before
    assert workers.seen
    own = planned.place.folder / FILE
    other_file = other.place.folder / FILE
    other_file.write_text(own.read_text().replace(": 0.", ": 1."))
    assert sense(planned, Workers(stop_after=0), Silent()) == before


def test_measurements_of_another_model_are_not_taken(planned: Prepared) -> None:
    sense(planned, Workers(), Silent())
    changed = replace(planned, plan=replace(planned.plan, bundle_sha256="0" * 64))
    workers = Workers()
    sense(replace(changed, place=replace(planned.place, job="other")), workers, Silent())
    assert len(workers.seen) == len(probes(planned.space))


def test_a_candidate_of_which_workers_keep_dying_costs_infinitely_much(planned: Prepared) -> None:
    deadly, unlucky, *_ = probes(planned.space)
    workers = Workers(deadly={deadly.candidate: 99, unlucky.candidate: 1})
    found = sense(planned, workers, Silent())
    assert workers.seen.count(deadly.candidate) == 3
    assert math.isinf(found.measured[deadly.group][deadly.kept])
    assert math.isfinite(found.measured[unlucky.group][unlucky.kept])
    assert sense(planned, Workers(stop_after=0), Silent()) == found


def test_a_model_of_which_nothing_can_be_pruned_is_refused_with_the_reason(planned: Prepared) -> None:
    with pytest.raises(RequestError, match="no group of the model could be pruned and repaired: it is not f"):
        sense(planned, Workers(failing=True), Silent())
    assert sense(planned, Workers(), Silent()).measured


def test_what_failed_for_one_job_is_tried_again_by_another(planned: Prepared) -> None:
    deadly, *_ = probes(planned.space)
    sense(planned, Workers(deadly={deadly.candidate: 99}), Silent())
    workers = Workers()
    sense(replace(planned, place=replace(planned.place, job="other")), workers, Silent())
    assert workers.seen == [deadly.candidate]


def test_measurements_on_other_images_under_the_same_names_are_not_taken(planned: Prepared) -> None:
    sense(planned, Workers(), Silent())
    validation = planned.splits.validation
    noise = replace(validation, inputs=tuple(1 - values for values in validation.inputs))
    changed = replace(planned, splits=replace(planned.splits, validation=noise))
    workers = Workers()
    sense(replace(changed, place=replace(planned.place, job="other")), workers, Silent())
    assert len(workers.seen) == len(probes(planned.space))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"key": 1, "measured": 7}', "[" * 10**5])
def test_a_damaged_file_beside_is_passed_over(content: str, planned: Prepared) -> None:
    damaged = planned.place.runs / "damaged" / FILE
    damaged.parent.mkdir()
    damaged.write_text(content)
    assert sense(planned, Workers(), Silent()).measured
    assert json.loads((planned.place.folder / FILE).read_text())["measured"]

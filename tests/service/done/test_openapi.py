"""The API as its description has it: sequences of calls that follow its links, and calls of any kind."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis.errors import FlakyStrategyDefinition
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.generation.stateful.state_machine import APIStateMachine
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from hwprofiles.errors import NotFoundError
from hwprofiles.wire import API
from search.service.asked import Located
from tests.serving import token
from trials.store import Store
from trials.tokens import Role

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
MODEL, DATA = f"sha256:{'a' * 64}", "source:digits"
GOOD_JOB = {
    "name": "mine",
    "model": {"bundle": MODEL},
    "data": {"source": "npz", "train": DATA},
    "budget": {"latency": ["50%"]},
}
FILE = b"what somebody sends"
SUBMIT, SEND = f"POST {API}/jobs", f"PUT {API}/uploads/{{sha256}}"


@pytest.fixture(scope="module")
def located(runs: Path) -> Located:
    def find(reference: str) -> Path:
        if reference in (MODEL, DATA):
            return runs
        raise NotFoundError(f"nothing was sent as {reference}")

    return find


@pytest.fixture
def machine(store: Store, address: str) -> type[APIStateMachine]:
    """Calls as an admin, who may do most, and now and then one that is good: few are by chance."""
    schema = schemathesis.openapi.from_url(f"{address}{API}/openapi.json")
    headers = {"Authorization": f"Bearer {token(store, Role.ADMIN)}"}

    class Calls(schema.as_state_machine()):
        answered: ClassVar[Counter[tuple[str, int]]] = Counter()
        wrong: ClassVar[list[list[str]]] = []

        def setup(self) -> None:
            self.calls = 0

        def before_call(self, case: Any) -> None:
            self.calls += 1
            if self.calls % 2:
                return
            if case.operation.label == SUBMIT:
                case.body = GOOD_JOB
            elif case.operation.label == SEND:
                case.body, case.path_parameters = FILE, {"sha256": sha256(FILE).hexdigest()}
                case.headers["Content-Range"] = f"bytes 0-{len(FILE) - 1}/{len(FILE)}"

        def get_call_kwargs(self, case: Any) -> dict[str, Any]:
            return {"headers": headers}

        def validate_response(self, response: Any, case: Any, **kwargs: Any) -> None:
            self.answered[case.operation.label, response.status_code] += 1
            try:
                case.validate_response(response, checks=CHECKS, **kwargs)
            except FailureGroup as failures:
                self.wrong.append([str(each) for each in failures.exceptions])

    return Calls


def run(machine: type[APIStateMachine], sequences: int, calls: int) -> Counter[tuple[str, int]]:
    """Make so many sequences of at most so many calls; every answer must be as described."""
    with suppress(FlakyStrategyDefinition):  # the service remembers: the same calls again may lead elsewhere
        machine.run(
            settings=settings(
                max_examples=sequences,
                stateful_step_count=calls,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
        )
    assert machine.wrong == []
    return machine.answered


def test_every_link_leads_to_a_call_that_there_is(address: str) -> None:
    described = schemathesis.openapi.from_url(f"{address}{API}/openapi.json").raw_schema
    operations = {
        operation["operationId"]: operation
        for calls in described["paths"].values()
        for operation in calls.values()
    }
    links = [
        (link["operationId"], parameter)
        for operation in operations.values()
        for answer in operation["responses"].values()
        for link in answer.get("links", {}).values()
        for parameter in link["parameters"]
    ]
    assert len(links) > 20
    for name, parameter in links:
        assert parameter in [each["name"] for each in operations[name]["parameters"]]


def test_sequences_of_calls_are_answered_as_the_description_says(machine: type[APIStateMachine]) -> None:
    answered = run(machine, sequences=15, calls=10)
    while not answered[SUBMIT, 201] or len({call for call, _ in answered}) < 12:
        run(machine, sequences=15, calls=10)  # what is made up at random is now and then of few kinds


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_sequences_of_calls_are_answered_as_the_description_says(
    machine: type[APIStateMachine],
) -> None:
    run(machine, sequences=500, calls=40)

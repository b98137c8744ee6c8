"""The OpenAPI document is true: whatever is sent by it, or against it, is answered as it says."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from autopeft.journey.workspace import study_folder
from autopeft.service.app import make_service
from autopeft.service.office import Office
from autopeft.service.settings import Settings
from tests.service.kept import keep_study
from tests.service.shipped_questions import SHIPPED

EXAMPLES = int(os.environ.get("AUTOPEFT_FUZZ_EXAMPLES", "4"))
"""Of each operation; `make fuzz` takes many more."""
SEED = os.environ.get("AUTOPEFT_FUZZ_SEED")
"""What is drawn; without it always the same."""
DRAWN = settings(
    max_examples=EXAMPLES,
    derandomize=SEED is None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
# What a real name has taken the place of may be what was wrong with a case.
ANY_CHECKS = [check for check in CHECKS if check is not negative_data_rejection]
API = "/api/v1"
# What is drawn by the document is hardly ever a right question there: a demo is, and traced for minutes.
DEMOS = {"/api/v1/plan", "/api/v1/verdict"}
# The document's example, and what is drawn from it, is a right question there: its ways out are traced.
EXPLAIN, EXPLAINED = "/api/v1/explain", "Llama-3.1-8B"
# Whatever fits its schema is a right question there, of thirty models each; `test_planning` asks one.
OVERVIEW = "/api/v1/overview"
# Answered by processes of their own, seconds each; `test_results` asks them.
APART = {f"/api/v1/studies/{{name}}/{verb}" for verb in ("report", "recipe", "compare/{other}")}
SECONDS = 600.0


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where patterns of what has to be traced would lie."""
    with pytest.MonkeyPatch.context() as environment:
        place = tmp_path_factory.mktemp("cache")
        environment.setenv("AUTOPEFT_CACHE", str(place))
        yield place / "patterns"


@pytest.fixture(scope="module")
def document(traced: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    place = tmp_path_factory.mktemp("contract")
    told = {"rate": 0, "slots": 0, "quota": 10**6, "names": ("testserver",)}
    with Office(Settings.build(workspace=place / "ws", **told)) as office:
        token = office.tokens.create("fuzz", "admin")[1]  # which a service by such a name asks for
        schema = schemathesis.openapi.from_asgi("/api/v1/openapi.json", make_service(office))
        yield schema, {"authorization": f"Bearer {token}"}


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[object, TestClient, str]]:
    """A service with a study whose winner can be exported: its document, a client of it, the job's id."""
    place = tmp_path_factory.mktemp("searched")
    told = {"rate": 0, "slots": 0, "quota": 10**6, "names": ("testserver",)}
    with Office(Settings.build(workspace=place / "ws", **told)) as office:
        service = make_service(office)
        token = office.tokens.create("fuzz", "submit")[1]
        client = TestClient(service, headers={"authorization": f"Bearer {token}"})
        client.office = office  # type: ignore[attr-defined]
        name = keep_study(client, {}, "all-MiniLM-L6-v2", right=range(150))
        study_folder(str(office.settings.workspace.resolve()), name).checkpoint(1).mkdir(parents=True)
        yield schemathesis.openapi.from_asgi("/api/v1/openapi.json", service), client, name


def seeded(test: Callable[[], None]) -> Callable[[], None]:
    """Draw other cases for each seed."""
    return test if SEED is None else seed(int(SEED))(test)


def is_quick(case: schemathesis.Case) -> bool:
    """Say whether nothing has to be traced for an answer."""
    asks = case.body if isinstance(case.body, dict) else {}
    if case.operation.path in DEMOS:
        return asks.get("demo") is None
    return case.operation.path != EXPLAIN or asks.get("model") != EXPLAINED


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_every_operation_keeps_its_contract(document, mode) -> None:
    seen: dict[str, set[int]] = {}
    schema, token = document
    for found in schema.get_all_operations():
        operation = found.ok()
        if mode is GenerationMode.POSITIVE and operation.path == OVERVIEW:
            continue
        if mode is GenerationMode.NEGATIVE and not (
            operation.body or operation.query or operation.path_parameters
        ):
            continue
        seen[operation.label] = set()

        @seeded
        @DRAWN
        @given(case=operation.as_strategy(generation_mode=mode).filter(is_quick))
        def keeps(case: schemathesis.Case) -> None:
            answer = case.call_and_validate(checks=CHECKS, timeout=SECONDS, headers=token)
            seen[case.operation.label].add(answer.status_code)

        keeps()
    unasked = {label for label, statuses in seen.items() if statuses == {401}}
    assert unasked <= {"POST /api/v1/session"}, "a refusal for want of a token proves nothing"
    assert len(seen) > 10


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_what_is_asked_of_a_study_that_is_there_keeps_the_contract(searched, mode) -> None:
    schema, client, name = searched
    good: dict[str, set[int]] = {}
    for found in schema.get_all_operations():
        operation = found.ok()
        asks_more = operation.body or operation.query
        if operation.path in APART or not operation.path.startswith((f"{API}/jobs/{{", f"{API}/studies/{{")):
            continue
        if mode is GenerationMode.NEGATIVE and not asks_more:
            continue
        good[operation.label] = set()

        @seeded
        @DRAWN
        @given(case=operation.as_strategy(generation_mode=mode))
        def keeps(case: schemathesis.Case) -> None:
            client.post(f"{API}/jobs/{name}/stop")  # what was resumed would have to end first
            case.path_parameters = dict.fromkeys(case.path_parameters, name)
            answer = case.call_and_validate(checks=ANY_CHECKS, timeout=SECONDS, headers=dict(client.headers))
            good[case.operation.label].add(answer.status_code)

        keeps()
    made = {label for label, statuses in good.items() if statuses & {200, 201}}
    if mode is GenerationMode.POSITIVE:
        assert f"POST {API}/jobs/{{number}}/conclude" in made
        assert f"GET {API}/jobs/{{number}}/events" in made
        assert f"GET {API}/studies/{{name}}" in made
    assert len(good) > 3


@pytest.mark.parametrize("path", SHIPPED)
def test_right_questions_are_answered_as_the_contract_says_and_nothing_is_traced(
    document, traced, path
) -> None:
    schema, token = document
    operation = schema[path]["POST"]
    statuses = set()
    before = set(traced.glob("*"))

    @seeded
    @DRAWN
    @given(body=SHIPPED[path])
    def keeps(body: dict[str, Any]) -> None:
        case = operation.Case(body=body, media_type="application/json")
        statuses.add(case.call_and_validate(checks=CHECKS, timeout=SECONDS, headers=token).status_code)

    keeps()
    assert 200 in statuses
    assert set(traced.glob("*")) == before

"""The OpenAPI document is true: whatever is sent by it, or against it, is answered as it says."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from autopeft.service.app import make_service
from autopeft.service.office import Office
from autopeft.service.settings import Settings

EXAMPLES = int(os.environ.get("AUTOPEFT_FUZZ_EXAMPLES", "4"))
"""Of each operation; `make fuzz` takes many more."""
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
# What is right there may be traced for minutes; `test_planning` asks it.
SLOW = {f"/api/v1/{name}" for name in ("plan", "overview", "capacity", "verdict", "explain")}
SECONDS = 120.0


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    place = tmp_path_factory.mktemp("contract")
    told = {"rate": 0, "slots": 0, "quota": 10**6, "names": ("testserver",)}
    with Office(Settings.build(workspace=place / "ws", **told)) as office:
        token = office.tokens.create("fuzz", "admin")[1]  # which a service by such a name asks for
        schema = schemathesis.openapi.from_asgi("/api/v1/openapi.json", make_service(office))
        yield schema, {"authorization": f"Bearer {token}"}


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_every_operation_keeps_its_contract(document, mode) -> None:
    seen: dict[str, set[int]] = {}
    schema, token = document
    for found in schema.get_all_operations():
        operation = found.ok()
        if mode is GenerationMode.POSITIVE and operation.path in SLOW:
            continue
        if mode is GenerationMode.NEGATIVE and not (
            operation.body or operation.query or operation.path_parameters
        ):
            continue
        seen[operation.label] = set()

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        def keeps(case: schemathesis.Case) -> None:
            answer = case.call_and_validate(checks=CHECKS, timeout=SECONDS, headers=token)
            seen[case.operation.label].add(answer.status_code)

        keeps()
    unasked = {label for label, statuses in seen.items() if statuses == {401}}
    assert unasked <= {"POST /api/v1/session"}, "a refusal for want of a token proves nothing"
    assert len(seen) > 10

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from autopeft.cost.pattern import SCORES, Pattern
from autopeft.cost.pattern_cache import SHIPPED, shipped_pattern
from autopeft.cost.tracing.request import TraceRequest
from autopeft.cost.tracing.workers import TracePool
from autopeft.journey.shipping import shipped_requests


@pytest.fixture(scope="module")
def requests() -> list[TraceRequest]:
    return list(shipped_requests())


def apart(traced: Pattern) -> tuple[bytes, NDArray[np.float64], list[NDArray[np.int32]]]:
    """Return all of a pattern but versions, coefficients and the order of its events; these two."""
    scores = {name: getattr(traced, name) for name in SCORES}
    bare = {name: replace(each, events=np.zeros_like(each.events)) for name, each in scores.items()}
    solved = traced.formula_values
    rest = replace(traced, versions={}, formula_values=np.zeros_like(solved), **bare)
    return rest.to_bytes(), solved, [each.events for each in scores.values()]


def require_same(requests: list[TraceRequest]) -> None:
    """Every shipped pattern is what is traced today; if not, `make patterns` renews the archive.

    Now and then, for a reason not found yet, a few frees name another block than in the run before. What is
    solved for is rounded as the processor does it. All else is the same to the byte.
    """
    with TracePool(seconds=300) as pool:
        for index, traced in pool.trace_many(requests):
            request, ships = requests[index], shipped_pattern(requests[index])
            assert isinstance(traced, Pattern), f"{request.base.name}: {traced}"
            assert ships is not None
            (rest, solved, frees), (same_rest, same_solved, same_frees) = apart(ships), apart(traced)
            assert rest == same_rest, request.base.name
            np.testing.assert_allclose(solved, same_solved, rtol=1e-9, atol=1e-6, err_msg=request.base.name)
            for one, other in zip(frees, same_frees, strict=True):
                assert np.count_nonzero(one != other) <= len(one) / 1000, request.base.name


def test_every_pattern_that_should_ship_does(requests: list[TraceRequest]) -> None:
    lacking = [request.base.name for request in requests if shipped_pattern(request) is None]
    assert not lacking
    assert SHIPPED.stat().st_size < 8_000_000


@pytest.mark.slow
def test_some_shipped_patterns_are_what_is_traced_today(requests: list[TraceRequest]) -> None:
    # Others at every change of the code, the same at every run.
    require_same(random.Random(requests[0].key).sample(requests, 2))


@pytest.mark.slow
def test_many_shipped_patterns_are_what_is_traced_today(requests: list[TraceRequest]) -> None:
    require_same(random.Random(requests[0].key).sample(requests, 40))


def test_the_first_answer_for_a_usual_model_traces_nothing(tmp_path: Path) -> None:
    command = [
        "estimate",
        "Llama-3.1-8B",
        "--batch-size",
        "4",
        "--seq-len",
        "2048",
        "--gpu",
        "l40s",
        "--json",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "autopeft", *command, "--quantization", "nf4-dq", "--gradient-checkpointing"],
        env={**os.environ, "AUTOPEFT_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "ok"
    assert not list(tmp_path.rglob("*.pattern"))

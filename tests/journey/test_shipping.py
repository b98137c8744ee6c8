from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from autopeft.cost.pattern_cache import SHIPPED, shipped_pattern
from autopeft.cost.tracing.request import TraceRequest
from autopeft.cost.tracing.workers import TracePool
from autopeft.journey.shipping import shipped_requests


@pytest.fixture(scope="module")
def requests() -> list[TraceRequest]:
    return list(shipped_requests())


def without_builds(request: TraceRequest, traced: object) -> bytes:
    from autopeft.cost.pattern import Pattern

    assert isinstance(traced, Pattern), f"{request.base.name}: {traced}"
    return replace(traced, versions={}).to_bytes()


def require_same(requests: list[TraceRequest]) -> None:
    """Every shipped pattern is what is traced today; if not, `make patterns` renews the archive."""
    with TracePool(seconds=300) as pool:
        for index, traced in pool.trace_many(requests):
            request = requests[index]
            ships, today = (
                zlib.decompress(without_builds(request, each)) for each in (shipped_pattern(request), traced)
            )
            # Python's collector frees a few tensors some operators sooner or later from run to run.
            moved = sum(one != other for one, other in zip(ships, today, strict=True))
            assert moved <= len(ships) / 10_000, request.base.name


def test_every_pattern_that_should_ship_does(requests: list[TraceRequest]) -> None:
    lacking = [request.base.name for request in requests if shipped_pattern(request) is None]
    assert not lacking
    assert SHIPPED.stat().st_size < 8_000_000


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

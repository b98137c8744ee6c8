"""Tests of autopeft/cost/model.py, pattern_cache.py and tracing/workers.py, with real tracing processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from autopeft.cost.estimate import CostEstimate
from autopeft.cost.loops import LOOPS
from autopeft.cost.model import TracedCostModel, run_for
from autopeft.cost.pattern_cache import PatternCache
from autopeft.cost.tracing.request import TraceRequest
from autopeft.cost.tracing.workers import TracePool
from autopeft.errors import InputError, UnsupportedError
from autopeft.hardware.profile import HardwareProfile
from autopeft.space.candidate import Candidate, Training
from autopeft.workload.base_model import BaseModel
from autopeft.workload.dataset import Lengths, Workload

WORKLOAD = Workload(
    task="classification", lengths=Lengths.of(list(range(4, 33))), rows=200, validation_rows=40
)
TRAINING = Training(max_length=32, batch_size=4)


def _candidate(method: str = "lora", **fields: object) -> Candidate:
    return Candidate.model_validate({"method": method, "training": TRAINING, **fields})


@pytest.fixture(scope="module")
def pool() -> Iterator[TracePool]:
    with TracePool(workers=1) as pool:
        yield pool


@pytest.fixture
def model(pool: TracePool, tmp_path: Path) -> TracedCostModel:
    model = TracedCostModel(workers=1, cache=PatternCache(tmp_path))
    model._pool = pool  # one process for all tests: importing torch takes seconds
    return model


def _request(base: BaseModel, cpu: HardwareProfile, candidate: Candidate | None = None) -> TraceRequest:
    run = run_for(base, candidate or _candidate(), WORKLOAD, cpu, LOOPS["autopeft"])
    assert not isinstance(run, Exception)
    return run.request


def test_an_estimate_has_parts_bands_and_provenance(
    model: TracedCostModel, tiny_bert: BaseModel, cpu: HardwareProfile
):
    estimate = model.estimate(tiny_bert, _candidate(rank=4), WORKLOAD, cpu)
    assert estimate.memory.parts.total == estimate.memory.allocated_peak_bytes
    assert estimate.memory.low_bytes <= estimate.memory.device_peak_bytes <= estimate.memory.high_bytes
    assert estimate.run_seconds is not None
    assert estimate.run_seconds > estimate.time.step_seconds
    assert " as cpu with torch" in estimate.provenance


def test_many_candidates_are_answered_in_their_order_and_equal_footprints_traced_once(
    model: TracedCostModel, tiny_bert: BaseModel, cpu: HardwareProfile, tmp_path: Path
):
    candidates = [
        _candidate(rank=4),
        _candidate(rank=8),
        _candidate(rank=4, training=TRAINING.model_copy(update={"learning_rate": 1e-4})),
        _candidate(method="probe"),
        _candidate(targets="nowhere"),
        _candidate(quantization="nf5"),
    ]
    told: list[int] = []
    answers = model.estimate_many(tiny_bert, candidates, WORKLOAD, cpu, told.append)
    assert told == sorted(told)
    assert told[-1] == len(candidates)
    small, large, again, probe, nowhere, quantized = answers
    assert isinstance(small, CostEstimate)
    assert isinstance(large, CostEstimate)
    assert isinstance(probe, CostEstimate)
    assert small == again
    assert probe.trainable_params < small.trainable_params < large.trainable_params
    assert isinstance(nowhere, InputError)
    assert isinstance(quantized, InputError)
    assert list(tmp_path.glob("*.pattern"))


def test_what_was_traced_ahead_is_not_traced_again(
    model: TracedCostModel, tiny_bert: BaseModel, cpu: HardwareProfile
):
    asked = [
        (tiny_bert, _candidate(rank=4), WORKLOAD, cpu, LOOPS["autopeft"]),
        (tiny_bert, _candidate(rank=8), WORKLOAD, cpu, LOOPS["plain"]),
        (tiny_bert, _candidate(quantization="nf5"), WORKLOAD, cpu, LOOPS["autopeft"]),
    ]
    told: list[tuple[int, int]] = []
    model.trace_ahead(asked, lambda done, total: told.append((done, total)))
    assert told == [(0, 2), (1, 2), (2, 2)]
    model.trace_ahead(asked, lambda done, total: told.append((done, total)))
    assert len(told) == 3
    started = len(model._pool._all)
    model.close()
    answers = [model.estimate(*each) for each in asked[:2]]
    assert started
    assert not model._pool._all
    assert answers[0].trainable_params < answers[1].trainable_params


def test_a_damaged_pattern_is_traced_again(
    model: TracedCostModel, tiny_bert: BaseModel, cpu: HardwareProfile, tmp_path: Path
):
    before = model.estimate(tiny_bert, _candidate(), WORKLOAD, cpu)
    file = max(tmp_path.glob("*.pattern"), key=lambda each: each.stat().st_size)
    whole = file.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], whole[:200] + b"\x00" * 200 + whole[400:]):
        file.write_bytes(damaged)
        model._expansions.clear()  # or memory answers
        assert model.estimate(tiny_bert, _candidate(), WORKLOAD, cpu) == before
        assert file.read_bytes() == whole


def test_a_killed_process_is_unsupported_and_the_next_trace_has_another(
    pool: TracePool, tiny_bert: BaseModel, cpu: HardwareProfile
):
    request = _request(tiny_bert, cpu)
    list(pool.trace_many([request]))
    process = pool._all[0]._process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)  # so that it surely dies with the request in its hands
    answers = pool.trace_many([request])
    timer = subprocess.Popen(
        [sys.executable, "-c", f"import os, time; time.sleep(1); os.kill({process.pid}, 9)"]
    )
    (_, died) = next(answers)
    timer.wait()
    assert isinstance(died, UnsupportedError)
    assert "ended the tracing process: exit status -9" in str(died)
    ((_, lives),) = pool.trace_many([request])
    assert not isinstance(lives, Exception)


def test_a_trace_that_takes_too_long_is_stopped(
    pool: TracePool, tiny_bert: BaseModel, cpu: HardwareProfile, monkeypatch: pytest.MonkeyPatch
):
    request = _request(tiny_bert, cpu)
    list(pool.trace_many([request]))
    monkeypatch.setattr(pool, "seconds", 0.01)
    ((_, answer),) = pool.trace_many([request])
    assert isinstance(answer, UnsupportedError)
    assert "took more than" in str(answer)


def test_closing_ends_every_process(tiny_bert: BaseModel):
    pool = TracePool(workers=2)
    pool.warm_up()
    processes = [worker._process for worker in pool._all]
    pool.close()
    assert [process.poll() is not None for process in processes if process] == [True, True]


def test_answering_from_the_cache_loads_no_torch_and_starts_no_process(
    model: TracedCostModel, tiny_bert: BaseModel, cpu: HardwareProfile, tmp_path: Path
):
    expected = model.estimate(tiny_bert, _candidate(), WORKLOAD, cpu)
    script = tmp_path / "script.py"  # without a main guard
    script.write_text(f"""
import sys
from pathlib import Path
from autopeft.cost.model import TracedCostModel
from autopeft.cost.pattern_cache import PatternCache
from autopeft.hardware.profile import HardwareProfile
from autopeft.space.candidate import Candidate
from autopeft.workload.base_model import BaseModel
from autopeft.workload.dataset import Workload
with TracedCostModel(cache=PatternCache(Path({str(tmp_path)!r}))) as model:
    print(model.estimate(
        BaseModel.model_validate_json({tiny_bert.model_dump_json()!r}),
        Candidate.model_validate_json({_candidate().model_dump_json()!r}),
        Workload.model_validate_json({WORKLOAD.model_dump_json()!r}),
        HardwareProfile.model_validate_json({cpu.model_dump_json()!r}),
    ).model_dump_json())
assert "torch" not in sys.modules and not model._pool._all
""")
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert CostEstimate.model_validate_json(ran.stdout) == expected


def test_rows_of_one_length_have_no_padding(tiny_bert: BaseModel, cpu: HardwareProfile):
    even = WORKLOAD.model_copy(update={"lengths": Lengths.constant(16)})
    run = run_for(tiny_bert, _candidate(), even, cpu, LOOPS["autopeft"])
    assert not isinstance(run, Exception)
    assert not run.request.padded
    assert set(run.lengths) == {16}
    assert _request(tiny_bert, cpu).padded


def test_the_key_of_a_tape_changes_with_all_that_it_depends_on(tiny_bert: BaseModel, cpu: HardwareProfile):
    request = _request(tiny_bert, cpu).exact
    others = [
        request.model_copy(update={"rows": 5}),
        request.model_copy(update={"length": 6}),
        request.model_copy(update={"target": "cuda"}),
        request.model_copy(update={"labels": 3}),
        request.model_copy(update={"padded": False}),
        request.model_copy(
            update={"base": tiny_bert.model_copy(update={"config": {**tiny_bert.config, "vocab_size": 101}})}
        ),
        _request(tiny_bert, cpu, _candidate(rank=2)).exact,
        request.model_copy(update={"loop": LOOPS["trainer"]}),
    ]
    assert len({each.key for each in (request, *others)}) == len(others) + 1
    renamed = request.model_copy(update={"base": tiny_bert.model_copy(update={"name": "other"})})
    assert renamed.key == request.key


def test_forward_only_training_is_estimated_without_a_backward(
    model: TracedCostModel, tiny_bert: BaseModel, cpu: HardwareProfile, gpu: HardwareProfile
):
    found = {}
    for name in ("mezo", "sgd"):
        training = TRAINING.model_copy(update={"optimizer": name})
        for device in (cpu, gpu):
            asked = _candidate("full", training=training)
            found[name, device.name] = model.estimate(tiny_bert, asked, WORKLOAD, device)
    for device in (cpu, gpu):
        few, usual = found["mezo", device.name], found["sgd", device.name]
        assert few.memory.parts.gradients == 0 < usual.memory.parts.gradients
        assert few.memory.allocated_peak_bytes < 0.7 * usual.memory.allocated_peak_bytes
        assert few.time.backward_seconds == 0 < few.time.forward_seconds

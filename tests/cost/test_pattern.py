"""Tests of autopeft/cost/pattern.py and pattern_cache.py: sizes as formulas, packed as numbers only."""

from __future__ import annotations

import json
import random
import struct
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from autopeft.cost import pattern_cache
from autopeft.cost.expand import Expansion
from autopeft.cost.pattern import Pattern, Run, Score, monomial_degrees, monomials
from autopeft.cost.pattern_cache import PatternCache
from autopeft.cost.tape import Category, Phase
from autopeft.cost.tracing.request import TraceRequest
from autopeft.space.candidate import Candidate, Training
from autopeft.workload.base_model import BaseModel


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def score(events: list[int], units: list[int], sizes: list[int], spans: list[tuple[int, ...]]) -> Score:
    births = [place for place, event in enumerate(events) if event >= 0]
    count = len(births)
    block_unit = [units[place] for place in births]
    return Score(
        block_unit=ints(*block_unit),
        block_twin=ints(*(block_unit.index(1) if unit >= 0 else -1 for unit in block_unit)),
        block_size=ints(*sizes),
        block_category=np.full(count, int(Category.SAVED), dtype=np.int8),
        events=ints(*events),
        frames=np.zeros(len(events), dtype=np.int8),
        event_unit=ints(*units),
        spans=np.array(spans, dtype=np.int32),
        operators=ints(0, 0, 0),
        operator_unit=ints(0, 1, 2),
        operator_flops=ints(1, 1, 1),
        operator_bytes=ints(1, 1, 1),
    )


@pytest.fixture
def pattern() -> Pattern:
    """By hand: each of five layers (three are here) has a weight, and saves something until backward."""
    index = {"rows": 21, "one": 0}
    step = score(
        [0, 1, 2, ~2, ~1, ~0],
        [0, 1, 2, 2, 1, 0],
        [1, 1, 1],
        [(0, Phase.FORWARD, 0, 0), (0, Phase.BACKWARD, 3, 3), (0, Phase.OPTIMIZER, 6, 3)],
    )
    return Pattern(
        target="cuda",
        general=True,
        micro_batches=1,
        depth=5,
        added=0,
        guesses=("made by hand",),
        runs=(Run(units=3, copies=2),),
        built=score([0, 1, 2], [0, 1, 2], [2, 2, 2], [(0, Phase.BUILD, 0, 0)]),
        first=step,
        later=step,
        first_of_later=ints(-1, -1, -1),
        formula_terms=np.array([[0, 0, 0], [index["rows"], 0, 0], [0, 0, 0]], dtype=np.int16),
        formula_values=np.array([[0.0, 0, 0], [4.0, 2.0, 0], [100.0, 0, 0]]),
        parameters=ints(0, 2, 1, 2, 1, 2, 1, 2, 2, 2, 1, 2).reshape(3, 4),
        operator_kinds=(("aten::mm", "float32", 1),),
        versions={"torch": "2"},
    )


def test_a_pattern_made_by_hand_expands_as_it_says(pattern: Pattern):
    tape = Expansion(pattern).tape(rows=7, lengths=(16, 16), rank=1)
    assert tape.block_bytes.tolist() == [100] * 5 + [4 * 7 + 2] * 10
    assert tape.events.tolist()[5:15] == [5, 6, 7, 8, 9, ~9, ~8, ~7, ~6, ~5]
    assert tape.trainable_params == tape.total_params == tape.adapter_bytes == 500
    assert len(tape.operators) == 5


def test_there_is_a_degree_for_each_monomial_and_the_simplest_is_one():
    assert len(monomials(2, 33, 4, 3)) == len(monomial_degrees())
    assert monomials(2, 33, 4, 3)[0] == 1
    assert monomial_degrees()[0] == monomial_degrees().min() == 0


def test_monomials_round_lengths_as_kernels_do():
    values = monomials(1, 33, 1, 1)
    assert {33, 40, 64, 128, 33 * 40, 40 * 64} <= set(values.tolist())


def test_monomials_grow_with_everything():
    smaller, larger = monomials(2, 33, 4, 3), monomials(3, 65, 5, 4)
    assert (larger >= smaller).all()


def test_a_pattern_survives_packing(pattern: Pattern):
    again = Pattern.from_bytes(pattern.to_bytes())
    assert again.to_bytes() == pattern.to_bytes()
    assert (again.runs, again.guesses, again.operator_kinds) == (
        pattern.runs,
        pattern.guesses,
        pattern.operator_kinds,
    )
    assert np.array_equal(again.evaluate(2, 33, 4, 5), pattern.evaluate(2, 33, 4, 5))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(arrays(np.int32, st.integers(0, 50), elements=st.integers(-(2**29), 2**29)))
def test_any_events_survive_packing(pattern: Pattern, events: np.ndarray):
    made = replace(pattern, later=replace(pattern.later, events=events))
    assert np.array_equal(Pattern.from_bytes(made.to_bytes()).later.events, events)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 not a pattern", b"\x80\x04]\x94.", b"\x93NUMPY"])
def test_what_is_no_pattern_is_a_value_error(data: bytes):
    with pytest.raises(ValueError, match=r"pattern|pickle|EOF"):
        Pattern.from_bytes(data)


def test_damaged_bytes_are_a_value_error_or_unharmed(pattern: Pattern):
    whole = pattern.to_bytes()
    dice = random.Random(0)
    for _ in range(400):
        damaged = bytearray(whole)
        for _ in range(dice.randint(1, 4)):
            damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
        try:
            again = Pattern.from_bytes(bytes(damaged))
        except ValueError:
            continue
        assert again.depth == pattern.depth


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_cut_file_is_a_value_error(share: float, pattern: Pattern):
    whole = pattern.to_bytes()
    with pytest.raises(ValueError, match="pattern"):
        Pattern.from_bytes(whole[: int(share * len(whole))])


def packed(head: str) -> bytes:
    return zlib.compress(struct.pack("<I", len(head)) + head.encode())


@pytest.mark.parametrize("head", ["[]", "3", "null", "{}", '{"format": 0}', "not json", '{"format": 3}'])
def test_a_head_that_is_another_is_a_value_error(head: str):
    with pytest.raises(ValueError, match="pattern"):
        Pattern.from_bytes(packed(head))


@pytest.mark.parametrize(
    "array", [["a", "|O", [1]], ["a", "<i8", [-1]], ["a", "<i8", [10**12]], ["a", "x", []]]
)
def test_arrays_that_are_not_there_or_would_run_code_are_a_value_error(array: list[object]):
    with pytest.raises(ValueError, match="pattern"):
        Pattern.from_bytes(packed(json.dumps({"format": 3, "arrays": [array]})))


@pytest.fixture
def request_(tiny_bert: BaseModel) -> TraceRequest:
    candidate = Candidate(method="lora", rank=4, targets="query+value", training=Training(max_length=16))
    return TraceRequest(
        base=tiny_bert, candidate=candidate, task="classification", labels=2, rows=4, length=16, target="cpu"
    )


def test_a_general_pattern_is_kept_for_all_shapes(pattern: Pattern, request_: TraceRequest, tmp_path: Path):
    cache = PatternCache(tmp_path)
    assert cache.get(request_) is None
    cache.put(request_, pattern)
    other = request_.model_copy(update={"rows": 9, "length": 24})
    found = cache.get(other)
    assert found is not None
    assert found.to_bytes() == pattern.to_bytes()
    assert cache.resolve(other) is other


def test_a_cache_knows_that_no_general_pattern_exists(
    pattern: Pattern, request_: TraceRequest, tmp_path: Path
):
    exact = replace(pattern, general=False)
    cache = PatternCache(tmp_path)
    cache.put(request_, exact)
    assert cache.get(request_) is None
    assert cache.resolve(request_) == request_.exact
    assert cache.get(request_.exact) is not None
    other = request_.model_copy(update={"rows": 9})
    assert cache.resolve(other) == other.exact
    assert cache.get(other.exact) is None


def test_what_cannot_be_read_is_as_if_it_were_not_there(
    pattern: Pattern, request_: TraceRequest, tmp_path: Path
):
    cache = PatternCache(tmp_path)
    cache.put(request_, pattern)
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"damaged")
    assert cache.get(request_) is None
    assert cache.resolve(request_) is request_


def test_a_damaged_archive_ships_nothing(
    request_: TraceRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    archive = tmp_path / "shipped.zip"
    with zipfile.ZipFile(archive, "w") as stream:
        stream.writestr(request_.shipped_name, b"no pattern")
    monkeypatch.setattr(pattern_cache, "SHIPPED", archive)
    pattern_cache._shipped_names.cache_clear()
    assert pattern_cache.shipped_pattern(request_) is None
    archive.write_bytes(archive.read_bytes()[:40])
    assert pattern_cache.shipped_pattern(request_) is None
    pattern_cache._shipped_names.cache_clear()
    assert pattern_cache.shipped_pattern(request_) is None
    monkeypatch.undo()
    pattern_cache._shipped_names.cache_clear()

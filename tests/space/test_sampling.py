from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopeft.space.domain import Choice, Domain, Range, Switches
from autopeft.space.reader import load_space
from autopeft.space.sampling import draw, neighbours
from autopeft.space.search_space import SearchSpace, active, candidate_from, fix

METHOD = Domain(field="method", allowed=Choice(choices=("lora", "ia3")))
RANK = Domain(field="rank", allowed=Range(low=1, high=64, log=True), when={"method": ("lora",)})
ROWS = Domain(field="training.batch_size", allowed=Range(low=4, high=16, step=4))
DECAY = Domain(field="training.weight_decay", allowed=Range(low=0.0, high=0.1))
LAYERS = Domain(field="layers", allowed=Switches(switches=4), when={"method": ("ia3",)})
SPACE = SearchSpace(name="mixed", domains=(METHOD, RANK, ROWS, DECAY, LAYERS))


@given(seed=st.integers(0, 2**32))
def test_what_is_drawn_and_all_its_neighbours_are_candidates_of_the_space(seed: int) -> None:
    dice = random.Random(seed)
    values = draw(SPACE, dice)
    candidate_from(SPACE, values)
    around = list(neighbours(SPACE, values, dice))
    assert around
    for other in around:
        candidate_from(SPACE, other)
        shared = values.keys() & other.keys()
        changed = [field for field in shared if values[field] != other[field]]
        assert len(changed) == 1
        assert changed == ["method"] or values.keys() == other.keys()


@pytest.mark.parametrize("name", ["full", "autopeft-2024", "memory-tight"])
def test_shipped_spaces_can_be_walked(name: str) -> None:
    space, dice = load_space(name), random.Random(0)
    for _ in range(20):
        for other in neighbours(space, draw(space, dice), dice):
            candidate_from(space, other)


def test_given_values_stay_where_they_count() -> None:
    values = draw(SPACE, random.Random(0), {"method": "ia3", "rank": 8, "training.batch_size": 12})
    assert values["method"] == "ia3"
    assert values["training.batch_size"] == 12
    assert "rank" not in values


def test_neighbours_take_each_other_choice_the_next_steps_and_one_switch_at_a_time() -> None:
    values = {
        "method": "ia3",
        "training.batch_size": 8,
        "training.weight_decay": 0.05,
        "layers": "switches:1100",
    }
    around = list(neighbours(SPACE, values, random.Random(0)))
    assert {each["training.batch_size"] for each in around} == {4, 8, 12}
    assert {each["layers"] for each in around if each["method"] == "ia3"} == {
        "switches:1100", "switches:0100", "switches:1000", "switches:1110", "switches:1101",
    }  # fmt: skip
    (moved,) = [each for each in around if each["method"] == "lora"]
    assert moved["rank"] == RANK.allowed.typical


def test_a_logarithmic_range_is_drawn_evenly_over_orders_of_magnitude() -> None:
    space = fix(SPACE, {"method": "lora"})
    dice = random.Random(0)
    drawn = Counter(draw(space, dice)["rank"] <= 8 for _ in range(2000))
    assert 0.45 < drawn[True] / 2000 < 0.62
    assert [domain.field for domain in active(space, {})] == [
        "rank",
        "training.batch_size",
        "training.weight_decay",
    ]

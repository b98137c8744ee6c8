from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_training import toy_space

from autopeft.search.encoding import Encoding, usual_rate
from autopeft.search.pool import Pool
from autopeft.space.candidate import Candidate
from autopeft.space.domain import Choice, Domain
from autopeft.space.reader import list_spaces
from autopeft.space.search_space import SearchSpace, assignment_of, warm_start

SPACES = {space.name: space for space in list_spaces()}
SMALL = SearchSpace(
    name="small",
    domains=(
        Domain(field="method", allowed=Choice(choices=("lora", "ia3"))),
        Domain(field="rank", allowed=Choice(choices=(2, 4)), when={"method": ("lora",)}),
    ),
)


@pytest.mark.parametrize("name", sorted(SPACES))
@given(seed=st.integers(0, 2**32))
@settings(max_examples=5)
def test_all_that_is_offered_belongs_to_the_space(name: str, seed: int) -> None:
    space = SPACES[name]
    pool = Pool(space, random.Random(seed))
    offered = pool.offer(list(warm_start(space)[:2]))
    assert offered
    assert all(assignment_of(space, candidate) is not None for candidate in offered)


@pytest.mark.parametrize("name", sorted(SPACES))
def test_features_tell_all_candidates_apart(name: str) -> None:
    space = SPACES[name]
    offered = Pool(space, random.Random(0)).offer([])
    rows = Encoding(space).features(offered)
    assert rows.shape[1] == len(Encoding(space).groups)
    assert len({tuple(row) for row in rows.round(9).tolist()}) == len(offered)


def test_a_small_space_is_offered_whole_and_runs_dry() -> None:
    pool = Pool(SMALL, random.Random(0))
    first = pool.offer([])
    assert {candidate.label for candidate in first} == {
        "lora r=2 lr=0.001",
        "lora r=4 lr=0.001",
        "ia3 lr=0.001",
    }
    for candidate in first:
        pool.take(candidate)
    assert pool.offer([]) == []


def test_what_costs_what_a_refused_candidate_cost_is_offered_no_more() -> None:
    space = toy_space()
    pool = Pool(space, random.Random(0))
    refused = next(each for each in pool.offer([]) if each.rank == 16)
    pool.refuse(refused)
    assert all(each.rank != 16 for each in pool.offer([]))


def test_the_usual_rate_is_what_the_space_tries_first() -> None:
    space = toy_space()
    assert usual_rate(space, Candidate(method="lora", rank=2)) == pytest.approx(-3)
    assert usual_rate(space, Candidate(method="ia3")) == pytest.approx(-2)

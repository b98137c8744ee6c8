from __future__ import annotations

import itertools

from toy_training import estimate_of

from autopeft.search.ledger import Ledger, Source
from autopeft.search.study import Trial
from autopeft.space.candidate import Candidate, Training
from autopeft.space.domain import Choice, Domain
from autopeft.space.search_space import SearchSpace, candidate_from

SPACE = SearchSpace(
    name="square",
    domains=(
        Domain(field="rank", allowed=Choice(choices=(2, 4, 8, 16))),
        Domain(field="layers", allowed=Choice(choices=("all", "first-half", "last-half"))),
        Domain(field="training.batch_size", allowed=Choice(choices=(4, 8, 16))),
    ),
    fixed={"method": "lora"},
)


def at(rank: int, layers: str, batch: int) -> Candidate:
    return candidate_from(SPACE, {"rank": rank, "layers": layers, "training.batch_size": batch})


def ended(candidate: Candidate, state: str = "complete") -> Trial:
    fields = {"number": 0, "role": "candidate", "candidate": candidate, "state": state}
    return Trial.model_validate({**fields, "predicted": estimate_of(candidate)})


def always(candidate: Candidate) -> list[Source]:
    return [(SPACE, lambda: candidate)]


def test_a_draw_that_repeats_is_replaced_by_the_nearest_untried_candidate() -> None:
    ledger = Ledger(SPACE, seed=0)
    centre = at(4, "all", 8)
    found = [ledger.next(always(centre)) for _ in range(36)]
    away = [
        (each.rank != centre.rank)
        + (each.layers != centre.layers)
        + (each.training.batch_size != centre.training.batch_size)
        for each in found
        if each is not None
    ]
    assert away == sorted(away)
    assert away[0] == 0
    assert len({each.key for each in found if each is not None}) == 36
    assert ledger.next(always(centre)) is None


def test_a_draw_is_made_a_few_times_only_however_much_is_known() -> None:
    ledger, drawn = Ledger(SPACE, seed=0), itertools.count()
    one = at(2, "all", 4)

    def draw() -> Candidate:
        next(drawn)
        return one

    for _ in range(30):
        ledger.next([(SPACE, draw)])
    assert next(drawn) <= 3 * 30


def test_what_costs_as_much_as_a_refused_candidate_is_stepped_over() -> None:
    ledger = Ledger(SPACE, seed=0)
    refused = at(16, "all", 16)
    ledger.note(ended(refused, "rejected"))
    faster = refused.model_copy(update={"training": Training(batch_size=16, learning_rate=0.5)})
    assert ledger.pointless(faster)
    shorter = faster.model_copy(update={"training": Training(batch_size=16, epochs=1.0)})
    assert not ledger.pointless(shorter)
    found = ledger.next(always(refused))
    assert found is not None
    assert found.footprint != refused.footprint


def test_what_no_source_has_is_found_in_the_rest_of_the_space() -> None:
    ledger = Ledger(SPACE, seed=0)
    assert ledger.next([]) is not None

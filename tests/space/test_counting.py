from __future__ import annotations

import pytest

from autopeft.space.counting import count
from autopeft.space.domain import Choice, Domain, Range, Switches
from autopeft.space.reader import list_spaces
from autopeft.space.search_space import SearchSpace, size

METHOD = Domain(field="method", allowed=Choice(choices=("lora", "ia3", "full")))
RANK = Domain(field="rank", allowed=Range(low=1, high=4), when={"method": ("lora",)})
RATE = Domain(field="training.learning_rate", allowed=Range(low=1e-4, high=1e-2, log=True))


def test_combinations_are_counted_by_method() -> None:
    batch = Domain(
        field="training.batch_size", allowed=Choice(choices=(8, 16)), when={"method": ("lora", "ia3")}
    )
    facts = count(SearchSpace(name="s", domains=(METHOD, RANK, batch, RATE)))
    assert facts.by_method == {"lora": 8, "ia3": 2, "full": 1}
    assert facts.combinations == 11
    assert facts.continuous == ("training.learning_rate",)


def test_methods_share_what_does_not_depend_on_them() -> None:
    facts = count(
        SearchSpace(name="s", domains=(METHOD, Domain(field="layers", allowed=Switches(switches=3))))
    )
    assert facts.by_method == {"lora": 7, "ia3": 7, "full": 7}


def test_what_is_too_much_to_list_is_counted_still() -> None:
    many = Domain(field="rank", allowed=Range(low=1, high=100_000))
    layers = Domain(field="layers", allowed=Switches(switches=24))
    facts = count(SearchSpace(name="s", domains=(many, layers), fixed={"method": "lora"}))
    assert facts.combinations == 100_000 * (2**24 - 1)
    assert not facts.continuous
    assert facts.fixed == {"method": "lora"}


def test_domains_are_told_in_words() -> None:
    method, rank, rate = count(SearchSpace(name="s", domains=(METHOD, RANK, RATE))).domains
    assert (method.values, method.first, method.when) == ("lora, ia3, full", "lora", {})
    assert (rank.values, rank.when) == ("1 to 4", {"method": ("lora",)})
    assert (rate.values, rate.first, rate.continuous) == ("0.0001 to 0.01, log", "0.001", True)


@pytest.mark.parametrize("space", list_spaces(), ids=lambda space: space.name)
def test_a_shipped_space_counts_what_it_lists(space: SearchSpace) -> None:
    facts = count(space)
    assert set(facts.by_method) == set(space.methods)
    assert min(facts.by_method.values()) >= 1
    if not any(isinstance(domain.allowed, Switches) for domain in space.domains):
        assert facts.combinations == size(space)

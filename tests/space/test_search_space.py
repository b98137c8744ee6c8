from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopeft.errors import InputError
from autopeft.space.candidate import Candidate, Training
from autopeft.space.domain import Choice, Domain, Range, Switches, assemble
from autopeft.space.search_space import (
    SearchSpace,
    active,
    assignment_of,
    assignments,
    candidate_from,
    fix,
    footprints,
    only_methods,
    size,
    typical,
    warm_start,
)

METHODS = Domain(field="method", allowed=Choice(choices=("lora", "ia3", "prompt_tuning")))
RANKS = Domain(field="rank", allowed=Choice(choices=(4, 8, 16), default=8), when={"method": ("lora",)})
LORA_RATES = Domain(
    field="training.learning_rate",
    allowed=Range(low=1e-4, high=1e-2, log=True),
    when={"method": ("lora",)},
)
OTHER_RATES = Domain(
    field="training.learning_rate",
    allowed=Range(low=1e-3, high=1e-1, log=True, default=0.05),
    when={"method": ("ia3", "prompt_tuning")},
)
TOKENS = Domain(
    field="knobs.virtual_tokens", allowed=Choice(choices=(8, 16)), when={"method": ("prompt_tuning",)}
)
SPACE = SearchSpace(
    name="small",
    domains=(METHODS, RANKS, LORA_RATES, OTHER_RATES, TOKENS),
    fixed={"training.epochs": 2.0},
)


def test_only_the_domains_whose_condition_holds_count() -> None:
    assert active(SPACE, {"method": "lora"}) == (METHODS, RANKS, LORA_RATES)
    assert active(SPACE, {"method": "prompt_tuning"}) == (METHODS, OTHER_RATES, TOKENS)
    assert active(SPACE, {}) == (METHODS,)


def test_a_candidate_has_the_chosen_and_the_fixed_values() -> None:
    candidate = candidate_from(SPACE, {"method": "lora", "rank": 4, "training.learning_rate": 1e-3})
    assert candidate == Candidate(method="lora", rank=4, training=Training(learning_rate=1e-3, epochs=2.0))


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ({"method": "lora", "rank": 4}, "needs a value for training.learning_rate"),
        ({"method": "ia3", "rank": 4, "training.learning_rate": 1e-2}, "rank is not searched"),
        ({"method": "lora", "rank": 5, "training.learning_rate": 1e-3}, "rank=5 lies outside"),
        ({"method": "lora", "rank": 4, "training.learning_rate": 0.5}, "lies outside"),
    ],
)
def test_an_assignment_outside_the_space_is_refused(assignment: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        candidate_from(SPACE, assignment)


def test_size_counts_combinations_with_a_continuous_range_as_one() -> None:
    assert size(SPACE) == 3 + 1 + 2
    assert SPACE.continuous
    assert len(list(assignments(SPACE))) == size(SPACE)


def test_every_assignment_makes_a_candidate_that_leads_back_to_it() -> None:
    for assignment in assignments(SPACE):
        assert assignment_of(SPACE, candidate_from(SPACE, assignment)) == assignment


def test_a_candidate_from_elsewhere_has_no_assignment() -> None:
    inside = typical(SPACE, {"method": "lora"})
    assert assignment_of(SPACE, inside) is not None
    assert assignment_of(SPACE, Candidate(method="probe")) is None
    batch = inside.training.model_copy(update={"batch_size": 3})
    assert assignment_of(SPACE, inside.model_copy(update={"training": batch})) is None
    assert assignment_of(SPACE, inside.model_copy(update={"targets": "mlp"})) is None


def test_a_search_starts_with_one_good_candidate_per_method() -> None:
    lora, ia3, prompt = warm_start(SPACE)
    assert (lora.method, lora.rank, lora.training.learning_rate) == ("lora", 8, pytest.approx(1e-3))
    assert (ia3.method, ia3.rank, ia3.training.learning_rate) == ("ia3", None, 0.05)
    assert (prompt.method, prompt.knobs) == ("prompt_tuning", {"virtual_tokens": 8})


def test_footprints_are_the_candidates_that_cost_differently() -> None:
    found = footprints(SPACE, 100)
    assert [(each.method, each.rank, each.knobs.get("virtual_tokens")) for each in found] == [
        ("lora", 4, None),
        ("lora", 8, None),
        ("lora", 16, None),
        ("ia3", None, None),
        ("prompt_tuning", None, 8),
        ("prompt_tuning", None, 16),
    ]


def test_footprints_beyond_the_limit_keep_every_method_and_are_always_the_same() -> None:
    wide = Domain(field="rank", allowed=Range(low=1, high=500), when={"method": ("lora",)})
    batches = Domain(field="training.batch_size", allowed=Range(low=1, high=900))
    space = SearchSpace(name="wide", domains=(METHODS, wide, batches))
    found = footprints(space, 30)
    assert len(found) == 30 == len({each.footprint for each in found})
    methods = [each.method for each in found]
    assert {name: methods.count(name) for name in METHODS.allowed.values} == dict.fromkeys(
        ("lora", "ia3", "prompt_tuning"), 10
    )
    assert found == footprints(space, 30)


def test_fields_that_cost_nothing_do_not_multiply_footprints() -> None:
    free = [
        Domain(field="knobs.alpha_ratio", allowed=Choice(choices=(1.0, 2.0))),
        Domain(field="training.schedule", allowed=Choice(choices=("linear", "cosine"))),
        Domain(field="training.weight_decay", allowed=Range(low=0.0, high=0.1)),
    ]
    space = SearchSpace(name="free", domains=(*free,), fixed={"method": "lora"})
    assert len(footprints(space, 100)) == 1


def test_a_field_can_be_fixed_afterwards() -> None:
    fixed = fix(SPACE, {"training.learning_rate": 0.01, "training.batch_size": 4})
    assert size(fixed) == size(SPACE)
    assert not fixed.continuous
    assert {candidate.training.learning_rate for candidate in footprints(fixed, 9)} == {0.01}
    assert fix(SPACE, {"method": "lora"}).methods == ("lora",)
    with pytest.raises(InputError, match="batch_size"):
        fix(SPACE, {"training.batch_size": 0})


def test_a_space_can_be_cut_to_some_methods() -> None:
    cut = only_methods(SPACE, {"prompt_tuning", "ia3", "probe"})
    assert cut.methods == ("ia3", "prompt_tuning")
    assert size(cut) == 3
    assert [domain.field for domain in cut.domains] == [
        "method",
        "training.learning_rate",
        "knobs.virtual_tokens",
    ]
    with pytest.raises(InputError, match="only probe can be used"):
        only_methods(SPACE, ["probe"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Range.build(low=2, high=1), "`low <= high` must hold, but got low=2, high=1"),
        (lambda: Range.build(low=0.0, high=1.0, log=True), "`low > 0`"),
        (lambda: Range.build(low=0.1, high=1.0, log=True, step=0.1), "exclude each other"),
        (lambda: Range.build(low=1, high=4, step=0.5), "`step` must be whole"),
        (lambda: Range.build(low=1, high=4, default=9), "`default` must lie in the range"),
        (lambda: Range.build(low=float("nan"), high=1.0), "`low <= high`"),
        (lambda: Range.build(low=0.0, high=float("inf")), "`low <= high`"),
        (lambda: Choice.build(choices=()), "choices"),
        (lambda: Choice.build(choices=(1, 1)), "must differ"),
        (lambda: Choice.build(choices=(1, 2), default=3), "must be one of"),
        (lambda: Domain.build(field="ranks", allowed=Choice(choices=(1,))), "no field of a candidate"),
        (lambda: Domain.build(field="training.lr", allowed=Choice(choices=(1,))), "no field of a candidate"),
        (lambda: Domain.build(field="knobs.", allowed=Choice(choices=(1,))), "no field of a candidate"),
        (lambda: Domain.build(field="rank", allowed=Choice(choices=(4, 0))), "rank"),
        (lambda: Domain.build(field="training.precision", allowed=Choice(choices=("fp8",))), "precision"),
        (lambda: SearchSpace.build(name="x", domains=()), "domains"),
        (lambda: SearchSpace.build(name="x", domains=(TOKENS,)), "`method` must be"),
        (lambda: SearchSpace.build(name="x", domains=(METHODS, METHODS)), "can count at once"),
        (lambda: SearchSpace.build(name="x", domains=(RANKS, METHODS)), "further up"),
        (lambda: SearchSpace.build(name="x", domains=(METHODS,), fixed={"method": "lora"}), "both"),
        (lambda: SearchSpace.build(name="x", domains=(METHODS,), fixed={"rnk": 4}), "no field"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(make, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


@given(
    st.integers(-50, 50),
    st.integers(0, 60),
    st.one_of(st.none(), st.integers(1, 9)),
)
def test_a_whole_range_lists_what_it_contains(low: int, width: int, step: int | None) -> None:
    allowed = Range(low=low, high=low + width, step=step)
    listed = set(allowed.values)
    assert listed == {value for value in range(low - 2, low + width + 3) if value in allowed}
    assert allowed.typical in listed
    assert allowed.top == max(listed)
    assert all(isinstance(value, int) for value in listed)


def test_a_stepped_range_of_real_numbers_ends_at_its_end() -> None:
    allowed = Range(low=0.0, high=0.3, step=0.1)
    assert allowed.values == pytest.approx((0.0, 0.1, 0.2, 0.3))
    assert 0.1 + 0.2 not in Range(low=0.0, high=0.25, step=0.1)
    assert not allowed.continuous


def test_a_range_with_too_many_values_to_list_counts_as_continuous() -> None:
    allowed = Range(low=1, high=10**9)
    assert allowed.continuous
    assert allowed.values == (allowed.typical,)
    assert 7 in allowed
    assert 7.5 not in allowed


def test_values_become_a_candidate_by_their_names() -> None:
    made = assemble({"method": "lora", "rank": 2, "knobs.alpha_ratio": 1.0, "training.batch_size": 3})
    assert (made.method, made.rank, made.knobs, made.training.batch_size) == (
        "lora",
        2,
        {"alpha_ratio": 1.0},
        3,
    )


@pytest.mark.parametrize("count", [2, 3, 12])
def test_switches_hold_every_choice_but_all_off_and_are_listed_where_they_are_few(count: int) -> None:
    layers = Switches(switches=count)
    assert layers.typical == "switches:" + "1" * count
    assert layers.continuous == (count == 12)
    assert len(layers.values) == (1 if count == 12 else 2**count - 1)
    assert all(value in layers for value in layers.values)
    for wrong in ("switches:" + "0" * count, "switches:" + "1" * (count + 1), "1" * count, "all", 3):
        assert wrong not in layers


def test_a_default_of_other_switches_is_refused() -> None:
    with pytest.raises(InputError, match="3 times 1 or 0"):
        Switches.build(switches=3, default="switches:10")
    assert Switches(switches=3, default="switches:101").typical == "switches:101"

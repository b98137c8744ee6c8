"""A trial that ran out of memory is tried once more in smaller pieces, and its like is refused."""

from __future__ import annotations

import pytest

from autopeft.plan.plan import Fits, Rejected
from autopeft.search.desk import reason_of
from autopeft.search.shortage import held_against, ran_out, second_try, smaller
from autopeft.search.study import Trial
from autopeft.space.candidate import Candidate, Training
from tests.search.toy_training import admit_all, estimate_of

NO_MEMORY = reason_of(MemoryError("DefaultCPUAllocator: can't allocate memory"))


def candidate(rank: int = 8, batch: int = 16, method: str = "lora", **fields: str) -> Candidate:
    return Candidate(method=method, rank=rank, training=Training(batch_size=batch, grad_accum=2), **fields)


def failed(number: int, one: Candidate, reason: str = NO_MEMORY) -> Trial:
    return Trial(
        number=number,
        role="candidate",
        candidate=one,
        state="failed",
        predicted=estimate_of(one),
        reason=reason,
    )


@pytest.mark.parametrize(
    ("rows", "pieces"), [(16, (8, 4)), (6, (3, 4)), (9, (3, 6)), (7, (1, 14)), (2, (1, 4))]
)
def test_the_smaller_form_sees_the_same_rows_a_step(rows, pieces) -> None:
    made = smaller(candidate(batch=rows))
    assert made is not None
    assert (made.training.batch_size, made.training.grad_accum) == pieces
    assert made.model_copy(update={"training": candidate(batch=rows).training}) == candidate(batch=rows)


def test_one_row_cannot_be_made_smaller() -> None:
    assert smaller(candidate(batch=1)) is None
    assert second_try([failed(0, candidate(batch=1))]) is None


def test_a_trial_that_ran_out_is_tried_again_saying_so() -> None:
    again = second_try([failed(3, candidate())])
    assert again is not None
    assert again.candidate == smaller(candidate())
    assert again.of.number == 3
    assert again.reason == "again in micro-batches of 8 rows: trial 3 ran out of memory"


@pytest.mark.parametrize("reason", ["TrialError: the loss became nan at step 3", ""])
def test_what_failed_otherwise_is_not_tried_again(reason) -> None:
    trial = failed(0, candidate(), reason)
    assert not ran_out(trial)
    assert second_try([trial]) is None


def test_there_is_no_third_try() -> None:
    first, second = candidate(), smaller(candidate())
    assert second is not None
    trials = [failed(0, first), failed(1, second)]
    assert second_try(trials) is None
    assert second_try(reversed(trials)) is None
    assert smaller(second) is not None


def test_what_was_tried_in_small_pieces_anyway_is_not_tried_again() -> None:
    small = smaller(candidate())
    assert small is not None
    done = failed(0, small).model_copy(update={"state": "complete", "reason": ""})
    assert second_try([done, failed(1, candidate())]) is None


def test_each_trial_that_ran_out_gets_its_second_try() -> None:
    one, other = candidate(rank=4), candidate(rank=8)
    again = smaller(one)
    assert again is not None
    trials = [failed(0, one), failed(1, other), failed(2, again)]
    found = second_try(trials)
    assert found is not None
    assert found.of.number == 1


def test_nothing_of_its_kind_starts_that_is_predicted_to_take_as_much() -> None:
    trials = [failed(0, candidate(rank=8))]
    for rank in (8, 16):
        verdict = held_against(admit_all(candidate(rank=rank, batch=4)), trials)
        assert isinstance(verdict, Rejected)
        assert verdict.reason == (
            f"up to {'7.81' if rank == 8 else '15.6'} KiB are predicted, and trial 0, lora too, ran out of "
            "memory with 7.81 KiB predicted"
        )
        assert verdict.estimate == estimate_of(candidate(rank=rank))


@pytest.mark.parametrize(
    "other", [candidate(rank=4), candidate(method="dora"), candidate(quantization="nf4")]
)
def test_less_or_another_kind_still_starts(other) -> None:
    assert isinstance(held_against(admit_all(other), [failed(0, candidate(rank=8))]), Fits)


def test_a_refusal_stays_as_it_is() -> None:
    refused = Rejected(candidate=candidate(), reason="needs 8 kB, but the budget is 4 kB")
    assert held_against(refused, [failed(0, candidate())]) is refused

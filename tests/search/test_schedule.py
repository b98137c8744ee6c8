"""What trials that run side by side get of one machine, and how long a search takes."""

from __future__ import annotations

import pytest
from toy_training import admit_all, lora, toy_plan

from autopeft.hardware.catalog import load_profile
from autopeft.hardware.profile import OperatorSpeed
from autopeft.plan.plan import Plan
from autopeft.search.halving import Rungs
from autopeft.search.schedule import (
    EXPORT_SECONDS,
    Schedule,
    conclusion_seconds,
    cost_share,
    make_schedule,
    share_of,
    sharers_of,
    too_short,
)
from autopeft.workload.dataset import ACCURACY, Dataset, Example


def test_trials_side_by_side_share_every_speed_that_was_measured() -> None:
    whole = load_profile("t4").model_copy(
        update={"operators": {"pointwise": OperatorSpeed(seconds=1e-6, bytes_per_second=8e9)}}
    )
    shared = share_of(whole, 2)
    assert shared.bandwidth_bytes_per_second == whole.bandwidth_bytes_per_second / 2
    assert shared.operators["pointwise"] == OperatorSpeed(seconds=1e-6, bytes_per_second=4e9)


RUNGS = Rungs(samples=(10, 20, 40), reduction=2)


def planned(*, concurrent: int = 2, **asked: float | None) -> Schedule:
    """Schedule trainings that take 100 s where two are side by side."""
    fit = admit_all(lora(2))
    fit = fit.model_copy(update={"estimate": fit.estimate.model_copy(update={"run_seconds": 100.0})})
    plan: Plan = toy_plan()
    plan = plan.model_copy(update={"fits": (fit,), "profile": share_of(plan.profile, 2)})
    asked = {"seconds": None, "trials": None, **asked}
    return make_schedule(plan, RUNGS, concurrent=concurrent, **asked)  # type: ignore[arg-type]


def test_repetitions_take_time_too() -> None:
    alone, repeated = planned(trials=8), planned(trials=8, repetitions=4)
    assert alone.expected_seconds == pytest.approx(100 + 8 * 50 * cost_share(RUNGS))
    assert repeated.expected_seconds == pytest.approx(alone.expected_seconds + 200)


def test_a_training_that_has_the_machine_to_itself_is_expected_to_take_half_as_long() -> None:
    assert planned(trials=0).expected_seconds == 100
    assert planned(trials=0, concurrent=1).expected_seconds == 50


def test_a_study_that_did_not_say_how_many_shared_the_machine_had_one_a_core() -> None:
    whole = toy_plan().profile.model_copy(update={"cores": 3})
    assert sharers_of(whole) == 1
    assert sharers_of(share_of(whole, 2)) == 2
    assert sharers_of(share_of(whole, 2).model_copy(update={"sharers": None})) == 3


def test_no_search_is_expected_to_take_longer_than_its_time() -> None:
    assert planned(trials=100, seconds=300).expected_seconds == 300


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (160.0, ""),
        (120.0, "about 1 min 40 s, perhaps for 2 min 30 s: it may end with"),
        (120.0, "to be sure of one takes at least 4 min 00 s in all"),  # 30 + 10 + 150 seconds
    ],
)
def test_a_search_in_whose_time_no_training_may_end_says_so(seconds: float, words: str) -> None:
    fit = admit_all(lora(2))
    time = fit.estimate.time.model_copy(update={"step_seconds": 1.0, "high_seconds": 1.5})
    known = fit.model_copy(
        update={"estimate": fit.estimate.model_copy(update={"run_seconds": 100.0, "time": time})}
    )
    plan = toy_plan().model_copy(update={"fits": (known,)})
    assert words in too_short(plan, seconds, 30.0)
    assert bool(words) == bool(too_short(plan, seconds, 30.0))
    assert not too_short(plan.model_copy(update={"fits": ()}), seconds, 30.0), "nothing is known"


def test_time_for_repetitions_leaves_fewer_candidates() -> None:
    assert 1 <= planned(seconds=900, repetitions=4).trials < planned(seconds=900).trials


def test_what_follows_a_search_is_expected_to_have_the_whole_machine() -> None:
    rows = tuple(Example(text=str(number), label=number % 2) for number in range(40))
    dataset = Dataset(
        task="classification", train=rows[:20], validation=rows[20:30], test=rows[30:], labels=("a", "b"),
        columns={}, source="test", fingerprint="0", name="rows", metric=ACCURACY,
    )  # fmt: skip
    fit = admit_all(lora(2))
    time = fit.estimate.time.model_copy(update={"evaluation_row_seconds": 1.0})
    fit = fit.model_copy(
        update={"estimate": fit.estimate.model_copy(update={"time": time, "run_seconds": 100.0})}
    )
    plan = toy_plan().model_copy(update={"fits": (fit,)})
    shared = plan.model_copy(update={"profile": share_of(plan.profile, 2)})
    # The winner, the default and the probe on 10 test rows; the probe reads the 30 others too.
    assert conclusion_seconds(plan, dataset) == EXPORT_SECONDS + 60
    assert conclusion_seconds(shared, dataset) == EXPORT_SECONDS + 30
    assert conclusion_seconds(shared, dataset, refit=True) == EXPORT_SECONDS + 30 + 75
    disturbed = plan.model_copy(update={"profile": plan.profile.model_copy(update={"disturbance": 0.5})})
    assert conclusion_seconds(disturbed, dataset) == 2 * EXPORT_SECONDS + 60, "other work slows it, too"

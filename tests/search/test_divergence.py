"""What a search makes of trainings whose numbers are none, and of those that it could not end."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from toy_training import ACCURACY, Listed, admit_all, lora, report, toy_space

from autopeft.search.evidence import LOSS
from autopeft.search.freeze_thaw import FreezeThaw
from autopeft.search.halving import Rungs
from autopeft.search.loop import Search
from autopeft.search.refused import TIME_SPENT
from autopeft.search.store import StudyStore
from autopeft.search.strategy import Decision, Halving
from autopeft.search.study import Trial
from autopeft.train.result import Report, TrialResult

RUNGS = Rungs(samples=(50, 100, 200, 400))
MakeSearch = Callable[..., Search]


def evaluated(samples: int, score: float, loss: float) -> Report:
    return report(samples, score).model_copy(update={"extra": {LOSS: loss}})


def begun(strategy: FreezeThaw, ranks: range) -> list[Trial]:
    trials = [
        Trial(number=number, role="candidate", candidate=lora(rank), state="running")
        for number, rank in enumerate(ranks)
    ]
    for trial in trials:
        strategy.started(trial)
    return trials


@pytest.mark.parametrize("make", [
    lambda: FreezeThaw(toy_space(), RUNGS, seed=1, metric=ACCURACY, warm=()),
    lambda: Halving(Listed(), 3, ACCURACY),
])  # fmt: skip
def test_a_score_without_a_log_loss_is_a_divergence(make: Callable[[], FreezeThaw | Halving]) -> None:
    """Of answers that are no numbers the first class is chosen, which is right on some rows."""
    strategy = make()
    trial = Trial(number=0, role="candidate", candidate=lora(4), state="running")
    strategy.started(trial)
    assert strategy.judge(trial, [evaluated(50, 0.75, math.nan)]) == (Decision.STOP, "diverged")


def test_one_divergence_does_not_blind_the_search() -> None:
    """The next step is what it is where that training failed."""
    moves = []
    for state, last in (("stopped", [evaluated(50, 0.99, math.nan)]), ("failed", [])):
        strategy = FreezeThaw(toy_space(), RUNGS, seed=1, metric=ACCURACY, warm=())
        trials = begun(strategy, range(2, 8))
        strategy.observe(trials[0].model_copy(update={"state": state}), last)
        for number, trial in enumerate(trials[1:], start=1):
            strategy.judge(trial, [evaluated(50, 0.5 + number / 20, (1.0, 0.1, 0.9, 0.8, 0.7)[number - 1])])
        moves.append(strategy.propose())
    assert moves[0] == moves[1]


def test_a_model_that_ends_in_no_numbers_has_no_score() -> None:
    broken = TrialResult(state="complete", reports=(evaluated(50, 0.9, 0.4), evaluated(100, 0.75, math.nan)))
    assert math.isnan(broken.score)


def test_a_trial_without_an_evaluation_says_nothing_of_the_task() -> None:
    strategy = FreezeThaw(toy_space(), RUNGS, seed=1, metric=ACCURACY, warm=())
    trials = begun(strategy, range(2, 6))
    strategy.observe(trials[0].model_copy(update={"state": "failed"}), ())
    for trial in trials[1:]:
        strategy.judge(trial, [report(50, 0.5)])
    assert not strategy._has_loss


def test_many_divergences_in_a_row_do_not_end_the_search(make_search: MakeSearch) -> None:
    search = make_search(searcher=Listed(*(lora(rank) for rank in range(1, 12))), max_trials=None)
    for _ in range(8):
        trial = search.next_trial()
        assert trial is not None
        search.fail(trial.number, "TrialError: the loss became nan at step 3")
    assert search.next_trial() is not None


def test_a_training_that_is_shorter_than_the_longest_is_over_at_its_own_end(make_search: MakeSearch) -> None:
    short = lora(4).model_copy(update={"training": lora(4).training.model_copy(update={"epochs": 1.0})})
    search = make_search(searcher=Listed(short), rungs=Rungs(samples=(500, 1000, 2000, 4000), epochs=4.0))
    search.next_trial()
    assert search.report(0, report(500, 0.6)) is Decision.CONTINUE
    assert search.report(0, report(1000, 0.7)) is Decision.COMPLETE


@pytest.mark.parametrize("rows", [7, 333, 1000, 1001])
@pytest.mark.parametrize(("epochs", "longest"), [(1.0, 3.0), (1.0, 6.0), (2.0, 7.0), (0.1, 0.3)])
def test_a_length_is_that_of_the_training(rows: int, epochs: float, longest: float) -> None:
    candidate = lora(4).model_copy(
        update={"training": lora(4).training.model_copy(update={"epochs": epochs})}
    )
    rungs = Rungs(samples=(math.ceil(round(rows * longest, 6)),), epochs=longest)
    assert rungs.length(candidate) - math.ceil(round(rows * epochs, 6)) in (0, 1)
    if math.isclose(rows * longest, round(rows * longest)):
        assert rungs.length(candidate) == math.ceil(round(rows * epochs, 6))


@pytest.mark.slow
def test_of_what_time_left_half_way_the_best_go_on_and_no_more(
    make_search: MakeSearch, store: StudyStore
) -> None:
    """Eleven trainings stand at their first evaluation when the time is too short for a second."""
    now = [0.0]
    strategy = FreezeThaw(
        toy_space(), RUNGS, seed=1, metric=ACCURACY, warm=[lora(rank) for rank in range(1, 15)]
    )
    search = make_search(
        strategy=strategy, rungs=RUNGS, deadline=100.0, clock=lambda: now[0], max_trials=None, admit=admit_all
    )
    while (trial := search.next_trial()) is not None:
        if now[0] == 0 and trial.number == 11:
            now[0] = 60.0
        decision = Decision.CONTINUE
        while decision is Decision.CONTINUE:
            done = search.remaining(trial.number)[0]
            slow = report(done, 0.5 + trial.number / 100).model_copy(update={"seconds": 60.0 * done / 50})
            decision = search.report(trial.number, slow)
    assert search.ended == TIME_SPENT
    states = [trial.state for trial in search.finish().trials]
    assert states.count("paused") == 8
    assert states.count("stopped") >= 3
    assert all(trial.reason.endswith("the time was spent") for trial in store.load().trials)


def test_what_was_refused_for_a_shortage_is_recorded_once(make_search: MakeSearch, store: StudyStore) -> None:
    counts = []
    for _ in range(3):
        search = make_search(searcher=Listed(lora(4), lora(8), lora(16)), rungs=Rungs(samples=(5,)))
        while (trial := search.next_trial()) is not None:
            if trial.candidate.rank == 4:
                search.fail(trial.number, "out of memory (x)")
            else:
                search.report(trial.number, report(5, 0.5))
        counts.append(len(search.finish().trials))
    assert counts[0] == counts[1] == counts[2]


def test_a_leader_that_ended_in_no_numbers_is_not_repeated() -> None:
    strategy = FreezeThaw(toy_space(), RUNGS, seed=1, metric=ACCURACY, warm=(), share_left=lambda: 0.1)
    trials = begun(strategy, range(2, 6))
    for number, trial in enumerate(trials):
        reports = [evaluated(each, 0.9 - number / 10, 0.3) for each in RUNGS.samples]
        if number == 0:
            reports[-1] = evaluated(RUNGS.samples[-1], 0.75, math.nan)
        strategy.observe(trial.model_copy(update={"state": "complete"}), reports)
    move = strategy.propose()
    assert getattr(move, "number", None) == 1
    assert np.isfinite([point for points in strategy._told().values() for _, point in points]).all()

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from toy_training import ACCURACY, Recorder, ToyFactory, admit_all, admit_small_ranks, toy_space

from autopeft.search.executor import run_locally
from autopeft.search.freeze_thaw import FreezeThaw
from autopeft.search.halving import Rungs
from autopeft.search.loop import Search
from autopeft.search.store import StudyStore
from autopeft.search.study import Study
from autopeft.space.candidate import Candidate
from autopeft.space.search_space import assignment_of, warm_start

RUNGS = Rungs(samples=(50, 100, 200, 400))
BASELINE = Candidate(method="lora", rank=16)
MakeSearch = Callable[..., Search]


def strategy(**changes: object) -> FreezeThaw:
    space = toy_space()
    given: dict[str, object] = {"seed": 1, "metric": ACCURACY, "warm": warm_start(space)}
    return FreezeThaw(space, RUNGS, **(given | changes))  # type: ignore[arg-type]


@pytest.fixture
def searched(
    make_search: MakeSearch, factory: ToyFactory, store: StudyStore, tmp_path: Path
) -> Callable[..., Study]:
    """Search on the toy with this strategy and return the study."""

    def run(**changes: object) -> Study:
        given: dict[str, object] = {
            "strategy": strategy(),
            "rungs": RUNGS,
            "max_trials": 12,
            "baseline": BASELINE,
        }
        search = make_search(**(given | changes))
        run_locally(search, factory, seed=1, folder=tmp_path)
        return search.finish()

    return run


def rows_trained(study: Study) -> int:
    """Rows that the candidates' first trainings saw."""
    first = (trial for trial in study.trials if not trial.repetition)
    return sum(trial.result.reports[-1].samples for trial in first if trial.result)


def test_it_finds_the_best_method_for_less_than_half_of_training_all(searched: Callable[..., Study]) -> None:
    study = searched(max_trials=24)
    assert study.best is not None
    assert study.best.candidate.method == "lora"
    assert rows_trained(study) < 0.5 * 400 * 25


def test_every_candidate_is_of_the_space_and_begun_once(searched: Callable[..., Study]) -> None:
    study = searched()
    begun = [trial.candidate for trial in study.trials if trial.role == "candidate" and not trial.repetition]
    assert len(begun) == len({candidate.key for candidate in begun}) == 12
    assert all(assignment_of(toy_space(), candidate) is not None for candidate in begun)


def test_a_training_that_was_set_aside_goes_on_where_it_was(
    searched: Callable[..., Study], recorder: Recorder
) -> None:
    study = searched()
    paused = {number for event, number in recorder.events if event == "paused"}
    starts = Counter(number for event, number in recorder.events if event == "started")
    resumed = [study.trials[number] for number in paused if starts[number] > 1]
    assert resumed
    for trial in resumed:
        assert trial.result is not None
        samples = [report.samples for report in trial.result.reports]
        assert samples == list(RUNGS.samples[: len(samples)])


def test_nothing_is_left_running(searched: Callable[..., Study]) -> None:
    study = searched()
    assert all(trial.finished for trial in study.trials)
    assert any("set aside after" in trial.reason for trial in study.trials)


def test_the_leaders_are_repeated_from_other_seeds(searched: Callable[..., Study]) -> None:
    study = searched()
    runs = Counter(trial.candidate.key for trial in study.trials if trial.state == "complete")
    assert sorted(runs.values())[-2:] == [3, 3]
    assert max(runs.values()) == 3
    repeated = [trial for trial in study.trials if trial.repetition]
    assert {trial.state for trial in repeated} == {"complete"}


def test_near_the_end_of_the_budget_nothing_new_is_begun(searched: Callable[..., Study]) -> None:
    left = iter([1.0] * 20 + [0.1] * 1000)
    study = searched(strategy=strategy(share_left=lambda: next(left)), max_trials=None)
    begun = [trial.number for trial in study.trials if not trial.repetition]
    assert len(begun) < 20
    assert study.best is not None
    assert study.trials[-1].repetition


def test_what_does_not_fit_never_starts(searched: Callable[..., Study]) -> None:
    study = searched(admit=admit_small_ranks, baseline=None)
    rejected = [trial for trial in study.trials if trial.state == "rejected"]
    assert {trial.candidate.rank for trial in rejected} <= {8, 16}
    assert len(rejected) <= 2


def test_a_search_goes_on_with_what_an_earlier_one_set_aside(
    make_search: MakeSearch, factory: ToyFactory, store: StudyStore, tmp_path: Path
) -> None:
    class Stop(Exception):  # noqa: N818 (not an error)
        pass

    class Interrupted(Recorder):
        def trial_paused(self, trial: object) -> None:
            if len(store.load().trials) == 6:
                raise Stop

    def begin(observers: list[Recorder]) -> None:
        search = make_search(strategy=strategy(), rungs=RUNGS, max_trials=8, observers=observers)
        run_locally(search, factory, seed=1, folder=tmp_path)
        search.finish()

    with pytest.raises(Stop):
        begin([Interrupted()])
    before = store.load().trials
    waiting = {trial.number for trial in before if trial.state == "running"}
    begin([Recorder()])
    study = store.load()
    assert waiting
    assert [trial.candidate for trial in study.trials[:6]] == [trial.candidate for trial in before]
    assert sum(not trial.repetition for trial in study.trials) == 8
    reports = [report.samples for number in waiting for report in store.reports(number)]
    assert reports
    assert all(trial.finished for trial in study.trials)


def test_the_same_seed_proposes_the_same(make_search: MakeSearch, store: StudyStore) -> None:
    one, other = strategy(), strategy()
    assert [one.propose() for _ in range(3)] == [other.propose() for _ in range(3)]


def test_a_candidate_that_fails_at_once_is_learnt_from(
    searched: Callable[..., Study], factory: ToyFactory
) -> None:
    warm = [Candidate(method="explodes"), *warm_start(toy_space())]
    study = searched(strategy=strategy(warm=warm), admit=admit_all)
    assert study.trials[1].state == "failed"
    assert study.best is not None
    assert study.best.result is not None
    assert study.best.result.score > 0.75

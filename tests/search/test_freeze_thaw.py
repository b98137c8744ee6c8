from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from toy_training import (
    ACCURACY,
    Recorder,
    ToyFactory,
    ToyRun,
    admit_all,
    admit_small_ranks,
    estimate_of,
    toy_space,
)

from autopeft.plan.plan import Fits, Rejected, Verdict
from autopeft.search.executor import run_locally
from autopeft.search.experience import Experience
from autopeft.search.freeze_thaw import FreezeThaw
from autopeft.search.halving import Rungs
from autopeft.search.loop import Search
from autopeft.search.past import PastStudy, PastTraining
from autopeft.search.store import StudyStore
from autopeft.search.strategy import Decision
from autopeft.search.study import Study, Trial
from autopeft.space.candidate import Candidate, Training
from autopeft.space.domain import Domain, Range, assemble
from autopeft.space.search_space import SearchSpace, assignment_of, assignments, warm_start
from autopeft.train.result import Report

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
        given |= changes
        makes = given.pop("factory", factory)
        search = make_search(**given)
        run_locally(search, makes, seed=1, folder=tmp_path)  # type: ignore[arg-type]
        return search.finish()

    return run


def rows_trained(study: Study) -> int:
    """Rows that the candidates' first trainings saw."""
    first = (trial for trial in study.trials if not trial.repetition)
    return sum(trial.result.reports[-1].samples for trial in first if trial.result)


def test_it_finds_the_best_method_for_little_more_than_half_of_training_all(
    searched: Callable[..., Study],
) -> None:
    study = searched(max_trials=24)
    assert study.best is not None
    assert study.best.candidate.method == "lora"
    assert rows_trained(study) < 0.55 * 400 * 25


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
    assert all(trial.state != "running" for trial in study.trials)
    assert sum(trial.state == "paused" for trial in study.trials) <= 8
    assert any("set aside after" in trial.reason for trial in study.trials)


def test_the_leaders_are_repeated_from_other_seeds(searched: Callable[..., Study]) -> None:
    study = searched()
    runs = Counter(trial.candidate.key for trial in study.trials if trial.state == "complete")
    assert max(runs.values()) == 3
    repeated = [trial for trial in study.trials if trial.repetition]
    assert {trial.state for trial in repeated} == {"complete"}
    assert 3 <= len(repeated) <= 8


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
    assert all(trial.state != "running" for trial in study.trials)


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


def test_what_a_crash_cut_off_before_its_first_report_goes_on_first(
    make_search: MakeSearch, factory: ToyFactory, store: StudyStore, tmp_path: Path
) -> None:
    given: dict[str, object] = {"rungs": RUNGS, "max_trials": 1}
    cut_off = make_search(strategy=strategy(), **given).next_trial()
    assert cut_off is not None
    search = make_search(strategy=strategy(), **given)
    run_locally(search, factory, seed=1, folder=tmp_path)
    first = search.finish().trials[cut_off.number]
    assert first.state == "complete"


def test_refusals_in_a_row_end_no_training_that_is_under_way(searched: Callable[..., Study]) -> None:
    started = 0

    def admit(candidate: Candidate) -> Verdict:
        nonlocal started
        started += 1
        return admit_all(candidate) if started <= 5 else Rejected(candidate=candidate, reason="too big")

    study = searched(admit=admit, max_trials=40)
    assert any(trial.state == "rejected" for trial in study.trials)
    first = [trial for trial in study.trials if trial.state == "complete" and not trial.repetition]
    assert len(first) >= 3


def test_leaders_that_diverge_from_other_seeds_are_not_repeated_without_end(
    searched: Callable[..., Study], factory: ToyFactory
) -> None:
    def unlucky(candidate: Candidate, seed: int) -> ToyRun:
        run = factory(candidate, seed)
        return run if seed == 1 else Diverging(candidate, seed, 0.0)

    study = searched(factory=unlucky, max_trials=4)
    repeated = [trial for trial in study.trials if trial.repetition]
    assert 1 <= len(repeated) <= 8
    assert {trial.state for trial in repeated} == {"stopped"}


def test_a_default_that_diverges_ends_no_search(searched: Callable[..., Study], factory: ToyFactory) -> None:
    def made(candidate: Candidate, seed: int) -> ToyRun:
        run = factory(candidate, seed)
        return Diverging(candidate, seed, 0.0) if candidate == BASELINE else run

    study = searched(factory=made, max_trials=4)
    assert study.trials[0].role == "baseline"
    assert study.best is not None
    assert study.best.candidate != BASELINE


def test_a_space_with_nothing_left_but_what_was_nearly_tried_comes_to_its_end(
    searched: Callable[..., Study],
) -> None:
    narrow = Range(low=1e-3, high=1.05e-3, log=True)
    space = SearchSpace(
        name="narrow",
        fixed={"method": "lora", "rank": 4},
        domains=(Domain(field="training.learning_rate", allowed=narrow),),
    )
    chosen = FreezeThaw(space, RUNGS, seed=1, metric=ACCURACY, warm=())
    study = searched(strategy=chosen, max_trials=None)
    assert study.best is not None
    assert len(study.trials) < 12


def test_a_training_that_ends_where_another_is_evaluated_is_complete(searched: Callable[..., Study]) -> None:
    class Short(ToyRun):
        """Its training is over after 100 rows."""

        def advance(self, samples: int) -> Report:
            return super().advance(min(samples, 100))

    short = [Candidate(method="lora", rank=2, training=Training(epochs=0.75))]
    study = searched(
        strategy=strategy(warm=short),
        factory=lambda candidate, seed: (
            Short(candidate, seed, 0.0) if candidate == short[0] else ToyRun(candidate, seed, 0.0)
        ),
    )
    tried = next(trial for trial in study.trials if trial.candidate == short[0])
    assert tried.state in ("complete", "paused", "stopped")
    assert tried.result is not None
    assert tried.result.reports[-1].samples <= 100


def test_with_several_at_once_every_warm_candidate_is_begun(make_search: MakeSearch) -> None:
    warm = [Candidate(method="lora", rank=rank) for rank in (2, 4, 8)]
    chosen = strategy(warm=warm)
    search = make_search(strategy=chosen, rungs=RUNGS, max_trials=8)
    running = [search.next_trial() for _ in range(3)]
    scores = iter(range(100))
    while len(running) < 8:
        for trial in list(running):
            assert trial is not None
            rows = search.remaining(trial.number)
            if rows and search.report(trial.number, report(rows[0], next(scores) / 100)) is Decision.PAUSE:
                running.append(search.next_trial())
    begun = [trial.candidate for trial in running if trial is not None]
    assert all(candidate in begun for candidate in warm)


def test_nothing_is_repeated_while_a_candidate_that_may_lead_is_running(make_search: MakeSearch) -> None:
    chosen = strategy(warm=[Candidate(method="lora", rank=2), Candidate(method="lora", rank=4)])
    search = make_search(strategy=chosen, rungs=RUNGS, max_trials=2, baseline=BASELINE)
    default, one, other = (search.next_trial() for _ in range(3))
    assert default is not None
    assert one is not None
    assert other is not None
    for trial in (default, one):
        for rows in search.remaining(trial.number):
            search.report(trial.number, report(rows, 0.5 + rows / 1000))
    assert search.next_trial() is None
    assert not search.ended
    for rows in search.remaining(other.number):
        search.report(other.number, report(rows, 0.9))
    again = search.next_trial()
    assert again is not None
    assert again.candidate == other.candidate


def test_what_ran_out_of_memory_is_tried_once_more_in_smaller_pieces(
    searched: Callable[..., Study], factory: ToyFactory
) -> None:
    def made(candidate: Candidate, seed: int) -> ToyRun:
        run = factory(candidate, seed)
        if candidate.rank == 4 and candidate.training.batch_size > 8:
            raise MemoryError("can't allocate memory")
        return run

    def admit(candidate: Candidate) -> Verdict:
        estimate = estimate_of(candidate.model_copy(update={"rank": candidate.training.batch_size}))
        return Fits(candidate=candidate, estimate=estimate)

    warm = [Candidate(method="lora", rank=4)]
    study = searched(strategy=strategy(warm=warm), factory=made, admit=admit, max_trials=6)
    failed = next(trial for trial in study.trials if trial.state == "failed")
    again = next(trial for trial in study.trials if trial.note)
    assert again.candidate.training.batch_size == 8
    assert again.candidate.training.grad_accum == 2
    assert again.note == f"again in micro-batches of 8 rows: trial {failed.number} ran out of memory"
    assert again.result is not None
    assert again.result.reports


def test_a_fast_candidate_goes_before_a_slow_one_that_promises_as_much(make_search: MakeSearch) -> None:
    def admit(candidate: Candidate) -> Verdict:
        estimate = estimate_of(candidate).model_copy(update={"run_seconds": float(candidate.rank or 1)})
        return Fits(candidate=candidate, estimate=estimate)

    warm = [Candidate(method="lora", rank=rank) for rank in (16, 2, 8)]
    search = make_search(strategy=strategy(warm=warm), rungs=RUNGS, max_trials=3, admit=admit)
    for _ in warm:
        trial = search.next_trial()
        assert trial is not None
        assert search.report(trial.number, report(50, 0.5)) is Decision.PAUSE
    following = search.next_trial()
    assert following is not None
    assert following.candidate.rank == 2


def test_what_diverged_counts_as_the_worst_that_got_as_far() -> None:
    chosen = strategy()
    trials = [
        Trial(number=at, role="candidate", candidate=Candidate(method="lora", rank=2**at), state="running")
        for at in range(1, 4)
    ]
    for trial, scores in zip(trials, ((0.5, 0.6), (0.4, 0.3), (0.9, float("nan"))), strict=True):
        chosen.started(trial)
        reports = [report(rows, score) for rows, score in zip((50, 100), scores, strict=True)]
        chosen.judge(trial, reports)
    told = chosen._told()
    assert told[3] == [(50 / 400, 0.9), (100 / 400, 0.3)]


class Diverging(ToyRun):
    """Its score is no number."""

    def advance(self, samples: int) -> Report:
        return super().advance(samples).model_copy(update={"score": float("nan")})


def report(samples: int, score: float) -> Report:
    return Report(
        samples=samples, step=samples, loss=1.0, score=score, seconds=1, step_seconds=1, peak_bytes=1
    )


def experience_of(best: str) -> Experience:
    """What a study says in which one method did better than all others."""
    every = [assemble(values) for values in assignments(toy_space())] * 8
    trainings = [PastTraining(candidate=each, curve=((1.0, float(each.method == best)),)) for each in every]
    study = PastStudy(name="before", model="toy", trainings=tuple(trainings))
    return Experience([study], toy_space(), "toy")


def test_with_experience_it_begins_with_what_is_believed_most_and_finds_it_sooner(
    searched: Callable[..., Study],
) -> None:
    found = searched(strategy=strategy(warm=(), experience=experience_of("lora")), max_trials=8)
    begun = [trial.candidate.method for trial in found.trials if trial.role != "baseline"]
    assert begun[:2] == ["lora", "lora"]
    assert begun.count("lora") > len(begun) / 2
    assert len(set(begun)) > 1  # one in four is drawn blindly
    assert found.best is not None
    assert found.best.candidate.method == "lora"


def test_experience_that_misleads_is_overcome(searched: Callable[..., Study]) -> None:
    found = searched(strategy=strategy(warm=(), experience=experience_of("prompt_tuning")), max_trials=24)
    methods = [trial.candidate.method for trial in found.trials if trial.role != "baseline"]
    assert methods[:2] == ["prompt_tuning", "prompt_tuning"]
    assert found.best is not None
    assert found.best.candidate.method != "prompt_tuning"

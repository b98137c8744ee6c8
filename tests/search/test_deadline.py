"""The time budget: what would end late is not begun, what runs late is set aside and goes on later."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from toy_training import Listed, ToyFactory, admit_all, lora, report, states

from autopeft.plan.plan import Fits, Verdict
from autopeft.search.halving import Rungs
from autopeft.search.loop import Search
from autopeft.search.store import StudyStore
from autopeft.search.strategy import Decision
from autopeft.space.candidate import Candidate

BASELINE = Candidate(method="lora", rank=16)
MakeSearch = Callable[..., Search]


def test_after_the_deadline_nothing_starts_and_what_runs_is_set_aside(
    make_search: MakeSearch, store: StudyStore
) -> None:
    now = [0.0]
    search = make_search(
        searcher=Listed(lora(2), lora(4)),
        baseline=BASELINE,
        rungs=Rungs(samples=(10, 20)),
        deadline=100.0,
        clock=lambda: now[0],
    )
    search.next_trial()
    search.next_trial()
    now[0] = 101.0
    assert search.next_trial() is None
    assert search.ended == "the time budget is spent"
    assert search.report(1, report(10, 0.9)) is Decision.PAUSE
    assert search.report(0, report(10, 0.5)) is Decision.CONTINUE
    assert search.report(0, report(20, 0.5)) is Decision.COMPLETE
    study = search.finish()
    assert [trial.reason for trial in study.trials] == ["", "set aside after 10 rows: the time was spent"]
    assert states(study) == ["complete", "paused"]
    assert study.seconds == 101.0


def test_what_was_set_aside_goes_on_when_the_study_does(
    make_search: MakeSearch, factory: ToyFactory, store: StudyStore, tmp_path: Path
) -> None:
    now, rungs = [0.0], Rungs(samples=(10, 20))
    timed = {"rungs": rungs, "deadline": 100.0, "clock": lambda: now[0]}
    search = make_search(searcher=Listed(lora(2)), **timed)
    search.next_trial()
    now[0] = 101.0
    search.report(0, report(10, 0.5))
    assert states(search.finish()) == ["paused"]
    later = make_search(searcher=Listed(), rungs=rungs)
    trial = later.next_trial()
    assert trial is not None
    assert (trial.number, trial.state, trial.reason) == (0, "running", "")
    assert states(store.load()) == ["running"]
    assert later.remaining(0) == (20,)
    assert later.report(0, report(20, 0.6)) is Decision.COMPLETE
    assert [each.samples for each in later.finish().trials[0].result.reports] == [10, 20]


def test_no_piece_is_begun_that_would_not_end_in_time(make_search: MakeSearch, store: StudyStore) -> None:
    now = [0.0]
    search = make_search(
        searcher=Listed(lora(2), lora(4)),
        rungs=Rungs(samples=(10, 20)),
        deadline=100.0,
        clock=lambda: now[0],
    )
    search.next_trial()
    now[0] = 51.0
    slow = report(10, 0.5).model_copy(update={"seconds": 51.0})
    assert search.report(0, slow) is Decision.PAUSE
    search.next_trial()
    assert search.finish().trials[0].reason == "set aside after 10 rows: the time was spent"


def test_what_runs_a_minute_past_the_deadline_is_cut_off_and_kept(
    make_search: MakeSearch, store: StudyStore
) -> None:
    now = [0.0]
    search = make_search(
        searcher=Listed(lora(2)),
        baseline=BASELINE,
        rungs=Rungs(samples=(10, 20)),
        deadline=100.0,
        clock=lambda: now[0],
    )
    search.next_trial()
    search.next_trial()
    now[0] = 159.0
    assert not search.overrun
    now[0] = 161.0
    assert search.overrun
    search.cut_off(1)
    search.cut_off(0)
    study = search.finish()
    assert states(study) == ["paused", "paused"]
    assert study.trials[0].reason.startswith("set aside before its first evaluation: ")


def test_a_candidate_too_long_for_what_is_left_gives_way_to_a_shorter_one(
    make_search: MakeSearch, store: StudyStore
) -> None:
    search = make_search(
        searcher=Listed(*map(lora, (64, 32, 2))),
        admit=lasting_as_its_rank,
        rungs=Rungs(samples=(10, 20)),
        deadline=10.0,
        clock=lambda: 0.0,
    )
    trial = search.next_trial()
    assert trial is not None
    assert trial.candidate == lora(2)
    assert [each.candidate.rank for each in store.load().trials] == [2]


def test_once_it_is_known_how_long_trainings_take_none_begins_that_cannot_end(
    make_search: MakeSearch, store: StudyStore
) -> None:
    now = [0.0]
    search = make_search(
        searcher=Listed(*map(lora, (4, 8, 2))),
        admit=lasting_as_its_rank,
        rungs=Rungs(samples=(10, 20)),
        deadline=26.0,
        clock=lambda: now[0],
    )
    search.next_trial()
    now[0] = 8.0
    assert search.report(0, report(10, 0.5).model_copy(update={"seconds": 8.0})) is Decision.CONTINUE
    trial = search.next_trial()
    assert trial is not None
    assert trial.candidate == lora(2), "half of 32 s would end by then, but nothing would come of it"


def test_when_all_are_too_long_the_time_is_spent(make_search: MakeSearch) -> None:
    search = make_search(
        searcher=Listed(*map(lora, range(100, 120))),
        admit=lasting_as_its_rank,
        rungs=Rungs(samples=(10, 20)),
        deadline=10.0,
        clock=lambda: 0.0,
        max_trials=None,
    )
    assert search.next_trial() is None
    assert search.ended == "the time budget is spent"


def lasting_as_its_rank(candidate: Candidate) -> Verdict:
    """Fits, and takes as many times 4 seconds as its rank."""
    verdict = admit_all(candidate)
    assert isinstance(verdict, Fits)
    return verdict.model_copy(
        update={"estimate": verdict.estimate.model_copy(update={"run_seconds": 4.0 * (candidate.rank or 1)})}
    )


def test_time_counts_before_anything_is_reported_and_is_written_no_oftener_than_asked(
    make_search: MakeSearch, store: StudyStore
) -> None:
    now, seen = [0.0], []
    search = make_search(searcher=Listed(lora(2)), rungs=Rungs(samples=(10,)), clock=lambda: now[0])
    search.next_trial()
    for now[0] in (10.0, 29.0, 31.0, 60.0, 70.0):
        search.count_time(every=30)
        seen.append(store.load().seconds)
    assert seen == [0.0, 0.0, 31.0, 31.0, 70.0]
    now[0] = 75.0
    search.count_time()
    assert store.load().seconds == 75.0


def test_what_gave_way_to_others_is_not_said_to_have_lacked_time(
    make_search: MakeSearch, store: StudyStore
) -> None:
    now = [0.0]
    search = make_search(
        searcher=Listed(lora(2), lora(4)),
        rungs=Rungs(samples=(10, 20)),
        deadline=100.0,
        clock=lambda: now[0],
    )
    for _ in range(2):
        search.next_trial()
    search._set_aside(0)
    now[0] = 101.0
    search.report(1, report(10, 0.5))
    assert [trial.reason for trial in search.finish().trials] == [
        "set aside before its first evaluation: others promised more",
        "set aside after 10 rows: the time was spent",
    ]


def test_what_a_session_without_time_never_reached_lacked_time(
    make_search: MakeSearch, store: StudyStore
) -> None:
    now, rungs = [0.0], Rungs(samples=(10, 20))
    timed = {"rungs": rungs, "deadline": 100.0, "clock": lambda: now[0]}
    search = make_search(searcher=Listed(lora(2)), **timed)
    search.next_trial()
    now[0] = 101.0
    search.report(0, report(10, 0.5))
    first = search.finish().trials[0].reason
    later = make_search(searcher=Listed(), **timed)
    assert later.next_trial() is None
    assert later.finish().trials[0].reason == first == "set aside after 10 rows: the time was spent"

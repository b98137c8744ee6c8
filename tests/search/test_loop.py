from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from toy_training import (
    Listed,
    Recorder,
    ToyFactory,
    ToyRun,
    admit_small_ranks,
    estimate_of,
    ia3,
    lora,
    report,
    states,
    toy_plan,
)

from autopeft.errors import StorageError
from autopeft.plan.plan import Fits, Rejected, Verdict
from autopeft.search.desk import checkpoint_folder
from autopeft.search.executor import run_locally
from autopeft.search.halving import Rungs
from autopeft.search.loop import Search
from autopeft.search.store import StudyStore
from autopeft.search.strategy import Decision
from autopeft.search.study import Trial
from autopeft.space.candidate import Candidate
from autopeft.train.result import Report

BASELINE = Candidate(method="lora", rank=16)
MakeSearch = Callable[..., Search]


def test_a_search_trains_the_best_to_the_end_and_stops_losers(
    make_search: MakeSearch, factory: ToyFactory, store: StudyStore, tmp_path: Path
) -> None:
    rates = (0.01, 0.1, 0.002, 0.02, 0.003, 0.004, 0.03, 0.001)
    search = make_search(searcher=Listed(*(ia3(rate) for rate in rates)), baseline=BASELINE, max_trials=8)
    run_locally(search, factory, seed=1, folder=tmp_path)
    study = store.load()
    assert len(study.trials) == 9
    assert set(states(study)) == {"complete", "stopped"}
    assert study.baseline is not None
    assert study.baseline.state == "complete"
    assert study.best is not None
    assert study.best.candidate == ia3(0.1)
    assert search.ended == "8 candidates have been tried"
    assert checkpoint_folder(tmp_path, study.best.number).is_dir()
    stopped = next(trial for trial in study.trials if trial.state == "stopped")
    assert "not among the best 1/3" in stopped.reason
    assert not checkpoint_folder(tmp_path, stopped.number).exists()


def test_observers_hear_of_everything_in_order(
    make_search: MakeSearch, factory: ToyFactory, recorder: Recorder, tmp_path: Path
) -> None:
    search = make_search(searcher=Listed(lora(2)), rungs=Rungs(samples=(5, 9)))
    search.start(toy_plan(), 1, 1.0)
    run_locally(search, factory, seed=1, folder=tmp_path)
    study = search.finish()
    assert recorder.events == [
        ("study_started", 0),
        ("started", 0),
        ("reported", 0),
        ("reported", 0),
        ("complete", 0),
        ("study_finished", 1),
    ]
    assert study.seconds > 0
    assert search.ended == "no untried candidate that may fit is left in the space"


def test_what_an_observer_hears_is_in_the_store_already(
    make_search: MakeSearch, factory: ToyFactory, store: StudyStore, tmp_path: Path
) -> None:
    class Checker(Recorder):
        def trial_started(self, trial: Trial) -> None:
            assert store.load().trials[trial.number].state == "running"

        def trial_reported(self, trial: Trial, report: Report) -> None:
            assert store.reports(trial.number)[-1] == report

        def trial_finished(self, trial: Trial) -> None:
            assert store.load().trials[trial.number] == trial

    run_locally(make_search(observers=[Checker()], admit=admit_small_ranks), factory, seed=1, folder=tmp_path)


def test_what_does_not_fit_never_starts(
    make_search: MakeSearch, factory: ToyFactory, store: StudyStore, tmp_path: Path
) -> None:
    searcher = Listed(lora(8), lora(2), lora(16), lora(4))
    run_locally(make_search(searcher=searcher, admit=admit_small_ranks), factory, seed=1, folder=tmp_path)
    study = store.load()
    assert [trial.candidate.rank for trial in study.trials if trial.state == "rejected"] == [8, 16]
    assert study.trials[0].reason == "needs 8 kB, but the budget is 4 kB"
    assert len(factory.made) == 2
    assert [trial.number for trial in searcher.seen] == [0, 1, 2, 3]


def test_a_search_in_which_nothing_fits_ends(make_search: MakeSearch, store: StudyStore) -> None:
    searcher = Listed(*(lora(rank) for rank in range(1, 100)))
    search = make_search(
        searcher=searcher, admit=lambda candidate: Rejected(candidate=candidate, reason="too big")
    )
    assert search.next_trial() is None
    assert search.next_trial() is None
    assert search.ended == "50 candidates in a row did not fit the budget"
    assert states(store.load()) == ["rejected"] * 50


def test_the_baseline_goes_first_and_is_never_stopped(make_search: MakeSearch) -> None:
    search = make_search(searcher=Listed(lora(2)), baseline=BASELINE, rungs=Rungs(samples=(10, 20)))
    baseline, other = search.next_trial(), search.next_trial()
    assert baseline is not None
    assert other is not None
    assert (baseline.role, other.role) == ("baseline", "candidate")
    assert search.report(other.number, report(10, 0.9)) is Decision.CONTINUE
    assert search.report(baseline.number, report(10, 0.1)) is Decision.CONTINUE
    assert search.report(baseline.number, report(20, 0.1)) is Decision.COMPLETE


def test_a_proposal_that_equals_the_baseline_is_not_trained_again(make_search: MakeSearch) -> None:
    search = make_search(searcher=Listed(BASELINE, lora(2)), baseline=BASELINE)
    numbers = [search.next_trial(), search.next_trial(), search.next_trial()]
    assert [trial.candidate if trial else None for trial in numbers] == [BASELINE, lora(2), None]


def test_a_training_shorter_than_the_last_rung_is_complete_when_it_is_over(make_search: MakeSearch) -> None:
    search = make_search(searcher=Listed(lora(2)), rungs=Rungs(samples=(10, 20)))
    search.next_trial()
    assert search.report(0, report(12, 0.5)) is Decision.CONTINUE
    assert search.report(0, report(19, 0.5)) is Decision.COMPLETE


def test_divergence_is_stopped_with_its_name(make_search: MakeSearch, store: StudyStore) -> None:
    search = make_search(searcher=Listed(lora(2)), rungs=Rungs(samples=(10, 20)))
    search.next_trial()
    assert search.report(0, report(10, math.nan)) is Decision.STOP
    assert store.load().trials[0].reason == "diverged"


def test_a_failed_trial_is_a_result_and_the_search_goes_on(
    make_search: MakeSearch, factory: ToyFactory, store: StudyStore, tmp_path: Path
) -> None:
    searcher = Listed(Candidate(method="explodes"), lora(2), Candidate(method="nobody knows"))
    run_locally(make_search(searcher=searcher), factory, seed=1, folder=tmp_path)
    study = store.load()
    assert states(study) == ["failed", "rejected", "complete", "failed"]
    assert study.trials[0].reason.startswith("out of memory (MemoryError: DefaultCPUAllocator")
    assert study.trials[1].note == "again in micro-batches of 8 rows: trial 0 ran out of memory"
    assert study.trials[1].reason.endswith("trial 0, explodes too, ran out of memory with 1000 B predicted")
    assert study.trials[3].reason == "KeyError: 'nobody knows'"


def test_a_search_in_which_everything_fails_ends(
    make_search: MakeSearch, factory: ToyFactory, store: StudyStore, tmp_path: Path
) -> None:
    searcher = Listed(*(Candidate(method="nobody knows", rank=rank) for rank in range(1, 20)))
    search = make_search(searcher=searcher, max_trials=None)
    run_locally(search, factory, seed=1, folder=tmp_path)
    assert states(store.load()) == ["failed"] * 5
    assert search.ended == "5 trials in a row failed, the last one with KeyError: 'nobody knows'"


def test_a_store_that_cannot_be_written_ends_the_search(
    make_search: MakeSearch, factory: ToyFactory, store: StudyStore, tmp_path: Path
) -> None:
    search = make_search(searcher=Listed(lora(2)))
    search.next_trial()
    store.close()
    for file in tmp_path.glob("study.sqlite*"):
        file.write_bytes(b"noise" * 2000)
    with pytest.raises(StorageError):
        search.report(0, report(10, 0.5))


def test_a_resumed_search_goes_on_with_what_was_cut_off(
    make_search: MakeSearch, factory: ToyFactory, store: StudyStore, recorder: Recorder, tmp_path: Path
) -> None:
    rungs = Rungs(samples=(10, 20))
    first = make_search(searcher=Listed(lora(2), lora(4)), baseline=BASELINE, rungs=rungs)
    for _ in range(3):
        first.next_trial()
    first.report(0, report(10, 0.7))
    first.report(0, report(20, 0.8))
    first.report(1, report(10, 0.9))

    searcher = Listed(lora(2), lora(4), lora(8))
    second = make_search(searcher=searcher, baseline=BASELINE, rungs=rungs, observers=[])
    assert [trial.number for trial in searcher.seen] == [0]
    again = [second.next_trial(), second.next_trial(), second.next_trial()]
    assert [(trial.number, trial.candidate) for trial in again if trial] == [
        (1, lora(2)),
        (2, lora(4)),
        (3, lora(8)),
    ]
    assert (second.remaining(1), second.remaining(2)) == ((20,), (10, 20))
    assert second.report(2, report(10, 0.1)) is Decision.STOP
    assert second.report(1, report(20, 0.95)) is Decision.COMPLETE
    complete = store.load().trials[1].result
    assert complete is not None
    assert [each.samples for each in complete.reports] == [10, 20]


def test_the_limit_of_trials_counts_all_sessions(make_search: MakeSearch) -> None:
    first = make_search(searcher=Listed(lora(2), lora(4), lora(8)), max_trials=2, baseline=BASELINE)
    for number in range(3):
        first.next_trial()
        first.report(number, report(50, 0.5))
    assert first.next_trial() is None
    second = make_search(searcher=Listed(lora(8)), max_trials=3, baseline=BASELINE)
    fourth = second.next_trial()
    assert fourth is not None
    assert (fourth.number, fourth.candidate) == (3, lora(8))
    assert second.next_trial() is None


DRIVER = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from toy_training import ACCURACY, ToyFactory, admit_all, toy_space
from autopeft.search.executor import run_locally
from autopeft.search.halving import plan_rungs
from autopeft.search.loop import Search
from autopeft.search.optuna_searcher import OptunaSearcher
from autopeft.search.store import StudyStore
from autopeft.search.strategy import Halving
from autopeft.space.candidate import Candidate
from toy_training import Recorder

class Saying(Recorder):
    def trial_reported(self, trial, report):
        print("report", trial.number, flush=True)

folder = Path(sys.argv[2])
store = StudyStore(folder / "study.sqlite")
with store.claimed():
    search = Search(
        store, Halving(OptunaSearcher(toy_space(), seed=1, metric=ACCURACY), 3, ACCURACY), admit_all,
        plan_rungs(60), ACCURACY,
        [Saying()], baseline=Candidate(method="lora", rank=16), max_trials=5,
    )
    run_locally(search, ToyFactory(folder / "made.txt", pause=0.002), seed=1, folder=folder)
"""


def start_driver(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", DRIVER, str(Path(__file__).parent), str(folder)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize("reports_before", [2, 5])
def test_a_killed_search_resumes_without_losing_or_repeating_a_trial(
    store: StudyStore, tmp_path: Path, reports_before: int
) -> None:
    driver = start_driver(tmp_path)
    assert driver.stdout is not None
    for _ in range(reports_before):
        assert driver.stdout.readline().startswith("report")
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    before = store.load()
    running = [trial.number for trial in before.trials if not trial.finished]
    cut_reports = {number: store.reports(number) for number in running}

    assert start_driver(tmp_path).wait() == 0
    after = store.load()
    for trial in before.trials:
        assert not trial.finished or after.trials[trial.number] == trial
    assert all(trial.finished for trial in after.trials)
    assert len(after.trials) == 6
    assert len({trial.candidate.key for trial in after.trials}) == 6
    for number, reports in cut_reports.items():
        result = after.trials[number].result
        assert result is not None
        assert result.reports[: len(reports)] == reports
    made = (tmp_path / "made.txt").read_text(encoding="utf-8").splitlines()
    assert len(made) <= 6 + len(running)


def test_a_continued_run_starts_from_its_checkpoint(
    make_search: MakeSearch, factory: ToyFactory, store: StudyStore, tmp_path: Path
) -> None:
    folder = checkpoint_folder(tmp_path, 0)
    folder.mkdir(parents=True)
    (folder / "state.json").write_text(json.dumps({"seen": 10, "distance": 0.001}), encoding="utf-8")
    run_locally(make_search(searcher=Listed(lora(2))), factory, seed=1, folder=tmp_path)
    result = store.load().trials[0].result
    assert result is not None
    assert result.reports[0].score == pytest.approx(1.0, abs=0.01)


def test_a_crash_while_checkpoints_are_exchanged_leaves_one(
    make_search: MakeSearch, factory: ToyFactory, store: StudyStore, tmp_path: Path
) -> None:
    old = checkpoint_folder(tmp_path, 0).with_name("checkpoint.old")
    old.mkdir(parents=True)
    (old / "state.json").write_text(json.dumps({"seen": 10, "distance": 0.001}), encoding="utf-8")
    run_locally(make_search(searcher=Listed(lora(2))), factory, seed=1, folder=tmp_path)
    result = store.load().trials[0].result
    assert result is not None
    assert result.reports[0].score == pytest.approx(1.0, abs=0.01)
    assert not old.exists()


def test_trials_side_by_side_fit_together(make_search: MakeSearch) -> None:
    ranks = (3, 8, 2)  # of 1000 bytes each
    search = make_search(searcher=Listed(*map(lora, ranks)), rungs=Rungs(samples=(10,)), memory=10_000)
    first = search.next_trial()
    assert first is not None
    assert search.next_trial() is None
    assert not search.ended
    search.report(first.number, report(10, 0.5))
    second, third = search.next_trial(), search.next_trial()
    assert second is not None
    assert third is not None
    assert (second.candidate, third.candidate) == (lora(8), lora(2))


def test_what_no_longer_exceeds_the_budget_may_be_tried_after_all(
    make_search: MakeSearch, store: StudyStore
) -> None:
    first = make_search(searcher=Listed(lora(8)), admit=admit_small_ranks, rungs=Rungs(samples=(10,)))
    assert first.next_trial() is None
    assert states(store.load()) == ["rejected"]
    later = make_search(searcher=Listed(lora(8)), rungs=Rungs(samples=(10,)))
    trial = later.next_trial()
    assert trial is not None
    assert (trial.number, trial.candidate) == (1, lora(8))
    later.report(1, report(10, 0.5))
    assert states(store.load()) == ["rejected", "complete"]


def test_a_second_try_does_not_count_among_the_trials(make_search: MakeSearch) -> None:
    search = make_search(
        searcher=Listed(lora(4), lora(2)), rungs=Rungs(samples=(10,)), max_trials=1, admit=less
    )
    first = search.next_trial()
    assert first is not None
    search.fail(first.number, "out of memory (MemoryError: no)")
    again = search.next_trial()
    assert again is not None
    assert again.note
    search.report(again.number, report(10, 0.5))
    assert search.next_trial() is None
    assert search.ended == "1 candidates have been tried"


def less(candidate: Candidate) -> Verdict:
    """Fits, and takes as much as it has rows in a micro-batch."""
    return Fits(candidate=candidate, estimate=estimate_of(lora(candidate.training.batch_size)))


class Unsavable(ToyRun):
    """A run whose second checkpoint cannot be written whole."""

    def save(self, folder: Path) -> None:
        super().save(folder)
        if self.seen > 5:
            raise RuntimeError("cannot be saved")


def test_a_trial_whose_checkpoint_could_not_be_saved_leaves_nothing_on_the_disk(
    make_search: MakeSearch, tmp_path: Path
) -> None:
    search = make_search(searcher=Listed(lora(2)), rungs=Rungs(samples=(5, 9)))
    run_locally(search, lambda candidate, seed: Unsavable(candidate, seed, 0.0), seed=1, folder=tmp_path)
    (trial,) = search.finish().trials
    assert (trial.state, trial.reason) == ("failed", "RuntimeError: cannot be saved")
    assert list(checkpoint_folder(tmp_path, 0).parent.iterdir()) == []

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from toy_training import Listed, Recorder, ToyFactory, ToyRun, admit_small_ranks, estimate_of

from autopeft.errors import StorageError
from autopeft.plan.plan import Fits, Verdict
from autopeft.search.desk import Failure, checkpoint_folder, last_checkpoint
from autopeft.search.halving import Rungs
from autopeft.search.loop import Search
from autopeft.search.ray_runner import COUNTED_EVERY_SECONDS, RESTARTS, run_on_ray
from autopeft.search.ray_worker import pack, unpack
from autopeft.search.store import StudyStore
from autopeft.search.study import Trial
from autopeft.search.watch import piece_limit
from autopeft.space.candidate import Candidate
from autopeft.train.result import Report

CANDIDATES = (
    Candidate(method="lora", rank=16),  # does not fit
    Candidate(method="lora", rank=3),  # its process is killed
    Candidate(method="explodes"),
    Candidate(method="lora", rank=4),
    Candidate(method="ia3"),
    Candidate(method="prompt_tuning"),
)


@pytest.mark.timeout(180)
def test_ray_runs_what_the_search_decides(
    make_search: Callable[..., Search], store: StudyStore, recorder: Recorder, tmp_path: Path
) -> None:
    factory = ToyFactory(tmp_path / "made.txt", pause=0.001, kill_at_rank=3)
    search = make_search(
        searcher=Listed(*CANDIDATES), admit=admit_small_ranks, rungs=Rungs(samples=(10, 40)), max_trials=None
    )
    paths_before = os.environ.get("PYTHONPATH")
    run_on_ray(search, factory, seed=1, concurrent=2, threads_per_trial=1, folder=tmp_path)

    every = store.load().trials
    smaller = [trial for trial in every if trial.note]
    assert [trial.state for trial in smaller] == ["rejected"]  # no less is predicted for it
    trials = [trial for trial in every if not trial.note]
    assert [trial.candidate for trial in trials] == list(CANDIDATES)
    assert [trial.state for trial in trials[:3]] == ["rejected", "failed", "failed"]
    assert "killed from outside" in trials[1].reason
    assert trials[2].reason.startswith("out of memory (MemoryError")
    assert {trial.state for trial in trials[3:]} <= {"complete", "stopped"}
    best = max(trials[3:], key=lambda trial: trial.result.score if trial.result else 0)
    assert best.state == "complete"
    assert (checkpoint_folder(tmp_path, best.number) / "state.json").is_file()
    again = ["lora"] * RESTARTS  # whoever is killed goes on from the last checkpoint
    assert sorted(factory.made) == sorted([candidate.method for candidate in CANDIDATES[1:]] + again)
    reports = [report for trial in trials[3:] if trial.result for report in trial.result.reports]
    processes = {report.extra["process"] for report in reports}
    assert os.getpid() not in processes
    assert {report.extra["niceness"] for report in reports} == {os.nice(0)}
    assert len(processes) <= 3 + RESTARTS  # kept from trial to trial; some were killed
    assert ("started", 0) not in recorder.events
    assert os.environ.get("PYTHONPATH") == paths_before
    assert not (tmp_path / "ray").exists()


class KillsIdle(Recorder):
    """Kills a worker when its first trial has ended, before it gets another one."""

    killed = False

    def trial_finished(self, trial: Trial) -> None:
        super().trial_finished(trial)
        if not self.killed and trial.result and trial.result.reports:
            self.killed = True
            os.kill(int(trial.result.reports[-1].extra["process"]), signal.SIGKILL)


@pytest.mark.timeout(180)
def test_a_trial_whose_worker_died_before_it_began_is_trained(
    make_search: Callable[..., Search], store: StudyStore, tmp_path: Path
) -> None:
    candidates = [Candidate(method="lora", rank=rank) for rank in (2, 4)]
    observer = KillsIdle()
    search = make_search(
        searcher=Listed(*candidates), rungs=Rungs(samples=(10,)), max_trials=None, observers=[observer]
    )
    factory = ToyFactory(tmp_path / "made.txt")
    run_on_ray(search, factory, seed=1, concurrent=1, threads_per_trial=1, folder=tmp_path)
    assert observer.killed
    assert [trial.state for trial in search.finish().trials] == ["complete", "complete"]


class HangingFactory(ToyFactory):
    """Makes runs of which those of one rank stop their own process, so that no thread of it can help."""

    def __call__(self, candidate: Candidate, seed: int) -> ToyRun:
        run = super().__call__(candidate, seed)
        if candidate.rank == 8:
            os.kill(os.getpid(), signal.SIGSTOP)
        return run


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_trial_that_hangs_is_ended_and_says_so(
    make_search: Callable[..., Search], store: StudyStore, tmp_path: Path
) -> None:
    def admit(candidate: Candidate) -> Verdict:
        estimate = estimate_of(candidate).model_copy(update={"run_seconds": 1.0})
        return Fits(candidate=candidate, estimate=estimate)

    candidates = [Candidate(method="lora", rank=rank) for rank in (8, 4)]
    search = make_search(
        searcher=Listed(*candidates), admit=admit, rungs=Rungs(samples=(10, 40)), max_trials=None
    )
    run_on_ray(
        search,
        HangingFactory(tmp_path / "made.txt"),
        seed=1,
        concurrent=1,
        threads_per_trial=1,
        folder=tmp_path,
        hang_seconds=60,
    )
    hung, sound = store.load().trials
    assert hung.state == "failed"
    assert hung.reason.startswith("hung: no evaluation within 1 min")
    assert sound.state == "complete"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("role", ["baseline", "candidate"])
def test_what_overruns_the_time_is_cut_off_and_its_last_checkpoint_kept(
    make_search: Callable[..., Search], store: StudyStore, tmp_path: Path, role: str
) -> None:
    factory = ToyFactory(tmp_path / "made.txt", pause=0.01)

    def since_it_began() -> float:
        return time.time() - factory.log.stat().st_mtime if factory.log.exists() else 0.0

    long = Candidate(method="lora", rank=4)
    search = make_search(
        searcher=Listed(*([long] if role == "candidate" else [])),
        baseline=long if role == "baseline" else None,
        rungs=Rungs(samples=(10, 20_000)),
        deadline=20.0,
        clock=since_it_began,
    )
    run_on_ray(search, factory, seed=1, concurrent=1, threads_per_trial=1, folder=tmp_path)
    [trial] = search.finish().trials
    assert (trial.state, trial.role) == ("paused", role)
    assert [report.samples for report in trial.result.reports] == [10]
    assert last_checkpoint(checkpoint_folder(tmp_path, 0)) is not None


def test_the_time_a_trial_may_take_follows_its_prediction() -> None:
    rungs = Rungs(samples=(25, 50, 100))
    estimate = estimate_of(CANDIDATES[1]).model_copy(update={"run_seconds": 1000.0})
    trial = Trial(number=0, role="candidate", candidate=CANDIDATES[1], state="running", predicted=estimate)
    assert piece_limit(trial, rungs, 0, floor=300) == pytest.approx(10 * 250)
    assert piece_limit(trial, rungs, 50, floor=300) == pytest.approx(10 * 500)
    assert piece_limit(trial, rungs, 0, floor=9000) == 9000
    assert piece_limit(trial, rungs, 100, floor=300) is None
    unknown = trial.model_copy(update={"predicted": estimate_of(CANDIDATES[1])})
    assert piece_limit(unknown, rungs, 0, floor=300) is None


def test_what_a_worker_says_crosses_as_text() -> None:
    report = Report(samples=1, step=1, loss=None, score=0.5, seconds=1, step_seconds=1, peak_bytes=1)
    for outcome in (report, Failure("out of memory")):
        assert unpack(pack(outcome)) == outcome
    fault = unpack(pack(StorageError("the disk is full")))
    assert isinstance(fault, StorageError)
    assert str(fault) == "the disk is full"


DRIVER = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from toy_training import ACCURACY, Recorder, ToyFactory, admit_all, toy_space
from autopeft.search.halving import plan_rungs
from autopeft.search.loop import Search
from autopeft.search.optuna_searcher import OptunaSearcher
from autopeft.search.ray_runner import COUNTED_EVERY_SECONDS, RESTARTS, run_on_ray
from autopeft.search.store import StudyStore
from autopeft.search.strategy import Halving
from autopeft.space.candidate import Candidate

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
    factory = ToyFactory(folder / "made.txt", pause=0.01)
    try:
        run_on_ray(search, factory, seed=1, concurrent=2, threads_per_trial=1, folder=folder)
    except KeyboardInterrupt:
        sys.exit("interrupted")
"""


def start_driver(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", DRIVER, str(Path(__file__).parent), str(folder)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_search_cut_off_under_ray_resumes_without_losing_or_repeating_a_trial(
    store: StudyStore, tmp_path: Path, how: signal.Signals
) -> None:
    driver = start_driver(tmp_path)
    assert driver.stdout is not None
    assert driver.stderr is not None
    for _ in range(3):
        assert driver.stdout.readline().startswith("report")
    # A terminal sends Ctrl-C to the whole group; the kernel kills one process.
    os.killpg(driver.pid, how) if how is signal.SIGINT else driver.send_signal(how)
    driver.wait(timeout=60)
    if how is signal.SIGINT:
        assert driver.stderr.read().strip().splitlines()[-1] == "interrupted"
    time.sleep(2)  # Ray's processes notice that their driver is gone
    before = store.load()
    assert any(not trial.finished for trial in before.trials)
    cut_reports = {trial.number: store.reports(trial.number) for trial in before.trials if not trial.finished}

    again = start_driver(tmp_path)
    again.communicate(timeout=200)
    assert again.returncode == 0
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


class Looks(ToyRun):
    """A run that looks from its own process at the time that the study has taken so far."""

    store = Path()

    def advance(self, samples: int) -> Report:
        made = super().advance(samples)
        opened = StudyStore(self.store)
        seconds = opened.load().seconds
        opened.close()
        return made.model_copy(update={"extra": {"seconds": seconds}})


class LooksFactory(ToyFactory):
    def __call__(self, candidate: Candidate, seed: int) -> ToyRun:
        run = Looks(candidate, seed, self.pause)
        run.store = self.log.with_name("study.sqlite")
        return run


@pytest.mark.timeout(180)
def test_time_is_counted_while_a_training_has_reported_nothing_yet(
    make_search: Callable[..., Search], store: StudyStore, tmp_path: Path
) -> None:
    class Starts(Recorder):
        def trial_started(self, trial: Trial) -> None:
            self.seconds = store.load().seconds

    starts = Starts()
    search = make_search(
        searcher=Listed(Candidate(method="ia3")),
        rungs=Rungs(samples=(40,)),
        observers=[starts],
        clock=lambda: 100 * time.monotonic(),
    )
    factory = LooksFactory(tmp_path / "made.txt", pause=0.05)
    run_on_ray(search, factory, seed=1, concurrent=1, threads_per_trial=1, folder=tmp_path)
    (trial,) = store.load().trials
    assert trial.result is not None
    assert trial.result.reports[0].extra["seconds"] >= starts.seconds + COUNTED_EVERY_SECONDS

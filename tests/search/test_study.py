"""Which trial a study takes."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_training import estimate_of, toy_plan

from autopeft.plan.budget import Preference
from autopeft.search.store import StudyStore
from autopeft.search.study import Study, Trial
from autopeft.space.candidate import Candidate
from autopeft.train.result import Report, TrialResult
from autopeft.workload.dataset import ACCURACY, Metric
from autopeft.workload.tasks import F1, HELD_OUT_LOSS, RELATIVE_ERROR

PROPORTION = ACCURACY.model_copy(update={"interval": "proportion"})


def trial(number: int, score: float, *, params: int, seconds: float, repetition: int = 0) -> Trial:
    candidate = Candidate(method="lora", rank=number + 1 if not repetition else 1)
    change = {"trainable_params": params, "run_seconds": seconds}
    return Trial(
        number=number,
        role="candidate",
        candidate=candidate,
        state="complete",
        predicted=estimate_of(candidate).model_copy(update=change),
        result=TrialResult(state="complete", reports=(report(score),)),
        repetition=repetition,
    )


def score_of(trial: Trial) -> float:
    assert trial.result
    return trial.result.score


def report(score: float) -> Report:
    return Report(samples=10, step=1, loss=1, score=score, seconds=1, step_seconds=1, peak_bytes=1)


TRIALS = (
    trial(0, 0.83, params=900, seconds=50),
    trial(1, 0.82, params=100, seconds=90),
    trial(2, 0.81, params=500, seconds=10),
    trial(3, 0.50, params=1, seconds=1),
)


@pytest.mark.parametrize(("prefer", "winner"), [("quality", 0), ("small", 1), ("fast", 2)])
def test_of_what_lies_within_noise_the_preferred_one_is_best(prefer: Preference, winner: int) -> None:
    study = Study(
        name="s", folder="f", metric=PROPORTION, seed=0, trials=TRIALS, prefer=prefer, validation_rows=400
    )
    assert study.best == TRIALS[winner]
    assert study.equals == 3


def test_with_many_rows_nothing_is_within_noise_and_the_best_is_taken() -> None:
    study = Study(
        name="s", folder="f", metric=PROPORTION, seed=0, trials=TRIALS, prefer="small", validation_rows=10**6
    )
    assert study.best == TRIALS[0]
    assert study.equals == 1


def test_without_rows_what_repetitions_differ_by_is_the_noise() -> None:
    again = trial(4, 0.78, params=900, seconds=50, repetition=1)
    study = Study(name="s", folder="f", metric=ACCURACY, seed=0, trials=(*TRIALS, again), prefer="small")
    assert study.best == TRIALS[1]


@pytest.mark.parametrize("metric", [HELD_OUT_LOSS, RELATIVE_ERROR, F1])
def test_where_nothing_tells_noise_the_best_is_taken_and_the_study_says_so(metric: Metric) -> None:
    given = {"name": "s", "folder": "f", "metric": metric, "seed": 0, "validation_rows": 400}
    best = min(TRIALS, key=score_of) if metric.direction == "minimize" else max(TRIALS, key=score_of)
    once = Study.build(**given, trials=TRIALS, prefer="small")
    assert (once.best, once.knows_noise) == (best, False)
    again = trial(4, 0.1, params=900, seconds=50, repetition=1)
    assert Study.build(**given, trials=(*TRIALS, again), prefer="small").knows_noise
    assert Study.build(**given | {"metric": PROPORTION}, trials=TRIALS).knows_noise


def test_the_store_keeps_what_is_preferred(tmp_path: Path) -> None:
    store = StudyStore(tmp_path / "study.db")
    plan = toy_plan()
    workload = plan.workload.model_copy(update={"validation_rows": 77})
    store.create(
        name="s",
        metric=ACCURACY,
        seed=0,
        request='{"prefer": "small"}',
        plan=plan.model_copy(update={"workload": workload}),
    )
    study = store.load()
    assert (study.prefer, study.validation_rows) == ("small", 77)

"""The test rows: what was scored stays, no trial is scored twice, and it is known for how many."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from autopeft.journey.contest import Scores, hold_contest
from autopeft.search.study import Study, Trial
from autopeft.space.candidate import Candidate, Training
from autopeft.train.result import Report, TrialResult
from autopeft.train.trainer import Trainer
from autopeft.workload.base_model import BaseModel
from autopeft.workload.dataset import ACCURACY, Dataset

NOTHING = Scores(trial=None, scores=())


def a_trial(number: int, score: float) -> Trial:
    report = Report(samples=8, step=1, loss=0.5, score=score, seconds=1.0, step_seconds=0.1, peak_bytes=10**6)
    training = Training(learning_rate=1e-3 * (1 + number), max_length=24)
    return Trial(
        number=number,
        role="candidate" if number else "baseline",
        candidate=Candidate(method="lora", rank=2 + number, targets="query+value", training=training),
        state="complete",
        result=TrialResult(state="complete", reports=(report,)),
    )


@pytest.fixture(scope="module")
def trials(
    encoder_with_weights: BaseModel, sentiment: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, tuple[Trial, ...]]:
    """Three trials with their checkpoints; the best validation score has 1, and then 2."""
    folder = tmp_path_factory.mktemp("trials")
    made = (a_trial(0, 0.6), a_trial(1, 0.7), a_trial(2, 0.8))
    for trial in made:
        Trainer(encoder_with_weights, sentiment, trial.candidate, seed=0, device="cpu").save(
            folder / str(trial.number)
        )
    return folder, made


def test_a_new_winner_is_scored_beside_what_was_scored_before(
    trials: tuple[Path, tuple[Trial, ...]], encoder_with_weights: BaseModel, sentiment: Dataset
) -> None:
    folder, made = trials
    study = Study(name="s", folder=str(folder), metric=ACCURACY, seed=0, trials=made[:2])
    where = (encoder_with_weights, sentiment, lambda number: folder / str(number), "cpu")

    first = hold_contest(study, *where, NOTHING)
    assert first.trial == 1
    assert [each.trial for each in first.evaluated] == [1, 0]
    assert first.configurations(study) == 3  # the winner, the default, the linear probe

    longer = study.model_copy(update={"trials": made})
    for scored in ("0", "1"):
        shutil.rmtree(folder / scored)  # so that these cannot be scored again
    second = hold_contest(longer, *where, first)
    assert second.trial == 2
    assert second.evaluated[:2] == first.evaluated
    assert [each.trial for each in second.evaluated] == [1, 0, 2]
    assert second.configurations(longer) == 4
    assert second.scores[1].test_score == first.scores[1].test_score


def test_a_score_on_other_rows_gives_way_to_the_new_one(
    trials: tuple[Path, tuple[Trial, ...]], encoder_with_weights: BaseModel, sentiment: Dataset
) -> None:
    folder, made = trials
    study = Study(name="s", folder=str(folder), metric=ACCURACY, seed=0, trials=(made[2],))
    where = (encoder_with_weights, sentiment, lambda number: folder / str(number), "cpu")
    (now,) = hold_contest(study, *where, NOTHING).evaluated
    earlier = now.model_copy(update={"rows": "of another file", "score": -1.0})
    other = now.model_copy(update={"trial": 7})
    again = hold_contest(study, *where, Scores(trial=2, scores=(), evaluated=(earlier, other)))
    assert again.of(2) == now
    assert again.evaluated == (other, now)


def test_two_seeds_of_a_configuration_are_one(
    trials: tuple[Path, tuple[Trial, ...]], encoder_with_weights: BaseModel, sentiment: Dataset
) -> None:
    folder, made = trials
    again = made[2].model_copy(update={"number": 3, "repetition": 1})
    study = Study(name="s", folder=str(folder), metric=ACCURACY, seed=0, trials=(made[2], again))
    scores = hold_contest(study, encoder_with_weights, sentiment, lambda _: folder / "2", "cpu", NOTHING)
    (earned,) = scores.evaluated
    both = scores.model_copy(update={"evaluated": (earned, earned.model_copy(update={"trial": 3}))})
    assert both.configurations(study) == scores.configurations(study) == 2

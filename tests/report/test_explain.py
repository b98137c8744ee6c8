from __future__ import annotations

import random

import pytest

from autopeft.plan.plan import Rejected
from autopeft.report.explain import importances, untried
from autopeft.report.explain_charts import explain_charts
from autopeft.report.facts import StudyFacts
from autopeft.search.study import Study, Trial
from autopeft.space.candidate import Candidate, Training
from autopeft.train.result import Report, TrialResult
from autopeft.workload.dataset import ACCURACY


def trial(number: int, candidate: Candidate, scores: dict[int, float]) -> Trial:
    reports = tuple(
        Report(samples=samples, step=1, loss=1, score=score, seconds=1, step_seconds=1, peak_bytes=1)
        for samples, score in scores.items()
    )
    state = "complete" if 400 in scores else "stopped"
    result = TrialResult(state=state, reports=reports)
    return Trial(number=number, role="candidate", candidate=candidate, state=state, result=result)


def searched(trials: int) -> Study:
    """The learning rate decides, the rank (of LoRA alone) a little, the batch nothing."""
    dice = random.Random(0)
    found = []
    for number in range(trials):
        rate = 10 ** dice.uniform(-4, -2)
        method = dice.choice(["lora", "ia3"])
        rank = dice.choice([4, 16]) if method == "lora" else None
        training = Training(learning_rate=rate, batch_size=dice.choice([8, 16]))
        score = 0.9 - 0.2 * abs(rate - 3e-3) / 7e-3 + (0.01 if rank == 16 else 0) + dice.gauss(0, 0.002)
        candidate = Candidate(method=method, rank=rank, training=training)
        found.append(trial(number, candidate, {100: score} if number % 3 else {100: score, 400: 0.5}))
    return Study(name="s", folder="f", metric=ACCURACY, seed=0, trials=tuple(found))


def test_the_field_that_decides_comes_first_by_both_measures() -> None:
    found = importances(searched(60))
    assert found is not None
    assert found.rows[0].field == "training.learning_rate"
    assert found.rows[0].share > 0.5
    shares = {row.field: row for row in found.rows}
    assert sum(row.share for row in found.rows) == pytest.approx(1)
    assert shares["training.learning_rate"].variance > 0.7
    assert set(shares) == {"training.learning_rate", "method", "rank", "training.batch_size"}


def test_a_field_of_some_trials_only_has_no_share_of_the_variance_of_all() -> None:
    found = importances(searched(60))
    assert found is not None
    (rank,) = [row for row in found.rows if row.field == "rank"]
    assert rank.variance is None
    assert 0 < rank.trials < 60


def test_trials_are_compared_where_most_of_them_ran() -> None:
    found = importances(searched(30))
    assert found is not None
    assert (found.samples, found.trials, found.top) == (100, 30, 5)


def test_few_trials_or_equal_scores_say_nothing() -> None:
    assert importances(searched(9)) is None
    assert importances(searched(0)) is None
    equal = [trial(number, Candidate(method="lora", rank=number + 1), {100: 0.5}) for number in range(20)]
    assert importances(Study(name="s", folder="f", metric=ACCURACY, seed=0, trials=tuple(equal))) is None
    same = [trial(number, Candidate(method="lora"), {100: number / 20}) for number in range(20)]
    assert importances(Study(name="s", folder="f", metric=ACCURACY, seed=0, trials=tuple(same))) is None


def test_refusals_are_counted_by_reason_whatever_their_numbers(facts: StudyFacts) -> None:
    def refused(rank: int, reason: str) -> Rejected:
        return Rejected(candidate=Candidate(method="lora", rank=rank), reason=reason)

    plan = facts.plan.model_copy(
        update={
            "rejected": (
                refused(8, "peak memory 5.2 GiB exceeds the budget of 4 GB"),
                refused(16, "peak memory 7 GiB exceeds the budget of 4 GB"),
                refused(32, "the run takes 3 h 10 min"),
            )
        }
    )
    again = Trial(
        number=0, role="candidate", candidate=Candidate(method="lora", rank=16), state="rejected",
        reason="peak memory 7 GiB exceeds the budget of 4 GB",
    )  # fmt: skip
    study = facts.study.model_copy(update={"trials": (again,)})
    memory, time = untried(study, plan)
    assert (memory.count, memory.methods) == (2, ("lora",))
    assert memory.reason == "peak memory 5.2 GiB exceeds the budget of 4 GB"
    assert (time.count, time.example.split()[1]) == (1, "r=32")


def test_the_charts_show_what_the_facts_say(facts: StudyFacts) -> None:
    study = searched(40)
    full = facts.model_copy(
        update={
            "importances": importances(study), "untried": untried(facts.study, facts.plan),
            "combinations": 159, "continuous": True,
        }
    )  # fmt: skip
    importance, fates = explain_charts(full)
    assert (importance.name, fates.name) == ("importance", "fates")
    assert importance.figure.data[0].y[0] == "learning rate"
    assert "learning rate" in importance.finding
    assert "159 combinations" in fates.finding
    refused = sum(one.count for one in full.untried)
    assert f"Refused before they were trained: {refused:,}" in fates.finding


def test_the_fates_are_those_of_configurations_with_whole_numbers_between(facts: StudyFacts) -> None:
    one = facts.study.trials[0]
    twice = one.model_copy(update={"number": 1, "repetition": 1})
    study = facts.study.model_copy(update={"trials": (one, twice)})
    few = facts.model_copy(update={"study": study, "untried": (), "combinations": 159})
    (fates,) = explain_charts(few)
    assert list(fates.figure.data[0].x) == [1]
    assert fates.figure.layout.xaxis.dtick == 1
    assert fates.title == "What became of every configuration"
    assert fates.finding == (
        "Trained, whole or in part: 1. Refused before they were trained: 0. "
        "The space holds 159 combinations; the rest was never proposed."
    )


def test_without_facts_there_is_no_chart(facts: StudyFacts) -> None:
    bare = facts.model_copy(update={"importances": None, "untried": (), "combinations": None})
    assert explain_charts(bare) == ()


def test_a_rank_of_many_values_is_a_number_also_in_a_thousand_trials() -> None:
    dice = random.Random(0)
    trials = []
    for number in range(1000):
        candidate = Candidate(
            method="lora", rank=dice.randint(1, 64), training=Training(batch_size=dice.choice([8, 16]))
        )
        trials.append(trial(number, candidate, {100: candidate.rank / 100 + dice.gauss(0, 0.1)}))
    found = importances(Study(name="s", folder="f", metric=ACCURACY, seed=0, trials=tuple(trials)))
    assert found is not None
    assert found.rows[0].field == "rank"
    assert found.rows[0].variance == pytest.approx(1, abs=0.1)

from __future__ import annotations

from pathlib import Path

import pytest

from autopeft.hardware.catalog import load_profile
from autopeft.journey.first_tries import WARM, first_tries, usual_form
from autopeft.journey.inputs import Inputs, load_inputs
from autopeft.plan.budget import Budget
from autopeft.plan.plan import Plan
from autopeft.request import Request
from autopeft.search.past import past_studies
from autopeft.search.prior import prior_good
from autopeft.search.store import StudyStore
from autopeft.search.study import Trial
from autopeft.space.candidate import Candidate
from autopeft.space.search_space import SearchSpace, typical
from autopeft.train.result import Report
from autopeft.workload.dataset import Metric


@pytest.fixture
def inputs() -> Inputs:
    request = Request(model="bert-base-uncased", task="classification", examples=100)
    return load_inputs(request, load_profile("l4"))


def earlier_study(workspace: Path, inputs: Inputs, scores: list[tuple[Candidate, float]]) -> None:
    store = StudyStore(workspace / "studies" / "before" / "study.db")
    metric = Metric(name="accuracy", direction="maximize")
    plan = Plan(
        *(),
        model="m",
        family="encoder",
        space="quick",
        workload=inputs.workload,
        budget=Budget(),
        profile=load_profile("l4"),
        fits=(),
        rejected=(),
    )
    store.create(name="before", metric=metric, seed=0, request="{}", plan=plan)
    for number, (candidate, score) in enumerate(scores):
        role = "candidate" if number else "baseline"
        trial = {"number": number, "role": role, "candidate": candidate, "state": "running"}
        store.add_trial(Trial.model_validate(trial))
        report = Report(samples=10, step=1, loss=1, score=score, seconds=1, step_seconds=1, peak_bytes=1)
        store.finish(number, "complete", "", report)
    store.close()


def test_the_default_at_twice_its_rate_comes_first_then_methods_that_are_known_to_be_good(
    inputs: Inputs,
) -> None:
    tries = first_tries(inputs, ())
    assert tries[0].training.learning_rate == 2 * inputs.baseline.training.learning_rate
    goods = [prior_good(each.method, "encoder") for each in tries[1:]]
    assert len(goods) == WARM
    assert goods == sorted(goods, reverse=True)


def test_what_beat_the_default_in_an_earlier_study_is_tried_again(inputs: Inputs, tmp_path: Path) -> None:
    better = typical(inputs.space, {"method": "ia3"})
    worse = typical(inputs.space, {"method": "ln_tuning"})
    foreign = Candidate(method="vera", rank=3)
    earlier_study(tmp_path, inputs, [(inputs.baseline, 0.8), (better, 0.85), (worse, 0.7), (foreign, 0.9)])
    tries = first_tries(inputs, past_studies(tmp_path, "classification", "encoder"))
    assert tries[1] == better
    assert foreign not in tries
    assert first_tries(inputs, past_studies(tmp_path, "regression", "encoder"))[1] != better
    assert first_tries(inputs, past_studies(tmp_path, "classification", "decoder"))[1] != better


def test_a_first_rate_that_is_unusual_for_the_family_gives_way_to_the_usual_one(inputs: Inputs) -> None:
    rates = {"low": 1e-6, "high": 1e-1, "log": True}
    wide = SearchSpace(
        name="wide",
        domains=[
            {"field": "method", "allowed": {"choices": ["lora", "full"]}},
            {"field": "training.learning_rate", "allowed": {**rates, "default": 2e-3}},
        ],
    )
    assert usual_form(wide, "lora", "encoder").training.learning_rate == 2e-3
    assert usual_form(wide, "full", "encoder").training.learning_rate == pytest.approx(7e-5)
    assert usual_form(wide, "full", "decoder").training.learning_rate == pytest.approx(1.5e-5)
    listed = SearchSpace(
        name="listed",
        domains=[
            {"field": "method", "allowed": {"choices": ["full"]}},
            {"field": "training.learning_rate", "allowed": {"choices": [1e-2, 1e-4, 1e-6]}},
        ],
    )
    assert usual_form(listed, "full", "encoder").training.learning_rate == 1e-4

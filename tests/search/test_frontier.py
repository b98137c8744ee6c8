"""The front as a goal: what an option adds to it, and a search that is after it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_training import (
    ACCURACY,
    ToyFactory,
    ToyRun,
    admit_all,
    estimate_of,
    toy_plan,
    toy_space,
)

from autopeft.errors import InputError
from autopeft.plan.plan import Fits, Rejected, Verdict
from autopeft.request import Request
from autopeft.search.encoding import Encoding
from autopeft.search.executor import run_locally
from autopeft.search.freeze_thaw import FreezeThaw
from autopeft.search.front import Point, hypervolume
from autopeft.search.frontier import Frontier, front_improvement
from autopeft.search.halving import Rungs
from autopeft.search.loop import Search
from autopeft.search.searchers import make_strategy
from autopeft.search.store import StudyStore
from autopeft.search.study import Study
from autopeft.search.surrogate import Belief
from autopeft.space.candidate import Candidate
from autopeft.space.domain import Choice, Domain
from autopeft.space.search_space import SearchSpace
from autopeft.train.result import Report

RUNGS = Rungs(samples=(50, 100, 200, 400))
SCORES = st.floats(0, 1, width=32)
PLACED = st.lists(st.tuples(st.floats(0, 10, width=32), SCORES), min_size=1, max_size=6)


def area(points: list[tuple[float, float]], placed: list[tuple[float, float]], cost: float) -> float:
    """Area under a front, by the reference point and the scale that `front_improvement` takes."""
    scores = [score for _, score in placed]
    costs = [*(each for each, _ in placed), cost]
    span = max(costs) - min(costs)
    made = [Point(number, score, each) for number, (each, score) in enumerate(points)]
    floor = min(scores) - 0.1 * (max(scores) - min(scores))
    return hypervolume(made, ACCURACY, score=floor, cost=max(costs) + 0.1 * span) / span


@given(PLACED, st.floats(0, 10, width=32), SCORES)
def test_a_sure_score_adds_what_the_hypervolume_grows_by(placed, cost: float, score: float) -> None:
    costs = [each for each, _ in placed]
    if max(*costs, cost) - min(*costs, cost) < 1e-3:
        return
    sure = Belief(mean=np.array([score]), sd=np.array([1e-9]))
    grown = area([*placed, (cost, score)], placed, cost) - area(placed, placed, cost)
    assert front_improvement(sure, np.array([cost]), placed)[0] == pytest.approx(grown, abs=1e-6)


def test_an_unsure_score_adds_the_mean_of_what_it_may_add() -> None:
    placed, cost = [(1.0, 0.5), (3.0, 0.8), (6.0, 0.85)], 2.0
    draws = np.random.default_rng(0).normal(0.6, 0.15, 20_000)
    before = area(placed, placed, cost)
    mean = np.mean([area([*placed, (cost, each)], placed, cost) - before for each in draws])
    unsure = Belief(mean=np.array([0.6]), sd=np.array([0.15]))
    assert front_improvement(unsure, np.array([cost]), placed)[0] == pytest.approx(mean, rel=0.03)


def test_what_the_budget_refuses_adds_nothing_and_what_is_chosen_was_asked_about() -> None:
    asked: list[Candidate] = []

    def judge(candidate: Candidate) -> Verdict:
        asked.append(candidate)
        if candidate.rank == 16:
            return Rejected(candidate=candidate, reason="too large")
        return Fits(candidate=candidate, estimate=estimate_of(candidate))

    space = toy_space()
    frontier = Frontier("params", judge, Encoding(space))
    tried = [Candidate(method="lora", rank=2), Candidate(method="lora", rank=4)]
    options = [Candidate(method="lora", rank=8), Candidate(method="lora", rank=16)]
    belief = Belief(mean=np.array([0.7, 0.9]), sd=np.array([0.1, 0.1]))
    gains = frontier.weigh(tried, [0.5, 0.6], options, belief, np.ones(2))
    assert gains[1] == 0
    assert gains[0] > 0
    assert options[int(np.argmax(gains))] in asked


class SizedRun(ToyRun):
    """What is larger scores higher in the end; the other method scores lower at the same cost."""

    def advance(self, samples: int) -> Report:
        report = super().advance(samples)
        worth = math.log2(self.candidate.rank or 1) / 6 - 0.3 * (self.candidate.method == "adalora")
        return report.model_copy(update={"score": worth - self.distance + self.noise.gauss(0, 0.01)})


class SizedFactory(ToyFactory):
    def __call__(self, candidate: Candidate, seed: int) -> ToyRun:
        return SizedRun(candidate, seed, self.pause)


SIZED = SearchSpace(
    name="sized",
    domains=(
        Domain(field="method", allowed=Choice(choices=("lora", "adalora"))),
        Domain(field="rank", allowed=Choice(choices=(1, 2, 4, 8, 16, 32, 64))),
        Domain(field="training.learning_rate", allowed=Choice(choices=(3e-3, 1e-2, 3e-2))),
    ),
)


def area_found(folder: Path, seed: int, *, for_front: bool) -> float:
    """Search the toy for its front or for its best, and return the area under the front found."""
    folder.mkdir()
    store = StudyStore(folder / "study.sqlite")
    store.create(name="toy", metric=ACCURACY, seed=seed, request="{}", plan=toy_plan())
    frontier = Frontier("params", admit_all, Encoding(SIZED)) if for_front else None
    strategy = FreezeThaw(SIZED, RUNGS, seed=seed, metric=ACCURACY, warm=(), frontier=frontier)
    search = Search(store, strategy, admit_all, RUNGS, ACCURACY, max_trials=12)
    run_locally(search, SizedFactory(folder / "made.txt"), seed=seed, folder=folder)
    points = [
        Point(trial.number, trial.result.score, math.log(trial.predicted.trainable_params))
        for trial in search.finish().front("params")
        if trial.result and trial.predicted
    ]
    store.close()
    return hypervolume(points, ACCURACY, score=-0.3, cost=math.log(100))


@pytest.mark.slow
def test_a_search_for_the_front_finds_more_of_it_than_one_for_the_best(tmp_path: Path) -> None:
    areas = {
        for_front: sum(
            area_found(tmp_path / f"{for_front}{seed}", seed, for_front=for_front) for seed in range(3)
        )
        for for_front in (True, False)
    }
    assert areas[True] > 1.1 * areas[False]


@pytest.mark.parametrize("name", ["tpe", "gp", "random", "grid"])
def test_searchers_of_one_number_refuse_fronts_before_anything_begins(name: str) -> None:
    with pytest.raises(InputError, match="front is for the searchers freeze-thaw and nsga2"):
        Request.build(searcher=name, front="share")


@pytest.mark.parametrize("searcher", ["freeze-thaw", "nsga2"])
def test_a_resumed_search_for_the_front_knows_what_the_tried_cost_and_asks_of_none_again(
    tmp_path: Path, searcher: str
) -> None:
    """Even where the budget of today would refuse them."""
    store = StudyStore(tmp_path / "study.sqlite")
    store.create(name="toy", metric=ACCURACY, seed=0, request='{"front": "params"}', plan=toy_plan())

    def search_up_to(trials: int, judge: Callable[[Candidate], Verdict]) -> Study:
        strategy = make_strategy(
            *(searcher, SIZED, RUNGS, ACCURACY),
            seed=0,
            warm=(),
            share_left=lambda: 1.0,
            front="params",
            judge=judge,
        )
        search = Search(store, strategy, admit_all, RUNGS, ACCURACY, max_trials=trials)
        run_locally(search, SizedFactory(tmp_path / "made.txt"), seed=0, folder=tmp_path)
        return search.finish()

    before = search_up_to(6, admit_all)
    assert before.front_of == "params"
    tried = {trial.candidate.footprint for trial in before.trials}
    asked: list[str] = []

    def judge(candidate: Candidate) -> Verdict:
        asked.append(candidate.footprint)
        if candidate.footprint in tried:
            return Rejected(candidate=candidate, reason="too large for what is allowed today")
        return admit_all(candidate)

    after = search_up_to(10, judge)
    assert after.front_of == "params"
    assert len(after.trials) > len(before.trials)
    assert not tried & set(asked)
    ends = {trial.number: trial for trial in after.trials}
    assert all(ends[trial.number] == trial for trial in before.trials if trial.finished)
    assert {trial.number for trial in after.front("params")} <= set(ends)

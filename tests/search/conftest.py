"""Make the toy training importable here, in subprocesses and in worker processes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from toy_training import ACCURACY, Recorder, ToyFactory, admit_all, toy_plan, toy_space

from autopeft.search.halving import Rungs, plan_rungs
from autopeft.search.loop import Search
from autopeft.search.optuna_searcher import OptunaSearcher
from autopeft.search.searcher import Searcher
from autopeft.search.store import StudyStore
from autopeft.search.strategy import Halving
from autopeft.space.search_space import warm_start


@pytest.fixture
def store(tmp_path: Path) -> StudyStore:
    """A study without trials."""
    fresh = StudyStore(tmp_path / "study.sqlite")
    fresh.create(name="toy", metric=ACCURACY, seed=1, request="{}", plan=toy_plan())
    return fresh


@pytest.fixture
def factory(tmp_path: Path) -> ToyFactory:
    return ToyFactory(tmp_path / "made.txt")


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def make_search(store: StudyStore, recorder: Recorder) -> Callable[..., Search]:
    """Make a search on the store; what is not given is as simple as can be."""

    def make(**changes: object) -> Search:
        space = toy_space()
        searcher = OptunaSearcher(space, seed=1, metric=ACCURACY, warm=warm_start(space))
        given: dict[str, object] = {
            "store": store,
            "admit": admit_all,
            "rungs": plan_rungs(50),
            "metric": ACCURACY,
            "observers": [recorder],
            "max_trials": 6,
        }
        given |= changes
        rungs: Rungs = given["rungs"]  # type: ignore[assignment]
        chosen: Searcher = given.pop("searcher", searcher)  # type: ignore[assignment]
        given.setdefault("strategy", Halving(chosen, rungs.reduction, ACCURACY))
        return Search(**given)  # type: ignore[arg-type]

    return make

"""The strategies of a search by name: freeze and thaw, or a searcher of one visible dict with halving."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from autopeft.cost.estimate import Objective
from autopeft.errors import UnknownNameError
from autopeft.plan.plan import Verdict
from autopeft.search.encoding import Encoding
from autopeft.search.experience import Experience
from autopeft.search.freeze_thaw import REPETITIONS, FreezeThaw
from autopeft.search.frontier import Frontier
from autopeft.search.gp_searcher import GpSearcher
from autopeft.search.grid_searcher import GridSearcher
from autopeft.search.halving import Rungs
from autopeft.search.optuna_searcher import Nsga2Searcher, OptunaSearcher
from autopeft.search.searcher import Searcher
from autopeft.search.strategy import Halving, Strategy
from autopeft.space.candidate import Candidate
from autopeft.space.search_space import SearchSpace
from autopeft.workload.dataset import Metric


class MakeSearcher(Protocol):
    """Makes a searcher of a space; `warm` is what it proposes first."""

    def __call__(
        self, space: SearchSpace, *, seed: int, metric: Metric, warm: Sequence[Candidate]
    ) -> Searcher:
        """Make it; torch-free unless it says otherwise."""


SEARCHERS: dict[str, MakeSearcher] = {
    "tpe": partial(OptunaSearcher, sampler="tpe"),
    "gp": GpSearcher,
    "nsga2": Nsga2Searcher,
    "random": partial(OptunaSearcher, sampler="random"),
    "grid": GridSearcher,
}


FREEZE_THAW = "freeze-thaw"


def repetitions_of(name: str) -> int:
    """Return how many trainings from other seeds a strategy ends with."""
    return REPETITIONS if name == FREEZE_THAW else 0


def make_strategy(
    name: str,
    space: SearchSpace,
    rungs: Rungs,
    metric: Metric,
    *,
    seed: int,
    warm: Sequence[Candidate],
    experience: Experience | None = None,
    share_left: Callable[[], float],
    front: Objective | None = None,
    judge: Callable[[Candidate], Verdict],
) -> Strategy:
    """Make a strategy by its name.

    Args:
        experience: what earlier studies say.
        share_left: how much of the budget is left, from 0 to 1.
        front: the cost whose front is to be searched.   judge: the budget's verdict, with the estimate.

    Raises:
        UnknownNameError: nobody knows it.
    """
    if name == FREEZE_THAW:
        frontier = None if front is None else Frontier(front, judge, Encoding(space))
        return FreezeThaw(
            *(space, rungs),
            seed=seed,
            metric=metric,
            warm=warm,
            experience=experience,
            share_left=share_left,
            frontier=frontier,
        )
    if front is not None and name == "nsga2":
        searcher = Nsga2Searcher(space, seed=seed, metric=metric, warm=warm, objective=front)
        return Halving(searcher, rungs.reduction, metric)
    return Halving(make_searcher(name, space, seed, metric, warm), rungs.reduction, metric)


def make_searcher(
    name: str, space: SearchSpace, seed: int, metric: Metric, warm: Sequence[Candidate] = ()
) -> Searcher:
    """Make a searcher by its name.

    Raises:
        UnknownNameError: nobody knows it.
    """
    if name not in SEARCHERS:
        raise UnknownNameError("searcher", name, (FREEZE_THAW, *SEARCHERS))
    return SEARCHERS[name](space, seed=seed, metric=metric, warm=warm)

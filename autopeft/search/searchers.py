"""The searchers by name: one visible dict."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

from autopeft.errors import UnknownNameError
from autopeft.search.gp_searcher import GpSearcher
from autopeft.search.grid_searcher import GridSearcher
from autopeft.search.optuna_searcher import Nsga2Searcher, OptunaSearcher
from autopeft.search.searcher import Searcher
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


def make_searcher(
    name: str, space: SearchSpace, seed: int, metric: Metric, warm: Sequence[Candidate] = ()
) -> Searcher:
    """Make a searcher by its name.

    Raises:
        UnknownNameError: nobody knows it.
    """
    if name not in SEARCHERS:
        raise UnknownNameError("searcher", name, SEARCHERS)
    return SEARCHERS[name](space, seed=seed, metric=metric, warm=warm)

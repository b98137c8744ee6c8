"""The plan stage: every configuration of a search space that costs differently, held against the budget."""

from __future__ import annotations

from collections.abc import Callable

from autopeft.journey.inputs import Grounds, Inputs
from autopeft.plan.plan import Plan
from autopeft.plan.planner import Planner
from autopeft.space.search_space import footprints

Progress = Callable[[str, int, int], None]


def plan_space(
    planner: Planner, inputs: Inputs | Grounds, limit: int, progress: Progress, *, misses: int = 0
) -> Plan:
    """Judge the configurations of the space that cost differently, at most `limit`, and the default.

    For so many of the nearest `misses` it is found out what would make them fit.
    """
    rest = [c for c in footprints(inputs.space, limit) if c.footprint != inputs.baseline.footprint]
    candidates = [inputs.baseline, *rest]
    progress("costing configurations", 0, len(candidates))
    return planner.plan(
        inputs.space.name,
        candidates,
        lambda done: progress("costing configurations", done, len(candidates)),
        misses=misses,
    )

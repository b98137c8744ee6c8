"""The plan stage: every configuration of a search space that costs differently, held against the budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from autopeft.journey.inputs import Grounds, Inputs
from autopeft.plan.plan import Plan
from autopeft.plan.planner import Planner
from autopeft.search.schedule import most_side_by_side, share_of, side_by_side
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


def plan_side_by_side(
    planner: Planner, inputs: Inputs, limit: int, progress: Progress
) -> tuple[Planner, Plan]:
    """Plan for trials that share the device: as many as memory lets run at once, which each get a part of it.

    The fewer they are the more of the device each has, and the longer trainings fit the time; so what nothing
    fits that has others beside it is planned alone.

    Args:
        planner: for the whole device.

    Returns:
        The planner for the part of the device that each gets, and the plan.
    """
    trials = most_side_by_side(planner.profile)
    while True:
        sharing = shared(planner, trials)
        plan = plan_space(sharing, inputs, limit, progress)
        fewer = side_by_side(plan, sharing.memory_limit)
        if fewer == trials:
            return sharing, plan
        trials = fewer


def shared(planner: Planner, trials: int) -> Planner:
    """Return the planner for the part of the device that each of several trials gets."""
    return replace(planner, profile=share_of(planner.profile, trials))

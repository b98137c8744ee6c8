"""What a search tries first, before it knows anything of its own."""

from __future__ import annotations

from pathlib import Path

from autopeft.journey.inputs import Inputs
from autopeft.request import Request
from autopeft.search.prior import past_results, prior_good
from autopeft.space.candidate import Candidate
from autopeft.space.search_space import assignment_of, warm_start
from autopeft.workload.dataset import Task

WARM = 4
"""Methods whose usual configuration is tried before the search chooses."""
PROVEN = 2
"""Configurations from earlier studies that are tried before, too."""


def first_tries(request: Request, inputs: Inputs, task: Task) -> tuple[Candidate, ...]:
    """Return the default at twice its rate, what did best in earlier studies, and usual forms.

    The learning rate comes first because it moves the score more than the method does ("Learning Rate
    Matters", arXiv:2602.04998). Of the methods' usual forms come those first whose best runs are most often
    near the top.
    """
    training = inputs.baseline.training
    faster = training.model_copy(update={"learning_rate": 2 * training.learning_rate})
    before = sorted(
        past_results(Path(request.workspace), task),
        key=lambda past: (past.model != inputs.base.name, -past.lead),
    )
    proven = [past.candidate for past in before if past.lead > 0 and past.study != request.study]
    proven = [each for each in proven if assignment_of(inputs.space, each) is not None]
    family = inputs.base.family
    usual = sorted(warm_start(inputs.space), key=lambda each: -prior_good(each.method, family))
    default = inputs.baseline.model_copy(update={"training": faster})
    first = (default,) if default.method in inputs.space.methods else ()
    return (*first, *{each.key: each for each in proven[:PROVEN]}.values(), *usual[:WARM])

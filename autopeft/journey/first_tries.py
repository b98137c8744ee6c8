"""What a search tries first, before it knows anything of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence

from autopeft.journey.inputs import Inputs
from autopeft.search.encoding import RATE
from autopeft.search.past import PastStudy, leads
from autopeft.search.prior import prior_good, prior_rate
from autopeft.space.candidate import Candidate
from autopeft.space.domain import METHOD, Range
from autopeft.space.search_space import SearchSpace, active, assignment_of, typical
from autopeft.workload.base_model import Family

WARM = 4
"""Methods whose usual configuration is tried before the search chooses."""
PROVEN = 2
"""Configurations from earlier studies that are tried before, too."""


def first_tries(
    inputs: Inputs, past: Sequence[PastStudy], *, usual_forms: bool = True
) -> tuple[Candidate, ...]:
    """Return the default at twice its rate, what did best in earlier studies, and usual forms.

    The learning rate comes first because it moves the score more than the method does ("Learning Rate
    Matters", arXiv:2602.04998). Of the methods' usual forms come those first whose best runs are most often
    near the top; where the space's own first rate is unusual for this family of models, they take the usual
    one.
    """
    training = inputs.baseline.training
    faster = training.model_copy(update={"learning_rate": 2 * training.learning_rate})
    before = sorted(leads(past), key=lambda each: (each.study.model != inputs.base.name, -each.lead))
    proven = [each.candidate for each in before if each.lead > 0]
    proven = [each for each in proven if assignment_of(inputs.space, each) is not None]
    family = inputs.base.family
    methods = sorted(inputs.space.methods, key=lambda method: -prior_good(method, family))
    usual = [usual_form(inputs.space, method, family) for method in methods[:WARM] if usual_forms]
    default = inputs.baseline.model_copy(update={"training": faster})
    first = (default,) if default.method in inputs.space.methods else ()
    return (*first, *{each.key: each for each in proven[:PROVEN]}.values(), *usual)


def at_usual_rate(candidate: Candidate, family: Family) -> Candidate:
    """Return a configuration at the learning rate that is usual for its method and family."""
    rate = float(f"{10 ** prior_rate(candidate.method, family)[0]:.2g}")
    training = candidate.training.model_copy(update={"learning_rate": rate})
    return candidate.model_copy(update={"training": training})


def usual_form(space: SearchSpace, method: str, family: Family) -> Candidate:
    """Return what the space would try first of a method, at a learning rate that is usual for the family.

    A rate of the space's own within a standard deviation of the usual one stays.
    """
    first = typical(space, {METHOD: method})
    centre, spread = prior_rate(method, family)
    chosen = assignment_of(space, first)
    domain = next((each for each in active(space, chosen or {}) if each.field == RATE), None)
    if domain is None or abs(math.log10(first.training.learning_rate) - centre) <= spread:
        return first
    rate: object = 10**centre
    match domain.allowed:
        case Range(low=low, top=high):
            rate = min(high, max(low, 10**centre))
        case other:
            rate = min(other.values, key=lambda each: abs(math.log10(float(each)) - centre))
    return typical(space, {METHOD: method, RATE: rate})

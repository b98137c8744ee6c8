"""Before a search starts: what does not fit is refused with all that the user has to know."""

from __future__ import annotations

import pytest

from autopeft.errors import DoesNotFitError
from autopeft.hardware.catalog import load_profile
from autopeft.journey.searching import require_fits
from autopeft.methods.registry import DEFAULT
from autopeft.plan.budget import Budget
from autopeft.plan.plan import Plan, Rejected
from autopeft.workload.dataset import Lengths, Workload


def test_a_refusal_says_that_the_profile_it_rests_on_is_doubtful() -> None:
    sure = Plan(
        model="m",
        space="quick",
        workload=Workload(task="classification", lengths=Lengths.constant(8)),
        budget=Budget(),
        profile=load_profile("l4"),
        fits=(),
        rejected=(Rejected(candidate=DEFAULT, reason="one training takes 8 min, the limit is 3 min"),),
    )
    slowed = sure.profile.model_copy(
        update={"warnings": ("other work slows this machine; profile it again",)}
    )
    with pytest.raises(DoesNotFitError, match=r"the limit is 3 min\.$"):
        require_fits(sure)
    with pytest.raises(DoesNotFitError, match="doubtful: other work slows this machine"):
        require_fits(sure.model_copy(update={"profile": slowed}))

"""Plan: which candidates of a space fit a budget, and why the others do not."""

from __future__ import annotations

from typing import Literal

from autopeft.cost.estimate import CostEstimate
from autopeft.hardware.profile import HardwareProfile
from autopeft.message import Message
from autopeft.plan.budget import Budget
from autopeft.space.candidate import Candidate
from autopeft.workload.dataset import Workload


class Fits(Message):
    """A candidate that the budget allows."""

    verdict: Literal["fits"] = "fits"
    candidate: Candidate
    estimate: CostEstimate


class Rejected(Message):
    """A candidate that the budget or the method forbids, with the reason and the nearest way out."""

    verdict: Literal["rejected"] = "rejected"
    candidate: Candidate
    reason: str
    way_out: str = ""
    estimate: CostEstimate | None = None


Verdict = Fits | Rejected


class Plan(Message):
    """The verdict on every configuration of a space that costs differently.

    Attributes:
        model: name of the base model.  space: name of the search space.
        fits: ordered by trainable parameters, most first.
    """

    model: str
    space: str
    workload: Workload
    budget: Budget
    profile: HardwareProfile
    fits: tuple[Fits, ...]
    rejected: tuple[Rejected, ...]

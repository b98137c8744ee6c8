"""Plan: which candidates of a space fit a budget, and why the others do not."""

from __future__ import annotations

from typing import Literal

from autopeft.cost.estimate import CostEstimate
from autopeft.cost.spread import Spread
from autopeft.hardware.prices import Price
from autopeft.hardware.profile import HardwareProfile
from autopeft.message import Message
from autopeft.plan.budget import Budget
from autopeft.space.candidate import Candidate
from autopeft.workload.base_model import Family
from autopeft.workload.dataset import Workload


class Prior(Message):
    """What published comparisons make one expect of a configuration's quality; no prediction.

    Attributes:
        score: the published score, of `metric`, with what placement and quantisation changed elsewhere.
        spread: one standard deviation.
        basis: the published numbers that it is made of.   sources: where they were published.
    """

    score: float
    spread: float
    metric: str
    basis: str
    sources: tuple[str, ...]


class Fits(Message):
    """A candidate that the budget allows.

    Attributes:
        usd: cost of one training; None where no price or no number of rows is known.
        prior: None where nothing is published about such a configuration.
        on_front: nothing else that fits is expected to be as good with less memory and fewer trained
            parameters.
    """

    verdict: Literal["fits"] = "fits"
    candidate: Candidate
    estimate: CostEstimate
    usd: float | None = None
    prior: Prior | None = None
    on_front: bool = False


class WayOut(Message):
    """A change that makes a rejected candidate fit, as its own estimate shows.

    Attributes:
        change: in words.   candidate: the changed one.
        spare_bytes: what is left of the limit at the upper end of its band.
    """

    change: str
    candidate: Candidate
    estimate: CostEstimate
    spare_bytes: int


class Rejected(Message):
    """A candidate that the budget or the method forbids, with the reason and the nearest way out.

    Attributes:
        ways_out: changes that were estimated and fit; looked for at the nearest misses only.
    """

    verdict: Literal["rejected"] = "rejected"
    candidate: Candidate
    reason: str
    way_out: str = ""
    estimate: CostEstimate | None = None
    ways_out: tuple[WayOut, ...] = ()


Verdict = Fits | Rejected


class Plan(Message):
    """The verdict on every configuration of a space that costs differently.

    Attributes:
        model: name of the base model.  space: name of the search space.
        fits: ordered by prior, the best first and the unknown last; then by time a row.
        rejected: the nearest misses first.
        spread: how devices share each training; estimates are of one of them, costs of all.
        price: of one device; None where none is known.
        family: of the base model; None in plans of versions that did not note it.
        earlier: digests of other profiles that a study was planned for before this: its first trials were
            predicted from these.
    """

    model: str
    space: str
    workload: Workload
    budget: Budget
    profile: HardwareProfile
    fits: tuple[Fits, ...]
    rejected: tuple[Rejected, ...]
    spread: Spread = Spread()
    price: Price | None = None
    family: Family | None = None
    earlier: tuple[str, ...] = ()

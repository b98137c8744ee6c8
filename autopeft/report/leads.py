"""Who leads whom, by how much and how sure: the contenders of a report and the words for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from autopeft.report.facts import TestScore
from autopeft.report.intervals import separate_difference
from autopeft.workload.dataset import Metric

WINNER, DEFAULT, PROBE, UNTRAINED = "winner", "LoRA default", "linear probe", "no adapter"
_ARTICLES = {UNTRAINED: "the model without an adapter", WINNER: "the winner"}

Judgement = Literal["better", "within noise", "worse"]


class Lead(NamedTuple):
    """How far the winner is ahead of a contender, in the metric's own direction and with a 95 % interval."""

    difference: float
    low: float
    high: float
    judgement: Judgement


def lead(winner: TestScore, other: TestScore, metric: Metric) -> Lead:
    """Compare two contenders: on the same rows where that is known, else by their separate intervals."""
    if other.lead is not None and other.lead_low is not None and other.lead_high is not None:
        difference, low, high = other.lead, other.lead_low, other.lead_high
    else:
        one = (winner.test_score, winner.low, winner.high)
        difference, low, high = separate_difference(one, (other.test_score, other.low, other.high))
    if not (low > 0 or high < 0):
        return Lead(difference, low, high, "within noise")
    ahead = (low > 0) == (metric.direction == "maximize")
    return Lead(difference, low, high, "better" if ahead else "worse")


def difference_text(difference: float, metric: Metric) -> str:
    """Show a difference of scores: "+1.2 points" for shares, "-0.031" for losses."""
    if is_share(metric):
        return f"{100 * difference:+.1f} points"
    return f"{difference:+.3f}"


def percent(share: float, digits: int = 0, *, sign: bool = False) -> str:
    """Show a share in percent: "1.30 %", "+3 %"."""
    return f"{100 * share:{'+' if sign else ''}.{digits}f} %"


def is_share(metric: Metric) -> bool:
    """Whether the metric counts a share of right answers, so that hundredths are points."""
    return metric.direction == "maximize"


def contender_of(scores: Sequence[TestScore], name: str) -> TestScore | None:
    """Return a contender's score by its name; None where it has none."""
    return next((score for score in scores if score.contender == name), None)


def with_article(contender: str) -> str:
    """Name a contender within a sentence: "the winner"."""
    return _ARTICLES.get(contender, f"the {contender}")


def score_text(score: TestScore) -> str:
    """Show a test score with its 95 % interval: "0.826 [0.801, 0.848]"."""
    return f"{score.test_score:.3f} [{score.low:.3f}, {score.high:.3f}]"


def distance_text(difference: float, metric: Metric) -> str:
    """Show how far one score is from another: "1.2 points above", "level with"."""
    amount = difference_text(abs(difference), metric).lstrip("+")
    if not any(digit in amount for digit in "123456789"):
        return "level with"
    return f"{amount} {'above' if difference > 0 else 'below'}"


def in_a_row(parts: Sequence[str]) -> str:
    """Put parts of a sentence side by side: "one, two and three"."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]])) if parts else ""

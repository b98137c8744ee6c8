"""ModelRow: one line of the overview that `autopeft plan` gives when no model is named."""

from __future__ import annotations

from autopeft.message import Message
from autopeft.plan.plan import Verdict


class ModelRow(Message):
    """A known model held against a budget.

    Attributes:
        parameters: number of weights, where published.
        verdict: on the cheapest of the usual configurations.
    """

    model: str
    parameters: int | None = None
    verdict: Verdict

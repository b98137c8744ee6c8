"""Refused: when to ask a strategy for no more candidates."""

from __future__ import annotations

from dataclasses import dataclass

MOST_REJECTED_IN_A_ROW = 50
MOST_REPEATED_IN_A_ROW = 50
MOST_TOO_LONG_IN_A_ROW = 10

TIME_SPENT = "the time budget is spent"


@dataclass
class Refused:
    """How many proposals in a row were none to begin."""

    known: int = 0
    unfit: int = 0
    too_long: int = 0

    @property
    def too_many(self) -> str:
        """Why to ask no more; empty while it may help."""
        if self.known >= MOST_REPEATED_IN_A_ROW:
            return "the searcher proposes nothing new"
        if self.too_long >= MOST_TOO_LONG_IN_A_ROW:
            return TIME_SPENT
        if self.unfit >= MOST_REJECTED_IN_A_ROW:
            return f"{self.unfit} candidates in a row did not fit the budget"
        return ""

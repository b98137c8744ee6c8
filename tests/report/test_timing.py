"""The limit on time is on a whole session; the search is a part of it, and both are said."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from autopeft.plan.budget import Budget
from autopeft.report.facts import Session, StudyFacts
from autopeft.report.rows import budget_rows
from autopeft.report.timing import timing, timing_reason

FactsFactory = Callable[..., StudyFacts]


def session(
    seconds: float,
    allowed: float | None,
    search: float,
    *,
    of_all: float | None = None,
    concluded: bool = True,
) -> Session:
    """Make a session; the study's first where the searches of all sessions took no longer than its own."""
    return Session(
        seconds=seconds,
        allowed_seconds=allowed,
        search_seconds=search,
        study_seconds=search if of_all is None else of_all,
        concluded=concluded,
    )


@pytest.mark.parametrize(
    ("searched", "last", "words"),
    [
        (
            201,
            session(280, 300, 201),
            "The whole run took 4 min 40 s, within the 5 min 00 s allowed; 3 min 21 s of it searching.",
        ),
        (
            290,  # the search alone kept to the limit, the run did not
            session(330, 300, 290),
            "The whole run took 5 min 30 s, over the 5 min 00 s allowed; 4 min 50 s of it searching.",
        ),
        (
            781,
            session(595, 600, 580, of_all=781),
            "The last session took 9 min 55 s, within the 10 min 00 s allowed; 9 min 40 s of it searching, "
            "13 min 01 s with the sessions before.",
        ),
        (
            201,
            session(250, 300, 201, concluded=False),
            "The search with its plan took 4 min 10 s, within the 5 min 00 s allowed; 3 min 21 s of it "
            "searching; test scores and export came later.",
        ),
        (
            320,  # then `search --resume` was killed after two minutes
            session(280, 300, 201),
            "The last session that ended took 4 min 40 s, within the 5 min 00 s allowed; 3 min 21 s of it "
            "searching; 1 min 59 s of searching since then were cut off, or still go on.",
        ),
        (
            900,  # the same after a resumption that ended
            session(595, 600, 580, of_all=781),
            "The last session that ended took 9 min 55 s, within the 10 min 00 s allowed; 9 min 40 s of it "
            "searching, 13 min 01 s with the sessions before; 1 min 59 s of searching since then were cut "
            "off, or still go on.",
        ),
        (
            241,
            None,
            "The search took 4 min 01 s, within the 5 min 00 s allowed; the rest of the run was not timed.",
        ),
    ],
)
def test_the_whole_is_held_against_the_limit_and_the_part_is_named(
    searched: float, last: Session | None, words: str
) -> None:
    assert timing_reason(timing(300, searched, last)) == words


def test_without_a_limit_nothing_is_said(make_facts: FactsFactory) -> None:
    free = make_facts(budget=Budget(gpu_mem="4GB"))
    assert timing_reason(timing(None, 241, session(280, None, 241))) == ""
    assert not any("allowed;" in reason for reason in free.reasons)
    assert not any("searching" in row.note for row in budget_rows(free))


def test_the_table_says_over_budget_of_the_whole(facts: StudyFacts) -> None:
    late = facts.model_copy(update={"session": session(330, 300, facts.study.seconds)})
    [row] = [row for row in budget_rows(late) if row.quantity == "whole run"]
    assert (row.budget, row.measured, row.over) == ("5 min 00 s", "5 min 30 s", True)
    assert row.note == "4 min 01 s of it searching"

"""Whether a study kept to its time: the limit is on a whole session, of which the search is a part."""

from __future__ import annotations

from typing import NamedTuple

from autopeft.report.facts import ROUNDING, Session
from autopeft.units import format_seconds


class Timing(NamedTuple):
    """What is held against a limit on time.

    Attributes:
        what: "whole run", "last session", "last session that ended", "search with its plan" or "search".
        note: what else there is to say of it.
    """

    what: str
    seconds: float
    allowed: float
    note: str

    @property
    def over(self) -> bool:
        """Whether it took longer than it was allowed."""
        return self.seconds > self.allowed


def timing(limit: float | None, search_seconds: float, session: Session | None) -> Timing | None:
    """Hold a study's last session that came to its end against what it was allowed.

    Args:
        limit: of the whole study.   search_seconds: of all sessions, one that was cut off among them.
        session: the last that came to its end; where none did, only the search was timed.

    Returns:
        None where the time is not limited.
    """
    if session is None or session.allowed_seconds is None:
        note = "the rest of the run was not timed"
        return None if limit is None else Timing("search", search_seconds, limit, note)
    until_then = search_seconds if session.study_seconds is None else session.study_seconds
    note = f"{format_seconds(session.search_seconds)} of it searching"
    if session.resumed:
        note += f", {format_seconds(until_then)} with the sessions before"
    elif not session.concluded:
        note += "; test scores and export came later"
    what = "last session" if session.resumed else "whole run" if session.concluded else "search with its plan"
    if search_seconds > until_then + ROUNDING:
        what = "last session that ended"
        later = format_seconds(search_seconds - until_then)
        note += f"; {later} of searching since then were cut off, or still go on"
    return Timing(what, session.seconds, session.allowed_seconds, note)


def timing_reason(found: Timing | None) -> str:
    """Say it in a sentence; nothing where the time is not limited."""
    if found is None:
        return ""
    verb = "over" if found.over else "within"
    return (
        f"The {found.what} took {format_seconds(found.seconds)}, {verb} the "
        f"{format_seconds(found.allowed)} allowed; {found.note}."
    )

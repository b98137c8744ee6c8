"""Spans: what tags in IOB2 mark, and how many of it two taggings of one row share."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from autopeft.workload.tasks import OUTSIDE


def marks_spans(tags: Collection[str]) -> bool:
    """Say whether tags are in IOB2: B-type at the start of a span, I-type inside, O elsewhere."""
    inside = [tag for tag in tags if tag != OUTSIDE]
    return bool(inside) and all(tag[:2] in ("B-", "I-") and len(tag) > 2 for tag in inside)


def spans_of(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """Return the spans of a row as (type, first, last), as seqeval and the CoNLL-2000 scorer do.

    An I- that follows O or another type starts a span too.
    """
    found: set[tuple[str, int, int]] = set()
    start, kind = 0, ""
    for place, tag in enumerate([*tags, OUTSIDE]):
        mark, _, of = tag.partition("-")
        if kind and (mark != "I" or of != kind):
            found.add((kind, start, place - 1))
            kind = ""
        if mark != OUTSIDE and not kind:
            start, kind = place, of
    return found


def shared(said: Sequence[str], right: Sequence[str], *, spans: bool, outside: str) -> tuple[int, int, int]:
    """Count what two taggings of a row share, what the first marks and what the second marks.

    Args:
        said: tags of one.
        right: tags of the other.
        spans: count spans; otherwise tokens whose tag is not `outside`.
        outside: the tag that marks nothing.
    """
    if spans:
        one, other = spans_of(said), spans_of(right)
        return len(one & other), len(one), len(other)
    hits = sum(mine == its != outside for mine, its in zip(said, right, strict=True))
    return hits, sum(tag != outside for tag in said), sum(tag != outside for tag in right)

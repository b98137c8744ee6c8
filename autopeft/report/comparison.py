"""Comparison: two results side by side, with the difference between them and what it is worth."""

from __future__ import annotations

from autopeft.message import High, Low, Message, Number
from autopeft.workload.tasks import Metric


class Side(Message):
    """One of the two.

    Attributes:
        place: the study or bundle.   label: its configuration in words.
        score, low, high: on the test rows, with the 95 % interval.
        fields: its configuration, a value by name.
    """

    place: str
    label: str
    model: str
    data: str
    rows: int
    score: Number
    low: Low
    high: High
    trainable_params: int | None = None
    adapter_bytes: int | None = None
    peak_bytes: int | None = None
    train_seconds: float | None = None
    fields: dict[str, str] = {}


class Comparison(Message):
    """Two sides.

    Attributes:
        paired: whether both were scored on the same rows, so that they are compared row by row.
        test: how the difference was tested, in words.
        difference, low, high: first less second, with the 95 % interval.
        p_value: of no difference (McNemar's exact test), where the metric is a share of right rows.
        only_one, only_other: rows that only the first, or only the second, has right.
        verdict: in a sentence.
    """

    metric: Metric
    one: Side
    other: Side
    paired: bool
    test: str
    difference: Number
    low: Low
    high: High
    p_value: float | None = None
    only_one: int | None = None
    only_other: int | None = None
    verdict: str

    @property
    def differing(self) -> dict[str, tuple[str, str]]:
        """The fields of the two configurations that are not the same."""
        names = list(dict.fromkeys((*self.one.fields, *self.other.fields)))
        both = {name: (self.one.fields.get(name, "-"), self.other.fields.get(name, "-")) for name in names}
        return {name: pair for name, pair in both.items() if pair[0] != pair[1]}

"""TrialResult: what training one candidate measured."""

from __future__ import annotations

import math
from typing import Literal

from autopeft.message import Message, Number


class Report(Message):
    """One evaluation during training.

    Attributes:
        samples: training rows after which it was asked for; less than a step more were seen.
        step: optimizer steps so far.
        loss: mean training loss since the report before; None at the start.
        score: the dataset's metric on the validation rows.
        seconds: training and evaluation time so far, without set-up.
        step_seconds: mean time of an optimizer step so far.
        peak_bytes: peak memory so far of the process (CPU) or reserved on the device (CUDA).
        extra: further metrics by name.
    """

    samples: int
    step: int
    loss: float | None
    score: Number
    seconds: float
    step_seconds: float
    peak_bytes: int
    extra: dict[str, Number] = {}

    @property
    def is_finite(self) -> bool:
        """Whether what the model answered are numbers: a score may be one where a log loss is not."""
        return math.isfinite(self.score) and math.isfinite(self.extra.get("log_loss", 0.0))


class TrialResult(Message):
    """How a trial ended: whole, set aside, stopped early by the search, or failed with a reason."""

    state: Literal["complete", "paused", "stopped", "failed"]
    reports: tuple[Report, ...] = ()
    reason: str = ""

    @property
    def score(self) -> float:
        """The last validation score; NaN where there was none, and where the model's answers were none."""
        return self.reports[-1].score if self.reports and self.reports[-1].is_finite else math.nan

    @property
    def peak_bytes(self) -> int:
        """Peak memory over the whole trial."""
        return max((report.peak_bytes for report in self.reports), default=0)

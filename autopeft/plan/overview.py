"""ModelRow: one line of the overview that `autopeft plan` gives when no model is named."""

from __future__ import annotations

from autopeft.message import Message
from autopeft.plan.plan import Fits, Rejected, Verdict


class Option(Message):
    """One way to train a model within a budget.

    Attributes:
        verdict: at the batch asked for; else at the usual one, the largest that fits, or one row.
        largest_batch: rows of the usual length that fit at once; None where it could not be told.
        longest_row: tokens of a single row that fit; None where it could not be told.
    """

    verdict: Verdict
    largest_batch: int | None = None
    longest_row: int | None = None

    @property
    def name(self) -> str:
        """The method, and the quantisation where there is one."""
        candidate = self.verdict.candidate
        scheme = "" if candidate.quantization == "none" else f" {candidate.quantization}"
        return f"{candidate.method}{scheme}"


class ModelRow(Message):
    """A known model held against a budget.

    Attributes:
        parameters: number of weights, where published.
        length: tokens of the rows that batches are made of.
        options: full fine-tuning, LoRA, and LoRA on a base in four bits, all with gradient checkpointing.
    """

    model: str
    parameters: int | None = None
    length: int
    options: tuple[Option, ...]

    @property
    def fits(self) -> bool:
        """Whether some option fits."""
        return any(isinstance(option.verdict, Fits) for option in self.options)

    @property
    def refusal(self) -> Rejected | None:
        """Why not even the smallest option fits."""
        verdict = self.options[-1].verdict
        return None if self.fits or isinstance(verdict, Fits) else verdict

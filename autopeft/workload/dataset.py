"""Dataset: labelled rows in three splits; Workload: what of it the cost of training depends on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from autopeft.message import Message
from autopeft.workload.tasks import ACCURACY, HELD_OUT_LOSS, Metric, Task

__all__ = [
    "ACCURACY",
    "HELD_OUT_LOSS",
    "Dataset",
    "Example",
    "Lengths",
    "Medium",
    "Metric",
    "Task",
    "Workload",
]


Medium = Literal["text", "image", "sound"]


class Example(Message):
    """One row: a text with its label (classification), or a prompt with its completion (sft).

    Attributes:
        file: path of an image or sound, in the place of a text.   content: SHA-256 of that file.
    """

    text: str = ""
    label: int = -1
    completion: str = ""
    file: str = ""
    content: str = ""

    @property
    def identity(self) -> tuple[str, str]:
        """What makes two rows the same row: what is read and what is to be written, but not the class."""
        return self.content or self.text.strip(), self.completion.strip()


class Lengths(Message):
    """Distribution of row lengths in tokens, after truncation, as 101 percentiles (0 to 100)."""

    percentiles: tuple[int, ...] = Field(min_length=101, max_length=101)
    mean: float = Field(gt=0)

    @classmethod
    def of(cls, lengths: Sequence[int]) -> Lengths:
        """Summarise token counts of rows."""
        ranked = sorted(lengths)
        last = len(ranked) - 1
        return cls(
            percentiles=tuple(ranked[round(last * share / 100)] for share in range(101)),
            mean=sum(ranked) / len(ranked),
        )

    @classmethod
    def constant(cls, length: int) -> Lengths:
        """Return the distribution in which every row has the same length."""
        return cls(percentiles=(length,) * 101, mean=float(length))

    @property
    def longest(self) -> int:
        """Length of the longest row in tokens."""
        return self.percentiles[100]


class Workload(Message):
    """What the cost of training depends on, beside model and candidate.

    Attributes:
        lengths: token counts of the training rows, truncated at the length limit.
        rows: training rows; 0 where unknown (then only a step can be costed, no run).
        validation_rows: rows of one evaluation.
        labels: number of classes (classification only).
    """

    task: Task
    lengths: Lengths
    rows: int = Field(default=0, ge=0)
    validation_rows: int = Field(default=0, ge=0)
    labels: int = Field(default=2, ge=1)


class Dataset(Message):
    """Labelled rows in three splits, with what was found out about them.

    Attributes:
        labels: class names in the order of `Example.label`; empty for sft.
        medium: what a row is read from.
        columns: which column of the file plays which part, as guessed or given.
        fingerprint: hash of all rows and splits.
        notes: what was decided about the data on the user's behalf.
    """

    name: str
    task: Task
    medium: Medium = "text"
    metric: Metric
    train: tuple[Example, ...] = Field(min_length=1)
    validation: tuple[Example, ...] = Field(min_length=1)
    test: tuple[Example, ...] = Field(min_length=1)
    labels: tuple[str, ...] = ()
    columns: dict[str, str] = {}
    source: str
    fingerprint: str
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _labels_known(self) -> Dataset:
        if self.task == "classification" and len(self.labels) < 2:
            raise ValueError(f"classification needs at least 2 classes, but got {list(self.labels)}")
        return self

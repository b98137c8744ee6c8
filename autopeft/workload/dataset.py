"""Dataset: labelled rows in three splits; Workload: what of it the cost of training depends on."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from autopeft.message import Message
from autopeft.workload.tasks import ACCURACY, HELD_OUT_LOSS, TASKS, Metric, Task, head_outputs

__all__ = [
    "ACCURACY",
    "HELD_OUT_LOSS",
    "Dataset",
    "Example",
    "Lengths",
    "Medium",
    "Metric",
    "Scale",
    "Task",
    "Workload",
]


Medium = Literal["text", "image", "sound"]


class Example(Message):
    """One row: a text and what is to be learnt of it.

    Attributes:
        text: the text, or the prompt of a completion.
        file: path of an image or sound, in the place of a text.   content: SHA-256 of that file.
        label: number of its class (classification).
        number: the amount to predict (regression).
        words, tags: words and the number of each one's class (token classification); `text` joins them.
        completion: what is to be written (sft), or the better of two answers (dpo).
        rejected: the worse of two answers.
    """

    text: str = ""
    label: int = -1
    number: float = 0.0
    words: tuple[str, ...] = ()
    tags: tuple[int, ...] = ()
    completion: str = ""
    rejected: str = ""
    file: str = ""
    content: str = ""

    @property
    def identity(self) -> tuple[str, ...]:
        """What makes two rows the same row: what is read and what is to be written, but not the class."""
        return self.content or self.text.strip(), self.completion.strip(), self.rejected.strip()


class Scale(Message):
    """How numbers to predict are scaled for training: a model learns (number - mean) / deviation.

    Attributes:
        spread: mean distance of the training rows from their median, the error of who always says that.
    """

    mean: float = 0.0
    deviation: float = Field(default=1.0, gt=0)
    spread: float = Field(default=1.0, gt=0)

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Scale:
        """Describe numbers; those that are all equal are only shifted."""
        middle = statistics.median(numbers)
        return cls(
            mean=statistics.fmean(numbers),
            deviation=statistics.pstdev(numbers) or 1.0,
            spread=statistics.fmean(abs(number - middle) for number in numbers) or 1.0,
        )


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
        targets: token counts of what an encoder-decoder is to write, apart from `lengths`; None where it
            writes nothing, or nobody said.
        rows: training rows; 0 where unknown (then only a step can be costed, no run).
        validation_rows: rows of one evaluation.
        evaluated_after: training rows after which a run is evaluated, beside its end, as a search does; empty
            where that is at the end of each epoch.
        labels: number of classes; 1 where a number is predicted.
    """

    task: Task
    lengths: Lengths
    targets: Lengths | None = None
    rows: int = Field(default=0, ge=0)
    validation_rows: int = Field(default=0, ge=0)
    evaluated_after: tuple[int, ...] = ()
    labels: int = Field(default=2, ge=1)

    def evaluations(self, epochs: float) -> int:
        """Return how often a run of so many epochs is evaluated."""
        if not self.evaluated_after:
            return math.ceil(epochs)
        return 1 + sum(rows < self.rows * epochs for rows in self.evaluated_after)


class Dataset(Message):
    """Labelled rows in three splits, with what was found out about them.

    Attributes:
        labels: class names in the order of `Example.label` and `Example.tags`; empty where there are none.
        medium: what a row is read from.
        columns: which column of the file plays which part, as guessed or given.
        fingerprint: hash of all rows and splits.
        notes: what was decided about the data on the user's behalf.
        scaled_by: the scale of a regression's numbers; None is that of the training rows.
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
    scaled_by: Scale | None = None

    @model_validator(mode="after")
    def _labels_known(self) -> Dataset:
        if TASKS[self.task].outputs == "classes" and len(self.labels) < 2:
            raise ValueError(f"{self.task} needs at least 2 classes, but got {list(self.labels)}")
        return self

    @property
    def outputs(self) -> int:
        """How many numbers the task's own head gives; 0 where the head is the pretrained one."""
        return head_outputs(self.task, len(self.labels))

    @property
    def all_but_test(self) -> Dataset:
        """The same data, with the validation rows among the training rows; numbers are scaled as before."""
        return self.model_copy(update={"train": (*self.train, *self.validation), "scaled_by": self.scale})

    @property
    def scale(self) -> Scale:
        """How the numbers of a regression are scaled."""
        return self.scaled_by or Scale.of([row.number for row in self.train])

"""Answer: what a question's configuration takes on its device, and whether it fits."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue

from autopeft.cost.estimate import RunTime, TimeEstimate
from autopeft.cost.money import Cost
from autopeft.cost.spread import SpreadEstimate
from autopeft.message import Message
from autopeft.plan.question import Question

Status = Literal["ok", "unsupported", "error"]


class Memory(Message):
    """Predicted peak memory.

    Attributes:
        allocated_peak_bytes: held by tensors.
        reserved_peak_bytes: taken by the caching allocator.
        device_peak_bytes: reserved plus the context of the process.
        low_bytes, high_bytes: 90 % band of the reserved peak.
        parts: bytes by category at the allocated peak; they sum to it.
        peak_phase: where the peak is.
    """

    allocated_peak_bytes: int
    reserved_peak_bytes: int
    device_peak_bytes: int
    low_bytes: int
    high_bytes: int
    parts: dict[str, int]
    peak_phase: str

    @property
    def context_bytes(self) -> int:
        """What the process holds beside its tensors."""
        return self.device_peak_bytes - self.reserved_peak_bytes


class Origin(Message):
    """How an answer was made.

    Attributes:
        kind: whether the configuration itself was traced, or smaller ones that were expanded to it.
        versions: libraries that were traced.
        guesses: what had to be assumed; each widens the band.
        words: the same in a line for people.
    """

    kind: Literal["traced", "expanded"]
    versions: dict[str, str]
    guesses: tuple[str, ...] = ()
    words: str = ""


class Answer(Message):
    """The answer to one question.

    `fits` is true where the upper end of the band, context included, is within the limit; a
    configuration whose band reaches beyond it does not count as fitting, and `reason` says which of
    both it is. Without a limit it is None, and where something is left out that may not fit, too.

    Attributes:
        status: "ok"; "unsupported" for a question that is valid and cannot be answered; "error" for
            one that is not.
        reason: why it is not "ok" or does not fit; one line.
        way_out: what would make fit what does not; None where it fits, nothing was found or it was not asked.
        max_batch_size: largest batch within the limit, 0 where not even one row fits; None where there
            is no limit or it was not asked for.
        spread: where several devices share the training: how, and what it exchanges; all else is of one.
        cost: dollars and energy; None where no price is known, as `cost_reason` says.
        tokens: of the mean row.
        time: of a step; None where only the memory of the device is known.
        question: the fields that were asked, so that an answer can be told from its neighbours; None for
            a row that asks nothing.
        longest: to how many tokens rows are cut; None of images and sounds.
        limit_bytes, total_params, run, tokens, longest, stack: for people only, not in the JSON.
    """

    status: Status
    reason: str | None = None
    fits: bool | None = None
    way_out: str | None = None
    question: dict[str, JsonValue] | None = None
    memory: Memory | None = None
    trainable_params: int | None = None
    adapter_file_bytes: int | None = None
    max_batch_size: int | None = None
    spread: SpreadEstimate | None = None
    cost: Cost | None = None
    cost_reason: str | None = None
    provenance: Origin | None = None
    limit_bytes: int | None = Field(default=None, exclude=True)
    total_params: int | None = Field(default=None, exclude=True)
    run: RunTime | None = Field(default=None, exclude=True)
    stack: str | None = Field(default=None, exclude=True)
    tokens: int | None = Field(default=None, exclude=True)
    longest: int | None = Field(default=None, exclude=True)
    time: TimeEstimate | None = None


class Switch(Message):
    """One change to a question, and what it would save or cost.

    Attributes:
        name: the change in words.
        change: the fields that change.
        saved_bytes: by how much the device's peak shrinks; negative where it grows, None where the
            changed question has no answer.
        answer: to the changed question.
    """

    name: str
    change: dict[str, object]
    saved_bytes: int | None
    answer: Answer


class Explanation(Message):
    """An answer with what each switch would save or cost."""

    question: Question
    answer: Answer
    switches: tuple[Switch, ...]

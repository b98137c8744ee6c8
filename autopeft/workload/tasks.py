"""Tasks: what each is learnt from, how it is scored, and which head it needs. Data, torch-free."""

from __future__ import annotations

import math
from typing import Literal

from autopeft.message import Message
from autopeft.workload.base_model import Family

Task = Literal["classification", "regression", "token-classification", "masked-lm", "sft", "dpo"]
Interval = Literal["proportion", "mean", "bootstrap"]


class Metric(Message):
    """What a score is and which way it improves.

    Attributes:
        interval: how its interval is made: of a share of right rows ("proportion"), of a mean over rows
            ("mean"), or by drawing rows again ("bootstrap", where no row has a score of its own).
    """

    name: str
    direction: Literal["maximize", "minimize"]
    interval: Interval = "mean"

    @property
    def meaning(self) -> str:
        """What its numbers say, where the name does not; "" where it does."""
        return _MEANINGS.get(self.name, "")

    def better(self, one: float, other: float) -> bool:
        """Say whether `one` is strictly better than `other` (NaN is worse than anything)."""
        if math.isnan(one) or math.isnan(other):
            return not math.isnan(one) and math.isnan(other)
        return one > other if self.direction == "maximize" else one < other


_MEANINGS = {
    "relative absolute error": "1 is always saying the median of the training rows, 0 is never being wrong, "
    "lower is better",
}

ACCURACY = Metric(name="accuracy", direction="maximize", interval="proportion")
HELD_OUT_LOSS = Metric(name="loss", direction="minimize")
RELATIVE_ERROR = Metric(name="relative absolute error", direction="minimize")
"""Mean absolute error, as a share of that of always saying the median of the training rows."""
F1 = Metric(name="F1", direction="maximize", interval="bootstrap")
"""Of spans where tags mark spans (IOB2), else of tokens whose tag is not the usual one."""
PREFERRED = Metric(name="preference accuracy", direction="maximize", interval="proportion")
"""Share of the pairs whose chosen answer gained more likelihood than the rejected one."""


class TaskSpec(Message):
    """One row of the table.

    Attributes:
        needs: columns that rows must have, by role; any one of these sets.
        heads: the transformers class that builds the model, by family; families that are left out cannot
            learn this.
        peft_type: name of peft's `TaskType`; None where that follows from the family.
        outputs: what a head gives: one number for each class, the number itself, or the pretrained head's
            tokens; all but the last are new, so that they have to be trained.
        each_token: whether each token has an answer of its own, not the row as a whole.
        virtual_tokens: whether methods may put tokens of their own before a row.
        named_tasks: whether peft passes on the number of a row's task, for methods of many tasks.
        reference: whether the loss needs the model without its adapter, too.
        baseline: what a winner is compared with: a linear model on frozen features ("probe"), the model as
            it is ("untrained"), or nothing, where that has no score.
    """

    metric: Metric
    needs: tuple[tuple[str, ...], ...]
    heads: dict[Family, str]
    peft_type: str | None = None
    outputs: Literal["classes", "number", "tokens"] = "tokens"
    each_token: bool = True
    virtual_tokens: bool = True
    named_tasks: bool = True
    reference: bool = False
    baseline: Literal["probe", "untrained", "none"] = "untrained"

    @property
    def new_head(self) -> bool:
        """Whether the head is new, so that it has to be trained whatever the method."""
        return self.outputs != "tokens"


TASKS: dict[Task, TaskSpec] = {
    "classification": TaskSpec(
        metric=ACCURACY,
        needs=(("image", "label"), ("audio", "label"), ("text", "label")),
        heads={
            "decoder": "AutoModelForSequenceClassification",
            "encoder": "AutoModelForSequenceClassification",
            "encoder-decoder": "AutoModelForSequenceClassification",
            "vision": "AutoModelForImageClassification",
            "speech": "AutoModelForAudioClassification",
            "multimodal": "AutoModelForSequenceClassification",
        },
        peft_type="SEQ_CLS",
        outputs="classes",
        each_token=False,
        baseline="probe",
    ),
    "regression": TaskSpec(
        metric=RELATIVE_ERROR,
        needs=(("text", "number"),),
        heads=dict.fromkeys(("decoder", "encoder", "encoder-decoder"), "AutoModelForSequenceClassification"),
        peft_type="SEQ_CLS",
        outputs="number",
        each_token=False,
        baseline="probe",
    ),
    "token-classification": TaskSpec(
        metric=F1,
        needs=(("words", "tags"),),
        heads=dict.fromkeys(("decoder", "encoder"), "AutoModelForTokenClassification"),
        peft_type="TOKEN_CLS",
        outputs="classes",
        virtual_tokens=False,
        baseline="probe",
    ),
    "masked-lm": TaskSpec(
        metric=HELD_OUT_LOSS,
        needs=(("text",),),
        heads={"encoder": "AutoModelForMaskedLM"},
        virtual_tokens=False,
        named_tasks=False,
    ),
    "sft": TaskSpec(
        metric=HELD_OUT_LOSS,
        needs=(("audio", "text"), ("messages",), ("prompt", "completion")),
        heads={
            "decoder": "AutoModelForCausalLM",
            "encoder-decoder": "AutoModelForSeq2SeqLM",
            "speech": "AutoModelForSpeechSeq2Seq",
            "multimodal": "AutoModelForImageTextToText",
        },
    ),
    "dpo": TaskSpec(
        metric=PREFERRED,
        needs=(("prompt", "chosen", "rejected"),),
        heads={"decoder": "AutoModelForCausalLM"},
        reference=True,
        baseline="none",
    ),
}

OUTSIDE = "O"
"""The tag that marks nothing."""

USUAL_CLASSES = 2
"""Classes where nobody says how many."""

PIPELINES: dict[str, str] = {
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForTokenClassification": "token-classification",
    "AutoModelForMaskedLM": "fill-mask",
    "AutoModelForImageClassification": "image-classification",
    "AutoModelForAudioClassification": "audio-classification",
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForSeq2SeqLM": "text2text-generation",
    "AutoModelForSpeechSeq2Seq": "automatic-speech-recognition",
    "AutoModelForImageTextToText": "image-text-to-text",
}
"""The Hub's name of what a model with a head is for."""


def head_outputs(task: Task, classes: int) -> int:
    """Return how many numbers a task's own head gives; 0 where the head is the pretrained one."""
    return {"classes": classes, "number": 1, "tokens": 0}[TASKS[task].outputs]

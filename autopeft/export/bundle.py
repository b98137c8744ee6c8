"""Bundle: the directory that is exported, and what it says about itself."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from autopeft.cost.estimate import CostEstimate
from autopeft.message import Message
from autopeft.methods.quantization.packing import Packing
from autopeft.plan.budget import Budget
from autopeft.request import Request
from autopeft.space.candidate import Candidate
from autopeft.train.result import TrialResult
from autopeft.workload.dataset import Metric, Scale, Task
from autopeft.workload.tasks import PIPELINES

HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*")

Form = Literal["adapter", "merged", "lora"]
_LOADING = ("num_labels", "pad_token_id")
_DTYPES = {"bf16": "bfloat16", "fp32": "float32"}
Dtype = Annotated[
    Literal["float32", "bfloat16"],
    BeforeValidator(
        lambda name: _DTYPES.get(name, name) if isinstance(name, str) else name,
        json_schema_input_type=Literal["bf16", "fp32", "bfloat16", "float32"],
    ),
]
"""Also by the names that the command line has for them."""


def on_hub(name: str) -> bool:
    """Say whether a name is one of the Hub, and none of a place on this disk."""
    return HUB_ID.fullmatch(name) is not None and not Path(name).exists()


class Export(Message):
    """What is to be exported, and how.

    Attributes:
        out: directory to write; None is one in the study's folder.
        force: replace what autopeft wrote there; a place with anything else is refused.
        trial: number of the trial; None is the winner.
        refit: train its configuration once more before, on the validation rows too; None does as the study's
            own bundle of that trial did.
        form: see `Bundle`.   dtype: of merged weights; None is that of the training.
        lora_rank: of a conversion to LoRA; None is 16.
        gguf: add a file for llama.cpp.
        model_name: name of the MLflow model that it becomes a version of.
        push: repository of the Hub to upload to.   base_model: the base's hub id there.
        license: as the Hub names it.
    """

    out: str | None = None
    force: bool = False
    trial: int | None = Field(default=None, ge=0)
    refit: bool | None = None
    form: Form = "adapter"
    dtype: Dtype | None = None
    lora_rank: int | None = Field(default=None, ge=1)
    gguf: bool = False
    model_name: str | None = None
    push: str | None = None
    base_model: str | None = None
    license: str = "other"

    @model_validator(mode="after")
    def _of_its_form(self) -> Self:
        if self.dtype is not None and self.form != "merged":
            raise ValueError(f"dtype goes with the form merged, but got the form {self.form}")
        if self.lora_rank is not None and self.form != "lora":
            raise ValueError(f"lora_rank goes with the form lora, but got the form {self.form}")
        return self


class Evaluated(Message):
    """What a trained candidate earned on the test rows.

    Attributes:
        score, low, high: the metric with its 95 % interval.   further: other metrics, by name.
        rows: fingerprint of the test rows in their order.
        facts: what each row contributed (see `train/scoring.py`), in that order.
    """

    trial: int
    metric: Metric
    score: float
    low: float
    high: float
    further: dict[str, float] = {}
    rows: str
    facts: tuple[tuple[float, ...], ...]


class Fidelity(Message):
    """How far an export in another form is from what was trained, measured when it was made.

    Attributes:
        made: what was done, in words.
        logits: largest difference of the reference's logits, as a share of the largest where that is above 1.
        score: the metric of this form on the test rows; None where it cannot be taken of this form.
        change, low, high: that less what was trained, with the 95 % interval over the same rows.
        moved: share of the test rows whose own score is another; None where rows have none.
    """

    made: str
    logits: float
    score: float | None = None
    change: float | None = None
    low: float | None = None
    high: float | None = None
    moved: float | None = None


class Verified(Message):
    """What `autopeft verify` found.

    Attributes:
        state: the bundle is what it was when it was exported, or differs, or that cannot be told here.
        reason: why, where it is not the same.
        files: how many were held against their checksums.
        logits: difference of the recorded logits from those of a process without autopeft.
        recorded, score: the metric on the test rows, at export and now.
    """

    place: str
    label: str
    metric: str
    state: Literal["same", "differs", "unknown"] = "unknown"
    reason: str = ""
    files: int
    logits: float | None = None
    recorded: float
    score: float | None = None


class Bundle(Message):
    """What `autopeft.json` of an exported directory holds.

    Attributes:
        head: the transformers class that loads the model.
        path: the directory.   format: "peft" loads with peft alone, "autopeft" after
            `import autopeft.adapters`, "model" is a whole transformers model.
        form: the adapter as it was trained, or folded into the weights, or as plain LoRA.
        lora_rank: largest rank of the LoRA that it holds; None where it holds none.
        base: directory or hub id of the base's weights; empty where nobody knows.
        loading: what `from_pretrained` has to be told beside the directory.
        dtype: of the weights, as torch calls it; None is that of the training.
        scale: what to do to the model's output to have the user's number (regression); None: nothing.
        test_score, low, high: the metric on the test rows with its 95 % interval.
        further: other metrics on the test rows, by name.
        refit_rows: training and validation rows that the configuration was trained on once more; 0 where
            the weights are the trial's own.
        tested: for how many configurations of the study the test rows were used until then; None if unknown.
        chosen: whether the search chose this trial; another was asked for by number.
        request: what the study was asked, without places of its own, to find the test rows again.
        packing: how the base is packed while it is loaded; None where it is not.
        reference_difference: largest difference between the logits recorded at export and those
            of a process that has only transformers and peft.
        fidelity: how far this form is from what was trained; None for the adapter as it was trained.
        files: SHA-256 of every other file, by its path inside the directory.
    """

    path: str
    format: Literal["peft", "autopeft", "model", "none"]
    form: Form = "adapter"
    model: str
    base: str = ""
    task: Task
    head: str
    labels: tuple[str, ...]
    lora_rank: int | None = None
    loading: dict[str, int] = {}
    dtype: Literal["float32", "bfloat16"] | None = None
    scale: Scale | None = None
    candidate: Candidate
    budget: Budget
    predicted: CostEstimate | None
    measured: TrialResult
    metric: Metric
    test_score: float
    low: float
    high: float
    further: dict[str, float] = {}
    tested: int | None = None
    data: str
    data_fingerprint: str
    seed: int
    study: str
    trial: int
    refit_rows: int = 0
    chosen: bool = True
    request: Request | None = None
    mlflow_run: str | None = None
    license: str = Field(default="other", pattern=r"^[a-z0-9][a-z0-9.\-]*$")
    versions: dict[str, str]
    packing: Packing | None = None
    reference_difference: float | None = None
    fidelity: Fidelity | None = None
    files: dict[str, str] = {}

    @field_validator("head")
    @classmethod
    def _known_head(cls, head: str) -> str:
        if head not in PIPELINES:
            raise ValueError(f"must be a class of transformers that has a head, but got {head!r}")
        return head

    @field_validator("loading")
    @classmethod
    def _known_arguments(cls, loading: dict[str, int]) -> dict[str, int]:
        if not set(loading) <= set(_LOADING):
            raise ValueError(f"must be of {', '.join(_LOADING)}, but got {', '.join(sorted(loading))}")
        return loading

    @field_validator("packing", mode="before")
    @classmethod
    def _never_code(cls, packing: object) -> object:
        if not isinstance(packing, list | tuple):
            return packing
        if any(packing):
            raise ValueError("must be data, but is code, as older manifests hold it: export the trial anew")
        return None

    @field_validator("files")
    @classmethod
    def _names_only(cls, files: dict[str, str]) -> dict[str, str]:
        for name in files:
            path = PurePosixPath(name)
            if path.as_posix() != name or path.is_absolute() or ".." in path.parts or not path.parts:
                raise ValueError(f"must be names inside of the directory, but got {name!r}")
        return files

    def elsewhere(self, name: str) -> Bundle:
        """Return the bundle as others have it, under a name: without what only this disk knows."""
        asked = self.request.data if self.request and self.request.data else self.data
        data = asked if on_hub(asked) else Path(self.data).name
        base = "" if Path(self.base).is_absolute() or Path(self.base).exists() else self.base
        model = Path(self.model).name if Path(self.model).is_absolute() else self.model
        found = {"path": name, "base": base, "model": model, "request": None, "data": data}
        return self.model_copy(update=found)

"""Bundle: the directory that is exported, and what it says about itself."""

from __future__ import annotations

from autopeft.cost.estimate import CostEstimate
from autopeft.message import Message
from autopeft.plan.budget import Budget
from autopeft.space.candidate import Candidate
from autopeft.train.result import TrialResult
from autopeft.workload.dataset import Metric, Scale, Task


class Bundle(Message):
    """What `autopeft.json` of an exported directory holds.

    Attributes:
        head: the transformers class that loads the model.
        path: the directory.   format: "peft" loads with peft alone, "autopeft" after
            `import autopeft.adapters`, "model" is a whole transformers model.
        loading: what `from_pretrained` has to be told beside the directory.
        scale: what to do to the model's output to have the user's number (regression); None: nothing.
        test_score, low, high: the metric on the test rows with its 95 % interval.
        further: other metrics on the test rows, by name.
        packing: import and argument that load the base packed as it was trained on; empty where it was not.
        reference_difference: largest difference between the logits recorded at export and those
            of a process that has only transformers and peft.
        files: SHA-256 of every other file.
    """

    path: str
    format: str
    model: str
    task: Task
    head: str
    labels: tuple[str, ...]
    loading: dict[str, int] = {}
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
    data: str
    data_fingerprint: str
    seed: int
    study: str
    trial: int
    mlflow_run: str | None = None
    versions: dict[str, str]
    packing: tuple[str, str] = ("", "")
    reference_difference: float | None = None
    files: dict[str, str] = {}

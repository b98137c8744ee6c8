"""autopeft: plan, search and export the PEFT configuration that fits a GPU, a time and a dataset.

>>> import autopeft as ap
>>> plan = ap.plan(model="all-MiniLM-L6-v2", data="train.csv", budget=ap.Budget(gpu_mem="16GB"))
>>> study = ap.search(model="all-MiniLM-L6-v2", data="train.csv", budget=ap.Budget(time="30min"))
>>> bundle = ap.export(study)

Names are loaded when first used, so that `import autopeft` costs nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autopeft.api import (
        answer,
        answer_many,
        capacity,
        compare,
        estimate,
        export,
        plan,
        profile,
        report,
        run,
        search,
        verify,
    )
    from autopeft.client.client import Client
    from autopeft.cost.estimate import CostEstimate
    from autopeft.errors import AutopeftError
    from autopeft.export.bundle import Bundle
    from autopeft.hardware.profile import HardwareProfile
    from autopeft.job import Job, Upload
    from autopeft.plan.answer import Answer
    from autopeft.plan.budget import Budget
    from autopeft.plan.capacity import Capacity, Demand
    from autopeft.plan.plan import Fits, Plan, Rejected
    from autopeft.plan.question import Question
    from autopeft.report.facts import StudyFacts
    from autopeft.request import Request
    from autopeft.search.study import Study, Trial
    from autopeft.space.candidate import Candidate, Training
    from autopeft.workload.base_model import BaseModel
    from autopeft.workload.dataset import Dataset

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "AutopeftError",
    "BaseModel",
    "Budget",
    "Bundle",
    "Candidate",
    "Capacity",
    "Client",
    "CostEstimate",
    "Dataset",
    "Demand",
    "Fits",
    "HardwareProfile",
    "Job",
    "Plan",
    "Question",
    "Rejected",
    "Request",
    "Study",
    "StudyFacts",
    "Training",
    "Trial",
    "Upload",
    "__version__",
    "answer",
    "answer_many",
    "capacity",
    "compare",
    "estimate",
    "export",
    "plan",
    "profile",
    "report",
    "run",
    "search",
    "verify",
]

_HOMES = {
    "Answer": "autopeft.plan.answer",
    "AutopeftError": "autopeft.errors",
    "BaseModel": "autopeft.workload.base_model",
    "Budget": "autopeft.plan.budget",
    "Bundle": "autopeft.export.bundle",
    "Candidate": "autopeft.space.candidate",
    "Capacity": "autopeft.plan.capacity",
    "Client": "autopeft.client.client",
    "CostEstimate": "autopeft.cost.estimate",
    "Dataset": "autopeft.workload.dataset",
    "Demand": "autopeft.plan.capacity",
    "Fits": "autopeft.plan.plan",
    "HardwareProfile": "autopeft.hardware.profile",
    "Job": "autopeft.job",
    "Plan": "autopeft.plan.plan",
    "Question": "autopeft.plan.question",
    "Rejected": "autopeft.plan.plan",
    "Request": "autopeft.request",
    "Study": "autopeft.search.study",
    "StudyFacts": "autopeft.report.facts",
    "Training": "autopeft.space.candidate",
    "Trial": "autopeft.search.study",
    "Upload": "autopeft.job",
    "answer": "autopeft.api",
    "answer_many": "autopeft.api",
    "capacity": "autopeft.api",
    "compare": "autopeft.api",
    "estimate": "autopeft.api",
    "export": "autopeft.api",
    "plan": "autopeft.api",
    "profile": "autopeft.api",
    "report": "autopeft.api",
    "run": "autopeft.api",
    "search": "autopeft.api",
    "verify": "autopeft.api",
}


class _Face(ModuleType):
    """The package, whose functions keep their names though folders are called the same.

    Importing anything below `autopeft/plan/` would bind that folder to `autopeft.plan`, where
    `ap.plan(...)` is wanted. `from autopeft.plan.budget import Budget` works either way.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (isinstance(value, ModuleType) and name in _HOMES):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Face


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

"""TraceRequest: what a trace depends on, and nothing else. Torch-free."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib.metadata import version
from pathlib import Path

from autopeft.cost.tape import TAPE_FORMAT, Target
from autopeft.message import Message
from autopeft.space.candidate import Candidate
from autopeft.workload.base_model import BaseModel
from autopeft.workload.dataset import Task

# A tape is as good as the code that it ran; these decide what is run and what is written down.
_SOURCES = ("methods", "train/step.py", "cost/tape.py", "cost/tracing")


class TraceRequest(Message):
    """One trace to make.

    Attributes:
        rows: rows of a micro-batch.
        lengths: tokens of the rows of each step, in the order of the steps.
        padded: whether batches hold padding.
    """

    base: BaseModel
    candidate: Candidate
    task: Task
    labels: int
    rows: int
    lengths: tuple[int, ...]
    target: Target
    padded: bool = True

    @property
    def key(self) -> str:
        """A name shared by all requests that have the same tape."""
        parts = {
            "config": self.base.config,
            "candidate": self.candidate.footprint,
            "rest": self.model_dump(mode="json", exclude={"base", "candidate"}),
            "versions": versions(),
            "format": TAPE_FORMAT,
            "code": _code_digest(),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@cache
def versions() -> dict[str, str]:
    """Return the versions of the libraries that are traced."""
    return {name: version(name) for name in ("torch", "transformers", "peft")}


@cache
def _code_digest() -> str:
    root = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for source in _SOURCES:
        place = root / source
        for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(file.read_bytes())
    return digest.hexdigest()

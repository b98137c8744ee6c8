"""CostModel: what the planner needs to know of the room that predicts cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from autopeft.cost.estimate import CostEstimate
from autopeft.errors import AutopeftError
from autopeft.hardware.profile import HardwareProfile
from autopeft.space.candidate import Candidate
from autopeft.workload.base_model import BaseModel
from autopeft.workload.dataset import Workload


class CostModel(Protocol):
    """Predicts memory and time of candidates."""

    def estimate(
        self, base: BaseModel, candidate: Candidate, workload: Workload, profile: HardwareProfile
    ) -> CostEstimate:
        """Cost one candidate; raises UnsupportedError or InputError where it cannot."""

    def estimate_many(
        self,
        base: BaseModel,
        candidates: Sequence[Candidate],
        workload: Workload,
        profile: HardwareProfile,
        on_done: Callable[[int], None] | None = None,
    ) -> list[CostEstimate | AutopeftError]:
        """Cost many candidates, in their order; `on_done` is told how many are done."""

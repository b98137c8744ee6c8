"""Consultant: answers everything that needs no training, and keeps what makes the next answer quick."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from autopeft.journey import calibrating, explaining
from autopeft.journey.answering import Answering
from autopeft.journey.inputs import PROFILING, Grounds, load_grounds, target_profile
from autopeft.journey.posing import Poser
from autopeft.request import Request

if TYPE_CHECKING:
    from autopeft.cost.model import TracedCostModel
    from autopeft.errors import AutopeftError
    from autopeft.hardware.profile import HardwareProfile
    from autopeft.plan.answer import Answer, Explanation
    from autopeft.plan.capacity import Capacity, Demand
    from autopeft.plan.overview import ModelRow
    from autopeft.plan.plan import Plan, Verdict
    from autopeft.plan.planner import Planner
    from autopeft.plan.question import Question
    from autopeft.space.candidate import Candidate

Progress = Callable[[str, int, int], None]
PLANNED = 4000
MISSES = 3
"""Near misses for which a plan finds out what would make them fit."""


def _ignore(_stage: str, _done: int, _total: int) -> None: ...


class Consultant:
    """Answers questions, plans and demands with cost models that live as long as it does.

    Its methods may be called from several threads.

    Args:
        workspace: where this machine's profile, others and calibrations are kept.
        measured: returns the profile of this machine; only what is asked of it needs that.
        load: loads what a plan takes of a request, for a device.
    """

    def __init__(
        self,
        workspace: str,
        measured: Callable[[Request], HardwareProfile],
        load: Callable[[Request, HardwareProfile], Grounds] = load_grounds,
    ) -> None:
        from autopeft.cost.model import TracedCostModel

        self._measured, self._load = measured, load
        corrections = calibrating.known(Path(workspace))
        self._processes = contextlib.ExitStack()
        self._model = self._processes.enter_context(TracedCostModel(calibrations=corrections))
        self._brief = self._processes.enter_context(TracedCostModel(brief=True, calibrations=corrections))
        self._poser = Poser(Path(workspace), lambda: measured(Request(workspace=workspace)))

    def __enter__(self) -> Self:
        """Return the consultant."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the tracing processes."""
        self.close()

    def close(self) -> None:
        """End the tracing processes."""
        self._processes.close()

    def answer(self, question: Question, progress: Progress | None = None, *, batches: bool = True) -> Answer:
        """Answer one question; with `batches` also say which batch is the largest, and what would fit."""
        return explaining.answer(question, self._answering(batches=batches, progress=progress))

    def answer_many(
        self,
        rows: Iterable[Question | AutopeftError],
        *,
        batches: bool = True,
        on_done: Callable[[int], None] | None = None,
    ) -> Iterator[Answer]:
        """Answer questions in their order, as soon as they are ready; an error is answered as one."""
        yield from self._answering(batches=batches).stream(rows, on_done)

    def explain(
        self,
        question: Question,
        progress: Progress | None = None,
        *,
        batches: bool = True,
        on_answer: Callable[[Answer], None] | None = None,
    ) -> Explanation:
        """Answer one question, tell `on_answer`, and say what each switch of it would save or cost."""
        return explaining.explain(question, self._answering(batches=batches, progress=progress), on_answer)

    def capacity(self, demand: Demand, progress: Progress | None = None) -> Capacity:
        """Say which devices train the demanded models in which ways, how fast and at what cost."""
        from autopeft.journey.provisioning import provision

        return provision(demand, self._answering(batches=True), progress or _ignore)

    def judge(self, request: Request, candidate: Candidate) -> Verdict:
        """Hold one configuration against a request's budget."""
        from autopeft.methods.registry import find_method, require_support

        find_method(candidate.method)
        planner, inputs = self._planner(request, self._model, _ignore)
        require_support(candidate, inputs.base, inputs.workload.task)
        return planner.judge(candidate)

    def plan(self, request: Request, progress: Progress | None = None) -> Plan:
        """Hold every configuration of the space against the budget."""
        from autopeft.journey.planning import plan_space

        told = progress or _ignore
        planner, inputs = self._planner(request, self._brief, told)
        return plan_space(planner, inputs, PLANNED, told, misses=MISSES)

    def overview(
        self, request: Request, progress: Progress | None = None, *, all_models: bool = False
    ) -> tuple[ModelRow, ...]:
        """Say of usual models, or all of the catalogue, how they train within the budget, and how far."""
        from autopeft.journey.overviewing import judge_catalogue
        from autopeft.journey.spending import require_one_device, require_rows

        told = progress or _ignore
        require_one_device(request)
        require_rows(request)
        return judge_catalogue(request, self._target(request, told), self._brief, told, all_models=all_models)

    def _answering(self, *, batches: bool, progress: Progress | None = None) -> Answering:
        return Answering(
            poser=self._poser, cost_model=self._model, batches=batches, progress=progress or _ignore
        )

    def _planner(
        self, request: Request, cost_model: TracedCostModel, told: Progress
    ) -> tuple[Planner, Grounds]:
        """Load what a request names; its configurations will be held against its device and budget."""
        from autopeft.journey.spending import SpreadCostModel, device_price, require_rows, spread_of
        from autopeft.plan.planner import Planner

        require_rows(request)
        spread = spread_of(request)
        target = self._target(request, told)
        told("loading model and data", 0, 1)
        inputs = self._load(request, target)
        planner = Planner(
            base=inputs.base,
            workload=inputs.workload,
            profile=target,
            budget=request.budget,
            cost_model=cost_model if spread.alone else SpreadCostModel(cost_model, spread),
            spread=spread,
            price=device_price(request, target),
        )
        return planner, inputs

    def _target(self, request: Request, told: Progress) -> HardwareProfile:
        """Return the device to plan for: the one named, this machine's, or any GPU of the memory given."""
        trains_here = request.data is not None or request.demo is not None
        elsewhere = request.gpu is not None or (
            request.budget.gpu_mem is not None and not trains_here and shutil.which("nvidia-smi") is None
        )
        if elsewhere:
            return target_profile(request, None)
        told(PROFILING, 0, 1)
        return target_profile(request, self._measured(request))

"""The overview: which models of the catalogue can be adapted within a budget."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed

from autopeft.hardware.profile import HardwareProfile
from autopeft.journey.inputs import load_inputs
from autopeft.methods.registry import METHODS
from autopeft.plan.cost_model import CostModel
from autopeft.plan.overview import ModelRow
from autopeft.plan.plan import Rejected
from autopeft.plan.planner import Planner
from autopeft.request import Request
from autopeft.units import format_bytes
from autopeft.workload.base_model import BaseModel
from autopeft.workload.models import list_models

SIDE_BY_SIDE = 2
_BYTES_A_WEIGHT = {"fp32": 4, "bf16": 2}


def judge_catalogue(
    request: Request,
    profile: HardwareProfile,
    cost_model: CostModel,
    progress: Callable[[str, int, int], None],
) -> tuple[ModelRow, ...]:
    """Judge the default configuration on every model of the catalogue, smallest model first.

    A model whose weights alone exceed the limit is refused without tracing it.
    """
    models = sorted(list_models(), key=lambda base: base.parameters or 0)
    models = [base for base in models if base.family in METHODS["lora"].families]
    rows: dict[str, ModelRow] = {}
    with ThreadPoolExecutor(SIDE_BY_SIDE) as threads:
        running = [threads.submit(_judge, base, request, profile, cost_model) for base in models]
        for done in as_completed(running):
            row = done.result()
            rows[row.model] = row
            progress("costing models", len(rows), len(models))
    return tuple(rows[base.name] for base in models)


def _shortened(length: int | None, base: BaseModel) -> int | None:
    return min(length, base.max_length) if length and base.max_length else length


def _judge(base: BaseModel, request: Request, profile: HardwareProfile, cost_model: CostModel) -> ModelRow:
    inputs = load_inputs(
        request.model_copy(update={"model": base.name, "seq_len": _shortened(request.seq_len, base)}), profile
    )
    candidate = inputs.baseline
    planner = Planner(
        base=inputs.base,
        workload=inputs.workload,
        profile=profile,
        budget=request.budget,
        cost_model=cost_model,
    )
    weights = (base.parameters or 0) * _BYTES_A_WEIGHT[candidate.training.precision]
    if weights + profile.context_bytes > planner.memory_limit:
        verdict = Rejected(
            candidate=candidate,
            reason=f"its weights alone take {format_bytes(weights)} in {candidate.training.precision}, "
            f"the limit is {format_bytes(planner.memory_limit)}",
            way_out="a smaller model fits",
        )
        return ModelRow(model=base.name, parameters=base.parameters, verdict=verdict)
    return ModelRow(model=base.name, parameters=base.parameters, verdict=planner.judge(candidate))

"""The overview: which models of the catalogue can be adapted within a budget, how, and how far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from dataclasses import replace
from threading import Event

from autopeft.cost.estimate import CostEstimate
from autopeft.errors import AutopeftError
from autopeft.hardware.profile import HardwareProfile
from autopeft.journey.inputs import ASSUMED_LENGTH, load_inputs
from autopeft.methods.registry import METHODS
from autopeft.plan.cost_model import CostModel
from autopeft.plan.largest_batch import largest_batch
from autopeft.plan.overview import ModelRow, Option
from autopeft.plan.plan import Fits, Rejected, Verdict
from autopeft.plan.planner import Planner
from autopeft.request import Request
from autopeft.space.candidate import Candidate
from autopeft.units import format_bound, format_bytes, format_limit, round_up
from autopeft.workload.base_model import BaseModel
from autopeft.workload.dataset import Lengths, Workload
from autopeft.workload.models import list_models
from autopeft.workload.usual import USUAL

SIDE_BY_SIDE = 2
TOKENS = 128
"""Lengths of single rows are told in steps of so many tokens."""

_NO_LIMIT = 2**31
_ANY_MEMORY = 2**60
_BYTES_A_WEIGHT = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0}
_PACKED = 0.5
_TRAINED = 4
"""A trained weight comes with its gradient and two states of AdamW, each at least as large."""


def judge_catalogue(
    request: Request,
    profile: HardwareProfile,
    cost_model: CostModel,
    progress: Callable[[str, int, int], None],
    *,
    all_models: bool = False,
) -> tuple[ModelRow, ...]:
    """Judge full fine-tuning, LoRA and QLoRA on models of the catalogue, smallest model first.

    What exceeds the limit by its weights alone is refused without tracing it. Where nothing fits, the
    smallest model says with how much memory it would.

    Args:
        request: budget, length, batch.
        profile: the device.
        cost_model: predicts.
        progress: told how many models are done.
        all_models: take the whole catalogue, not only `USUAL`.
    """
    models = [base for base in list_models() if all_models or base.name in USUAL]
    models = [base for base in models if base.family in METHODS["lora"].families]
    models.sort(key=lambda base: base.parameters or 0)
    rows: dict[str, ModelRow] = {}
    progress("costing models", 0, len(models))
    stoppable = _Stoppable(cost_model)
    threads = ThreadPoolExecutor(SIDE_BY_SIDE)
    try:
        running = [threads.submit(_judge, base, request, profile, stoppable) for base in models]
        for done in as_completed(running):
            row = done.result()
            rows[row.model] = row
            progress("costing models", len(rows), len(models))
        if models and not any(row.fits for row in rows.values()):
            smallest = models[0]
            rows[smallest.name] = _with_way_out(rows[smallest.name], smallest, request, profile, stoppable)
    finally:
        # After an interrupt nobody waits for what is still being traced.
        stoppable.stopped.set()
        threads.shutdown(wait=False, cancel_futures=True)
    return tuple(rows[base.name] for base in models)


class _Stoppable:
    """A cost model that answers nobody once it is stopped."""

    def __init__(self, cost_model: CostModel) -> None:
        self._cost_model = cost_model
        self.stopped = Event()

    def estimate(
        self, base: BaseModel, candidate: Candidate, workload: Workload, profile: HardwareProfile
    ) -> CostEstimate:
        """Cost one candidate."""
        if self.stopped.is_set():
            raise CancelledError
        return self._cost_model.estimate(base, candidate, workload, profile)

    def estimate_many(
        self,
        base: BaseModel,
        candidates: Sequence[Candidate],
        workload: Workload,
        profile: HardwareProfile,
        on_done: Callable[[int], None] | None = None,
    ) -> list[CostEstimate | AutopeftError]:
        """Cost many candidates."""
        if self.stopped.is_set():
            raise CancelledError
        return self._cost_model.estimate_many(base, candidates, workload, profile, on_done)


def _judge(base: BaseModel, request: Request, profile: HardwareProfile, cost_model: CostModel) -> ModelRow:
    planner, baseline = _planner(base, request, profile, cost_model)
    fixed = request.batch_size is not None
    return ModelRow(
        model=base.name,
        parameters=base.parameters,
        length=planner.workload.lengths.longest,
        options=tuple(_option(planner, candidate, fixed_batch=fixed) for candidate in ways(baseline)),
    )


def _planner(
    base: BaseModel, request: Request, profile: HardwareProfile, cost_model: CostModel
) -> tuple[Planner, Candidate]:
    """Return what judges a model, and the baseline at the batch that is asked for."""
    length = min(request.seq_len or ASSUMED_LENGTH, base.max_length or _NO_LIMIT)
    inputs = load_inputs(request.model_copy(update={"model": base.name, "seq_len": length}), profile)
    planner = Planner(
        base=inputs.base,
        workload=inputs.workload,
        profile=profile,
        budget=request.budget,
        cost_model=cost_model,
    )
    return planner, inputs.baseline


def _with_way_out(
    row: ModelRow, base: BaseModel, request: Request, profile: HardwareProfile, cost_model: CostModel
) -> ModelRow:
    """Have the refusal of a model say with how much memory one row, or the batch asked for, would fit."""
    refusal = row.refusal
    if refusal is None:
        return row
    roomy = profile.model_copy(update={"total_bytes": _ANY_MEMORY, "usable_bytes": _ANY_MEMORY})
    unlimited = request.model_copy(update={"budget": request.budget.model_copy(update={"gpu_mem": None})})
    planner, baseline = _planner(base, unlimited, roomy, cost_model)
    batch = request.batch_size or 1
    verdicts = [planner.judge(_with(candidate, batch_size=batch)) for candidate in ways(baseline)]
    needed = [each.estimate.memory.high_bytes for each in verdicts if isinstance(each, Fits)]
    way_out = refusal.way_out if refusal.estimate else ""  # without one it was that a smaller model may fit
    if needed:
        rows = f"a batch of {batch}" if batch > 1 else "one row at a time"
        way_out = f"{rows} fits with {format_limit(round_up(min(needed)))}"
    last = row.options[-1].model_copy(update={"verdict": refusal.model_copy(update={"way_out": way_out})})
    return row.model_copy(update={"options": (*row.options[:-1], last)})


def ways(baseline: Candidate) -> tuple[Candidate, ...]:
    """Return full fine-tuning, LoRA and QLoRA, each with checkpointing: how far a device goes."""
    training = baseline.training.model_copy(update={"gradient_checkpointing": True})
    lora = baseline.model_copy(update={"training": training})
    full = Candidate(method="full", training=training)
    return full, lora, lora.model_copy(update={"quantization": "nf4-dq"})


def _option(planner: Planner, candidate: Candidate, *, fixed_batch: bool) -> Option:
    """Judge one way to train a model, and find how far it goes."""
    refusal = _too_heavy(planner, candidate)
    if refusal is not None:
        return Option(verdict=refusal, largest_batch=0, longest_row=0)
    verdict = planner.judge(candidate)
    if verdict.estimate is None:
        return Option(verdict=verdict)
    batch = candidate.training.batch_size
    largest = _largest(planner, batch, verdict, lambda rows: planner.judge(_with(candidate, batch_size=rows)))
    if largest is not None and largest < batch and not fixed_batch:
        verdict = planner.judge(_with(candidate, batch_size=max(1, largest)))
    return Option(
        verdict=verdict,
        largest_batch=largest,
        longest_row=0 if largest == 0 else _longest_row(planner, candidate),
    )


def _longest_row(planner: Planner, candidate: Candidate) -> int | None:
    """Find how many tokens a single row may have, at most those that the model can take."""
    most = planner.base.max_length

    def judge(tokens: int) -> Verdict:
        rows = replace(
            planner, workload=planner.workload.model_copy(update={"lengths": Lengths.constant(tokens)})
        )
        return rows.judge(_with(candidate, batch_size=1, max_length=tokens))

    if most is not None:
        at_most = judge(most)
        if at_most.estimate is not None and at_most.estimate.memory.high_bytes <= planner.memory_limit:
            return most
    steps = (most - 1) // TOKENS if most is not None else None
    first = max(1, min(planner.workload.lengths.longest // TOKENS, steps or 1))

    def judge_steps(count: int) -> Verdict | None:
        return None if steps is not None and count > steps else judge(count * TOKENS)

    found = _largest(planner, first, judge(first * TOKENS), judge_steps)
    return None if found is None else found * TOKENS


def _largest(
    planner: Planner, size: int, verdict: Verdict, judge: Callable[[int], Verdict | None]
) -> int | None:
    """Find the largest size whose upper end of the band is within the limit; what is no size is too large."""
    if verdict.estimate is None:
        return None
    limit = planner.memory_limit
    search = largest_batch(size, verdict.estimate.memory.high_bytes, limit)
    try:
        asked = next(search)
        while True:
            found = judge(asked)
            if found is None:
                needed: int | None = limit + 1
            else:
                needed = None if found.estimate is None else found.estimate.memory.high_bytes
            asked = search.send(needed)
    except StopIteration as end:
        return None if end.value is None else int(end.value)


def _too_heavy(planner: Planner, candidate: Candidate) -> Rejected | None:
    """Refuse what its weights alone make too large."""
    each = _BYTES_A_WEIGHT[candidate.training.precision]
    if candidate.quantization != "none":
        each, what = _PACKED, f"packed weights ({candidate.quantization})"
    elif candidate.method == "full":
        each, what = each * _TRAINED, "weights, gradients and optimizer state"
    else:
        what = f"weights in {candidate.training.precision}"
    needed = int((planner.base.parameters or 0) * each)
    context, limit = planner.profile.context_bytes, planner.memory_limit
    if needed + context <= limit:
        return None
    beside = " alone"
    if needed <= limit:
        beside, needed = f" and a context of {format_bytes(context)}", needed + context
    return Rejected(
        candidate=candidate,
        reason=f"its {what}{beside} take {format_bytes(needed)}, the limit is {format_bound(limit)}",
        way_out="a smaller model may fit",
    )


def _with(candidate: Candidate, **settings: int) -> Candidate:
    training = candidate.training.model_copy(update=settings)
    return candidate.model_copy(update={"training": training})

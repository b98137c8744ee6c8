"""TracedCostModel: candidates in, cost estimates out, by tracing each kind of them once."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from types import TracebackType
from typing import Self

from autopeft.cost.correction import Calibration
from autopeft.cost.costing import Placed, Run, calibrated, cost_run
from autopeft.cost.estimate import CostEstimate
from autopeft.cost.expand import Expansion
from autopeft.cost.loops import LOOPS, Loop
from autopeft.cost.pattern import Pattern
from autopeft.cost.pattern_cache import PatternCache
from autopeft.cost.reshape import Reshaper
from autopeft.cost.tape import Target
from autopeft.cost.tracing.request import TraceRequest
from autopeft.cost.tracing.workers import TracePool
from autopeft.errors import AutopeftError, InputError, UnsupportedError
from autopeft.hardware.profile import HardwareProfile
from autopeft.methods.registry import complete, require_support
from autopeft.space.candidate import Candidate
from autopeft.workload.base_model import BaseModel
from autopeft.workload.batching import mean_padded_length, packed, truncate
from autopeft.workload.dataset import Workload

_EXPANSIONS = 96
"""Expanded patterns that are kept in memory; each takes a few MiB."""

_SIDE_BY_SIDE = 2
"""Patterns that are costed at once: a replay runs outside the interpreter's lock, little else does."""


_Waiting = dict[str, tuple[TraceRequest, list[tuple[int, Run]]]]
"""By key: the request, and the runs it serves with their places among the candidates."""


class TracedCostModel:
    """A `CostModel` (see plan/cost_model.py) that runs the training code on fake tensors.

    Patterns are kept on disk; what is there is answered without torch and without another process.
    """

    def __init__(
        self,
        *,
        workers: int | None = None,
        seconds: float = 120.0,
        cache: PatternCache | None = None,
        brief: bool = False,
        calibrations: Mapping[str, Calibration] | None = None,
    ) -> None:
        """Prepare; nothing is started yet.

        Args:
            workers: tracing processes at most; None takes 2, or 1 on a single core.
            seconds: limit of one trace.
            cache: where patterns are kept.
            brief: follow equal rows for two steps instead of three, as a plan of many candidates does: the
                second has the optimizer's state and finds the first one's segments, the third repeats it.
            calibrations: corrections of the time by name of the profile.
        """
        self._calibrations = dict(calibrations or {})
        self._pool = TracePool(workers, seconds)
        self._cache = cache or PatternCache()
        self._brief = brief
        self._lock = threading.Lock()
        self._expansions: OrderedDict[str, Reshaper | AutopeftError] = OrderedDict()

    def __enter__(self) -> Self:
        """Return the cost model."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the tracing processes."""
        self.close()

    def close(self) -> None:
        """End the tracing processes; the next estimate that needs one starts it again."""
        self._pool.close()

    def warm_up(self) -> None:
        """Start the tracing processes, which import their libraries in the meantime."""
        self._pool.warm_up()

    def estimate(
        self,
        base: BaseModel,
        candidate: Candidate,
        workload: Workload,
        profile: HardwareProfile,
        loop: Loop = LOOPS["autopeft"],
    ) -> CostEstimate:
        """Cost one candidate.

        Raises:
            InputError: the candidate does not suit the model.
            UnsupportedError: it cannot be costed, and why.
        """
        (answer,) = self.estimate_many(base, [candidate], workload, profile, loop=loop)
        if isinstance(answer, AutopeftError):
            raise answer
        return answer

    def estimate_many(
        self,
        base: BaseModel,
        candidates: Sequence[Candidate],
        workload: Workload,
        profile: HardwareProfile,
        on_done: Callable[[int], None] | None = None,
        loop: Loop = LOOPS["autopeft"],
    ) -> list[CostEstimate | AutopeftError]:
        """Cost many candidates, in their order; each kind of them is traced once.

        Args:
            base: what is adapted.
            candidates: what to cost.
            workload: what they are trained on.
            profile: what they are trained with.
            on_done: told how many candidates are done, whenever there are more.
            loop: what happens around their steps.
        """
        answers: list[CostEstimate | AutopeftError | None] = [None] * len(candidates)
        waiting: _Waiting = {}
        for place, candidate in enumerate(candidates):
            run = run_for(base, candidate, workload, profile, loop, brief=self._brief)
            if isinstance(run, AutopeftError):
                answers[place] = run
            else:
                waiting.setdefault(run.request.key, (run.request, []))[1].append((place, run))
        waiting = self._resolved(waiting)

        def cost(made: Reshaper | AutopeftError, key: str) -> list[Placed]:
            found = _cost_all(made, waiting[key][1], candidates, workload, profile)
            return calibrated(found, self._calibrations.get(profile.name), profile)

        def take(found: Sequence[Placed]) -> None:
            for place, estimate in found:
                answers[place] = estimate
            if on_done is not None:
                on_done(sum(each is not None for each in answers))

        def cost_known(key: str) -> list[Placed] | None:
            made = self._known(key, waiting[key][0])
            return None if made is None else cost(made, key)

        missing: list[str] = []
        with ThreadPoolExecutor(_SIDE_BY_SIDE) as threads:
            running = {threads.submit(cost_known, key): key for key in waiting}
            for done in as_completed(running):
                found = done.result()
                if found is None:
                    missing.append(running[done])
                else:
                    take(found)
        missing.sort(key=list(waiting).index)
        for index, traced in self._pool.trace_many([waiting[key][0] for key in missing]):
            key = missing[index]
            request, places = waiting[key]
            if self._store(request, traced):
                self._exactly(places, base, candidates, workload, profile, loop, answers)
            else:
                take(cost(self._keep(key, traced), key))
        return [each for each in answers if each is not None]

    def trace_ahead(
        self,
        asked: Iterable[tuple[BaseModel, Candidate, Workload, HardwareProfile, Loop]],
        progress: Callable[[int, int], None],
    ) -> None:
        """Trace side by side what estimates of these will need and nobody has traced yet.

        Args:
            asked: candidates of any models, on any workloads, devices and loops.
            progress: told how many of how many traces are done.
        """
        runs = [run_for(*each) for each in asked]
        requests = [self._cache.resolve(run.request) for run in runs if isinstance(run, Run)]
        missing = {each.key: each for each in requests if self._known(each.key, each) is None}
        keys = list(missing)
        if keys:
            progress(0, len(keys))
        for done, (index, traced) in enumerate(self._pool.trace_many(list(missing.values())), 1):
            request = missing[keys[index]]
            if not self._store(request, traced):
                self._keep(request.key, traced)
            progress(done, len(keys))

    def _resolved(self, waiting: _Waiting) -> _Waiting:
        """Put runs of which it is known that no general pattern serves them under their exact requests."""
        resolved: _Waiting = {}
        for key, (request, places) in waiting.items():
            if key in self._expansions or self._cache.resolve(request) is request:
                resolved[key] = request, places
                continue
            for place, run in places:
                exact = run.request.exact
                resolved.setdefault(exact.key, (exact, []))[1].append((place, run))
        return resolved

    def _store(self, request: TraceRequest, traced: Pattern | AutopeftError) -> bool:
        """Put a pattern on disk; say whether it serves one shape only, though a general one was asked for."""
        if not isinstance(traced, Pattern):
            return False
        self._cache.put(request, traced)
        return request.general and not traced.general

    def _exactly(
        self,
        places: Sequence[tuple[int, Run]],
        base: BaseModel,
        candidates: Sequence[Candidate],
        workload: Workload,
        profile: HardwareProfile,
        loop: Loop,
        answers: list[CostEstimate | AutopeftError | None],
    ) -> None:
        """Cost candidates one shape at a time, now that it is known that no pattern serves them all."""
        some = [candidates[place] for place, _ in places]
        found = self.estimate_many(base, some, workload, profile, loop=loop)
        for (place, _), each in zip(places, found, strict=True):
            answers[place] = each

    def _known(self, key: str, request: TraceRequest) -> Reshaper | AutopeftError | None:
        """Return what a request's pattern expands to; None where it was never traced."""
        made = self._expansions.get(key)
        if made is not None:
            return made
        pattern = self._cache.get(request)
        return None if pattern is None else self._keep(key, pattern)

    def _keep(self, key: str, pattern: Pattern | AutopeftError) -> Reshaper | AutopeftError:
        """Expand a pattern, keep that, and let the oldest go."""
        made = Reshaper(Expansion(pattern)) if isinstance(pattern, Pattern) else pattern
        with self._lock:
            self._expansions[key] = made
            while len(self._expansions) > _EXPANSIONS:
                self._expansions.popitem(last=False)
        return made


def run_for(
    base: BaseModel,
    candidate: Candidate,
    workload: Workload,
    profile: HardwareProfile,
    loop: Loop,
    *,
    brief: bool = False,
) -> Run | AutopeftError:
    """Say what to trace for a candidate, or why it cannot be.

    Where lengths vary the second step has the mean padded length, which decides the time, and the last
    the longest row's, which decides the memory. A batch of equal rows has no padding. Where the number of
    operators depends on the number of tokens no general pattern is looked for.
    """
    training = candidate.training
    try:
        full = complete(candidate)
        require_support(full, base, workload.task)
    except (InputError, UnsupportedError) as error:
        return error
    if training.packing:
        workload = packed(workload, training.max_length)
    lengths = truncate(workload.lengths, training.max_length)
    longest = mean = lengths.longest
    if lengths.percentiles[0] != longest:
        mean = math.ceil(mean_padded_length(lengths, training.batch_size, workload.rows))
    padded = training.batch_size > 1 and lengths.percentiles[0] != longest
    request = TraceRequest(
        base=base,
        candidate=full,
        task=workload.task,
        labels=workload.labels,
        rows=training.batch_size,
        length=longest,
        target_length=truncate(workload.targets, training.max_length).longest if workload.targets else None,
        target=_target(profile),
        padded=padded and loop.rows_padded and not training.packing and training.attention != "flash",
        loop=loop,
        general=training.loss != "fused" and not loop.logits_chunk,
    )
    steps = _steps(lengths.percentiles[0], mean, longest, loop)
    return Run(request, steps[:2] if brief and mean == longest else steps)


def _steps(shortest: int, mean: int, longest: int, loop: Loop) -> tuple[int, ...]:
    """Return the lengths of the steps that stand for a run, of which the second decides the time."""
    if mean == longest:
        return (longest,) * 3
    if loop.sorts_batches:
        return (shortest, mean, shortest, longest)
    return (mean, mean, longest, mean, longest)


def _target(profile: HardwareProfile) -> Target:
    return "cpu" if profile.device == "cpu" else "cuda"


def _cost_all(
    made: Reshaper | AutopeftError,
    places: Sequence[tuple[int, Run]],
    candidates: Sequence[Candidate],
    workload: Workload,
    profile: HardwareProfile,
) -> list[Placed]:
    """Cost all runs that one pattern serves; those of equal shape once."""
    if isinstance(made, AutopeftError):
        return [(place, made) for place, _ in places]
    costed: dict[object, CostEstimate | AutopeftError] = {}
    found: list[Placed] = []
    for place, run in places:
        name = run.shape, candidates[place].training.epochs
        if name not in costed:
            costed[name] = cost_run(made, run, candidates[place], workload, profile)
        found.append((place, costed[name]))
    return found

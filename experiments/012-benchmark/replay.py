"""Replay: searches in simulated time on what `record.py` has recorded.

`simulate` runs autopeft's own `Search` with its own strategies; only the training is replaced, by looking the
curve up. Ray Tune's contender runs Ray's own `OptunaSearch` and `ASHAScheduler`, driven the same way.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from record import HERE, candidates, recorded

from autopeft.cost.estimate import CostEstimate, MemoryEstimate, MemoryParts, TimeEstimate
from autopeft.hardware.profile import HardwareProfile, Provenance
from autopeft.plan.budget import Budget
from autopeft.plan.plan import Fits, Plan
from autopeft.search.halving import Rungs
from autopeft.search.loop import Search
from autopeft.search.store import StudyStore
from autopeft.search.strategy import Decision, Strategy
from autopeft.search.study import Study
from autopeft.space.candidate import Candidate
from autopeft.space.reader import load_space
from autopeft.space.search_space import SearchSpace
from autopeft.train.result import Report
from autopeft.workload.dataset import Lengths, Metric, Workload

_NO_TIME = TimeEstimate(
    step_seconds=0,
    forward_seconds=0,
    backward_seconds=0,
    optimizer_seconds=0,
    lower_seconds=0,
    upper_seconds=0,
    low_seconds=0,
    high_seconds=0,
    evaluation_row_seconds=0,
    bound="compute",
)
ACCURACY = Metric(name="accuracy", direction="maximize")


@dataclass(frozen=True)
class Point:
    """An evaluation: rows seen, validation score, seconds since the one before."""

    samples: int
    score: float
    log_loss: float
    seconds: float


@dataclass(frozen=True)
class Recording:
    """One training."""

    points: tuple[Point, ...]
    test: float
    setup_seconds: float
    trained: int


@dataclass
class Table:
    """All recordings of a dataset, by candidate and seed."""

    dataset: str
    space: SearchSpace
    recordings: dict[tuple[str, int], Recording] = field(default_factory=dict)

    @property
    def rungs(self) -> Rungs:
        """When trainings were evaluated."""
        longest = max(self.recordings.values(), key=lambda each: len(each.points))
        return Rungs(samples=tuple(point.samples for point in longest.points))

    def candidates(self) -> list[Candidate]:
        """Return the candidates with a recording of seed 0."""
        return [each for each in candidates() if (each.key, 0) in self.recordings]


def load(dataset: str) -> Table:
    """Read a dataset's recordings; a failed training has the score 0 from where it failed."""
    table = Table(dataset, load_space(str(HERE / "space.yaml")))
    rows = {(key, seed): row for (name, key, seed), row in recorded().items() if name == dataset}
    every = sorted({point["samples"] for row in rows.values() for point in row["curve"]})
    for (key, seed), row in rows.items():
        points = [
            Point(point["samples"], point["score"], point["log_loss"], point["seconds"])
            for point in row["curve"]
        ]
        last = 0 if not points else points[-1].samples
        points += [Point(samples, 0.0, math.inf, 0.0) for samples in every if samples > last]
        if points:
            table.recordings[key, seed] = Recording(
                tuple(points), row.get("test", 0.0), row.get("setup_seconds", 0.0), row.get("trained", 0)
            )
    return table


@dataclass
class Trace:
    """What a simulated search did: after each piece the rows and seconds spent, and the best score so far.

    Attributes:
        best: highest final validation score of a whole training so far.   chosen: whose it was.
    """

    samples: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    best: list[float] = field(default_factory=list)
    chosen: str = ""

    def add(self, samples: int, seconds: float, done: tuple[float, str] | None) -> None:
        """Add a piece of training; `done` is its score and its candidate's key if the training ended."""
        so_far = self.best[-1] if self.best else -math.inf
        if done is not None and done[0] > so_far:
            so_far, self.chosen = done
        self.samples.append((self.samples[-1] if self.samples else 0) + samples)
        self.seconds.append(seconds)
        self.best.append(so_far)

    def until(self, score: float) -> tuple[float, float]:
        """Return the rows and seconds spent until a training ended with at least `score`; inf if none did."""
        for samples, seconds, best in zip(self.samples, self.seconds, self.best, strict=True):
            if best >= score:
                return samples, seconds
        return math.inf, math.inf


class Clock:
    """Simulated seconds."""

    now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def simulate(
    table: Table,
    strategy: Strategy,
    *,
    budget_samples: float = math.inf,
    baseline: Candidate | None = None,
    enough: float = math.inf,
    trace: Trace | None = None,
) -> tuple[Study, Trace]:
    """Run a search, one trial at a time.

    Args:
        baseline: trained to its end first.
        enough: validation score at which the simulation ends.
        trace: where to note what is done, for those who look at it meanwhile.
    """
    clock = Clock()
    trace = Trace() if trace is None else trace
    with tempfile.TemporaryDirectory(dir=_memory_disk()) as folder:
        store = StudyStore(Path(folder) / "study.sqlite")
        store.create(name="replay", metric=ACCURACY, seed=0, request="{}", plan=_plan())
        search = Search(
            *(store, strategy, lambda candidate: _admit(table, candidate), table.rungs, ACCURACY),
            baseline=baseline,
            clock=clock,
        )
        decision, trial = Decision.COMPLETE, None
        while not trace.samples or (trace.samples[-1] < budget_samples and trace.best[-1] < enough):
            if decision is not Decision.CONTINUE:
                trial = search.next_trial()
                if trial is None:
                    break
                clock.now += table.recordings[trial.candidate.key, trial.repetition].setup_seconds
            points = table.recordings[trial.candidate.key, trial.repetition].points
            following = search.remaining(trial.number)[0]
            place = [each.samples for each in points].index(following)
            clock.now += points[place].seconds
            decision = search.report(trial.number, _report(points[: place + 1]))
            over = decision is Decision.COMPLETE
            before = points[place - 1].samples if place else 0
            done = (points[place].score, trial.candidate.key) if over else None
            trace.add(points[place].samples - before, clock.now, done)
        study = search.finish()
        store.close()
    return study, trace


def _report(points: Sequence[Point]) -> Report:
    point = points[-1]
    return Report(
        samples=point.samples,
        step=point.samples,
        loss=None,
        score=point.score,
        seconds=sum(each.seconds for each in points),
        step_seconds=0.0,
        peak_bytes=0,
        extra={"log_loss": point.log_loss},
    )


def _admit(table: Table, candidate: Candidate) -> Fits:
    memory = MemoryEstimate(
        parts=MemoryParts(weights=1),
        allocated_peak_bytes=1,
        reserved_peak_bytes=1,
        device_peak_bytes=1,
        low_bytes=1,
        high_bytes=1,
        peak_phase="backward",
    )
    trained = table.recordings[candidate.key, 0].trained
    estimate = CostEstimate(
        memory=memory,
        time=_NO_TIME,
        trainable_params=trained,
        total_params=max(1, trained),
        adapter_file_bytes=4 * trained,
        provenance="replay",
    )
    return Fits(candidate=candidate, estimate=estimate)


def _plan() -> Plan:
    profile = HardwareProfile(
        name="replay",
        device="cpu",
        device_name="replay",
        total_bytes=10**9,
        usable_bytes=10**9,
        context_bytes=0,
        matmul_flops={"fp32": 1e9},
        bandwidth_bytes_per_second=1e9,
        dispatch_seconds=0,
        provenance=Provenance(kind="assumed", source="replay", date="2026-01-01"),
    )
    workload = Workload(task="classification", lengths=Lengths.constant(8))
    return Plan(
        *(),
        model="replay",
        space="replay",
        workload=workload,
        budget=Budget(),
        profile=profile,
        fits=(),
        rejected=(),
    )


def _memory_disk() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None

"""The prior: what published comparisons make one expect of a configuration; the numbers are in prior.yaml."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean, pstdev

from pydantic import Field

from autopeft.message import Message
from autopeft.plan.plan import Prior
from autopeft.space.candidate import Candidate
from autopeft.workload.base_model import Family

_FILE = Path(__file__).with_name("prior.yaml")


class Score(Message):
    """A published score of a method; rank and targets only where they were published."""

    method: str
    rank: int | None = None
    targets: str | None = None
    score: float = Field(ge=0, le=1)


class Benchmark(Message):
    """One published comparison of methods. `spread` is what a repeated run differs by."""

    name: str
    source: str
    families: tuple[Family, ...]
    spread: float
    scores: tuple[Score, ...]


class RankRule(Message):
    """Ranks between which the rank was published to make no difference beyond `spread`."""

    source: str
    methods: tuple[str, ...]
    low: int
    high: int
    spread: float


class Step(Message):
    """What moving from one placement to another changed: pairs of published scores."""

    start: str = Field(alias="from")
    to: str
    source: str
    pairs: tuple[tuple[float, float], ...]
    spread: float


class PlacementRule(Message):
    """Steps between placements, each in both directions."""

    methods: tuple[str, ...]
    steps: tuple[Step, ...]


class QuantizationRule(Message):
    """What a quantised base changed: pairs of published scores, 16-bit first."""

    schemes: tuple[str, ...]
    source: str
    pairs: tuple[tuple[float, float], ...]


class Published(Message):
    """The content of prior.yaml."""

    benchmarks: tuple[Benchmark, ...]
    rank: RankRule
    placement: PlacementRule
    quantization: tuple[QuantizationRule, ...]


@dataclass(frozen=True)
class _Part:
    """One published number of a prior, with its spread and where it comes from."""

    value: float
    spread: float
    words: str
    source: str


@cache
def published() -> Published:
    """Read the published numbers."""
    import yaml

    content = yaml.load(_FILE.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
    return Published.model_validate(content)


def prior_of(candidate: Candidate, family: Family) -> Prior | None:
    """Return what is published about a configuration on this kind of model; None where nothing is.

    Batch, checkpointing and the other training settings change no expectation.
    """
    if candidate.layers != "all":
        return None
    known = published()
    for benchmark in known.benchmarks:
        if family in benchmark.families:
            chains = ((score, _chain(score, candidate, benchmark, known)) for score in benchmark.scores)
            found = [(_distance(score, candidate, parts), parts) for score, parts in chains if parts]
            if found:
                return _sum(min(found, key=lambda each: each[0])[1], benchmark)
    return None


def _chain(score: Score, candidate: Candidate, benchmark: Benchmark, known: Published) -> list[_Part] | None:
    """Return the parts that lead from a published score to a candidate; None where one is missing."""
    if score.method != candidate.method:
        return None
    named = (score.method, f"r={score.rank}" if score.rank else "", score.targets or "")
    label = " ".join(filter(None, named))
    parts: list[_Part | None] = [
        _Part(score.score, benchmark.spread, f"{label} {score.score:.3f}", benchmark.source)
    ]
    if score.rank is not None and candidate.rank not in (None, score.rank):
        parts.append(_other_rank(score.rank, candidate, known.rank))
    if score.targets is not None and candidate.targets not in (None, score.targets):
        parts.append(_other_placement(score.targets, candidate, known.placement))
    if candidate.quantization != "none":
        parts.append(_other_quantization(candidate.quantization, known.quantization))
    complete = [part for part in parts if part is not None]
    return complete if len(complete) == len(parts) else None


def _other_rank(published_rank: int, candidate: Candidate, rule: RankRule) -> _Part | None:
    rank = candidate.rank or 0
    if candidate.method not in rule.methods or not rule.low <= min(rank, published_rank):
        return None
    if max(rank, published_rank) > rule.high:
        return None
    return _Part(0.0, rule.spread, f"r={rank} +0.000", rule.source)


def _other_placement(start: str, candidate: Candidate, rule: PlacementRule) -> _Part | None:
    """Walk the published steps from one placement to another."""
    if candidate.method not in rule.methods:
        return None
    moves: dict[str, list[tuple[str, float, Step]]] = {}
    for step in rule.steps:
        gain = fmean(after - before for before, after in step.pairs)
        moves.setdefault(step.start, []).append((step.to, gain, step))
        moves.setdefault(step.to, []).append((step.start, -gain, step))
    reached: dict[str, _Part] = {start: _Part(0.0, 0.0, "", "")}
    frontier = [start]
    while frontier:
        place = frontier.pop(0)
        for to, gain, step in moves.get(place, []):
            if to not in reached:
                before = reached[place]
                reached[to] = _Part(
                    before.value + gain,
                    math.hypot(before.spread, step.spread),
                    "",
                    "; ".join(filter(None, (before.source, step.source))),
                )
                frontier.append(to)
    found = reached.get(str(candidate.targets))
    if found is None:
        return None
    return _Part(found.value, found.spread, f"{candidate.targets} {found.value:+.3f}", found.source)


def _other_quantization(scheme: str, rules: tuple[QuantizationRule, ...]) -> _Part | None:
    for rule in rules:
        if scheme in rule.schemes:
            gains = [after - before for before, after in rule.pairs]
            return _Part(fmean(gains), pstdev(gains), f"{scheme} {fmean(gains):+.3f}", rule.source)
    return None


def _distance(score: Score, candidate: Candidate, parts: list[_Part]) -> tuple[float, float]:
    """Say how far a published score is from a candidate: what had to be added, then the rank."""
    octaves = abs(math.log2((candidate.rank or 1) / (score.rank or candidate.rank or 1)))
    return _variance(parts), octaves


def _variance(parts: list[_Part]) -> float:
    return sum(part.spread**2 for part in parts)


def _sum(parts: list[_Part], benchmark: Benchmark) -> Prior:
    return Prior(
        score=sum(part.value for part in parts),
        spread=math.sqrt(_variance(parts)),
        metric=benchmark.name,
        basis="; ".join(part.words for part in parts),
        sources=tuple(dict.fromkeys(part.source for part in parts)),
    )

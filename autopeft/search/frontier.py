"""Frontier: what an option would add to the front of score against a cost that is known beforehand.

A cost is the cost model's and never learnt by trial, so that only the score is uncertain and the expected
improvement of the hypervolume (Emmerich 2005; Couckuyt, Deschrijver and Dhaene 2014) has a plain form: over
each stretch of costs at which the front has one level, it is the width of the stretch times the expected
improvement of the score over this level.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from autopeft.cost.estimate import CostEstimate, Objective
from autopeft.plan.plan import Fits, Verdict
from autopeft.search.encoding import LENGTHS, Encoding
from autopeft.search.surrogate import Array, Belief, Curve, Prior, Surrogate, expected_improvement
from autopeft.space.candidate import Candidate

_BEYOND = 0.1
"""The reference point lies so far beyond what is known, in parts of the range of scores and costs."""
_ASKED = 4
"""So many of the most promising candidates at most are asked for their exact cost before one is chosen."""
_TUNED_EVERY = 8
_LEAST = 1e-12


class Frontier:
    """Weighs options by how much they are expected to add to the front.

    Costs count by their logarithms. What a candidate costs that was never asked about is interpolated from
    those that were, and asked for before it is chosen.

    Args:
        judge: the budget's verdict, which holds the cost model's estimate.
    """

    def __init__(
        self, objective: Objective, judge: Callable[[Candidate], Verdict], encoding: Encoding
    ) -> None:
        self._objective: Objective = objective
        self._judge = judge
        self._encoding = encoding
        self._between = Surrogate(encoding.groups, LENGTHS)
        self._known: dict[tuple[str, float], float] = {}
        self._asked: dict[str, Candidate] = {}
        self._fitted_to = 0

    def weigh(
        self,
        tried: Sequence[Candidate],
        worth: Sequence[float],
        options: Sequence[Candidate],
        belief: Belief,
        prices: Array,
    ) -> Array:
        """Return what each option is expected to add for its price; 0 for what the budget refuses.

        Args:
            tried, worth: those that make the front, and the score that each is believed to have.
            options, belief, prices: what may be done next, what it is believed to score, what it takes.
        """
        placed = [(self._exact(each), score) for each, score in zip(tried, worth, strict=True)]
        placed = [(cost, score) for cost, score in placed if math.isfinite(cost)]
        costs = self._guessed(options)
        guessed = {place for place, each in enumerate(options) if _place(each) not in self._known}
        for _ in range(_ASKED):
            best = int(np.argmax(front_improvement(belief, costs, placed) / prices))
            if best not in guessed:
                break
            costs[best] = self._exact(options[best])
            guessed.discard(best)
        costs[list(guessed)] = math.inf
        return np.asarray(front_improvement(belief, costs, placed) / prices)

    def know(self, candidate: Candidate, estimate: CostEstimate) -> None:
        """Take note of what a candidate costs that was tried, whatever the budget says of it today."""
        cost = estimate.amount(self._objective)
        if cost is not None:
            self._known[_place(candidate)] = math.log(max(cost, _LEAST))
            self._asked[candidate.key] = candidate

    def _exact(self, candidate: Candidate) -> float:
        """Return the logarithm of what a candidate costs; infinite where it is refused or cannot be told."""
        place = _place(candidate)
        if place not in self._known:
            verdict = self._judge(candidate)
            cost = verdict.estimate.amount(self._objective) if isinstance(verdict, Fits) else None
            self._known[place] = math.inf if cost is None else math.log(max(cost, _LEAST))
            if math.isfinite(self._known[place]):
                self._asked[candidate.key] = candidate
        return self._known[place]

    def _guessed(self, options: Sequence[Candidate]) -> Array:
        """Return the logarithm of each cost, interpolated where it was not asked for."""
        costs = np.array([self._known.get(_place(each), math.nan) for each in options])
        open_ones = np.flatnonzero(np.isnan(costs))
        if not len(open_ones):
            return costs
        if len(self._asked) < 2:
            costs[open_ones] = next(iter(self._known.values()), 0.0)
            return costs
        asked = list(self._asked.values())
        if len(asked) != self._fitted_to:
            features = self._encoding.features(asked)
            curves = [
                Curve(row, (1.0,), (self._exact(each),)) for row, each in zip(features, asked, strict=True)
            ]
            tune = (
                len(asked) < 2 * _TUNED_EVERY or len(asked) // _TUNED_EVERY > self._fitted_to // _TUNED_EVERY
            )
            self._between.fit(curves, prior=Prior.none(len(curves)), tune=tune)
            self._fitted_to = len(asked)
        unknown = self._encoding.features([options[int(place)] for place in open_ones])
        nobody = [None] * len(open_ones)
        costs[open_ones] = self._between.final(unknown, nobody, Prior.none(len(open_ones))).mean
        return costs


def front_improvement(belief: Belief, costs: Array, placed: Sequence[tuple[float, float]]) -> Array:
    """Return by how much each option is expected to enlarge the area under the front.

    Args:
        belief: of the options' scores.   costs: of the options, infinite for one that is out of the question.
        placed: cost and score of what makes the front.

    Returns:
        in units of the score: the area over the range of all costs, (options,).
    """
    every = [*(cost for cost, _ in placed), *costs[np.isfinite(costs)]]
    if not every:
        return np.zeros(len(costs))
    scores = [score for _, score in placed] or [float(belief.mean.min())]
    span = max(max(every) - min(every), _LEAST)
    # Where a single score is known, what it may be wrong by says how much worse still counts.
    slack = max(_BEYOND * (max(scores) - min(scores)), float(belief.sd.max()))
    starts, levels = [-math.inf], [min(scores) - slack]
    for cost, score in sorted(placed):
        if score > levels[-1]:
            starts.append(cost)
            levels.append(score)
    gain = np.zeros(len(costs))
    ends = [*starts[1:], max(every) + _BEYOND * span]
    for start, end, level in zip(starts, ends, levels, strict=True):
        width = np.maximum(0.0, end - np.maximum(costs, start)) / span
        gain += width * expected_improvement(belief, level)
    return gain


def _place(candidate: Candidate) -> tuple[str, float]:
    return candidate.footprint, candidate.training.epochs

"""Surrogate: what the curves seen so far say of every configuration's final score.

A Gaussian process over configuration and share of the training seen. A score is the sum of

- a mean for each share, as curves rise alike;
- a part that is smooth over configurations (the automatic relevance kernel of Rasmussen and Williams 2006,
  section 5.1, one length scale for each group of features) and over shares (Ornstein-Uhlenbeck in the
  logarithm of the share);
- a part of each configuration's own, which lasts over its shares: the luck of its start and what features
  miss;
- what was believed before, of which a part may be stronger, weaker or wrong: its factor is learnt, too
  (linear regression in a Gaussian process, Rasmussen and Williams 2006, section 2.7);
- noise.

The idea of freezing and thawing trainings by such a model is Swersky, Snoek and Adams 2014, arXiv:1406.3896.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_USUAL: tuple[float, ...] = (1.0, 0.5, 0.14, 0.37, 0.35)
"""Variances of the smooth part, of a configuration's own part and of the noise, in units of the scores'
variance; then how fast correlation decays with each doubling of the share: of the own part, of the smooth
part."""
_SPREAD: tuple[float, ...] = (0.7, 0.7, 0.7, 0.7, 0.5)
"""Standard deviations of the logarithms of these."""
_LENGTH_SD = 0.6
_ROUNDS = 25
_JITTER = 1e-6
_DOUBT = 0.5
"""Standard deviation of the factor by which what is doubted is too weak or too strong."""


@dataclass(frozen=True)
class Curve:
    """The scores of one configuration so far; higher is better.

    Attributes:
        features: what describes the configuration, (features,).
        shares: of the training, ascending in (0, 1].   scores: at these shares.
    """

    features: Array
    shares: tuple[float, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Prior:
    """What is believed of configurations before any is tried, in standard deviations of scores.

    Attributes:
        mean: (configurations,).   doubted: the part of it whose factor is learnt, (configurations,).
    """

    mean: Array
    doubted: Array

    @classmethod
    def none(cls, configurations: int) -> Prior:
        """Return the belief that all are equal."""
        return cls(np.zeros(configurations), np.zeros(configurations))


@dataclass(frozen=True)
class Belief:
    """Normal distributions of final scores, one for each configuration asked about.

    Attributes:
        mean: (configurations,).   sd: of what a configuration is worth, without noise, (configurations,).
    """

    mean: Array
    sd: Array


class Surrogate:
    """Predicts final scores; fitted anew whenever curves have grown.

    Args:
        groups: for each feature the index of its group; a group shares one length scale.
        lengths: usual length scale of each group.
    """

    def __init__(self, groups: Sequence[int], lengths: Sequence[float]) -> None:
        self._groups = np.asarray(groups)
        self._usual = np.log(np.concatenate((_USUAL, lengths)))
        self._spread = np.concatenate((_SPREAD, np.full(len(lengths), _LENGTH_SD)))
        self._theta = self._usual.copy()

    @property
    def spread(self) -> float:
        """Standard deviation of the scores fitted, after what the share explains."""
        return self._scale

    @property
    def ignorance(self) -> float:
        """Standard deviation of what is believed of a configuration that nothing is known of."""
        return self._scale * math.sqrt(float(np.exp(self._theta[:2]).sum()))

    def fit(self, curves: Sequence[Curve], *, prior: Prior, tune: bool) -> None:
        """Take in the curves.

        Args:
            prior: what is believed of each one's configuration untried.
            tune: also find the most probable length scales and variances; else keep the last ones.
        """
        self._curves = list(curves)
        self._x = np.concatenate([np.repeat(c.features[None], len(c.shares), 0) for c in curves])
        self._t = np.log2(np.concatenate([c.shares for c in curves]))
        self._owner = np.repeat(np.arange(len(curves)), [len(c.shares) for c in curves])
        scores = np.concatenate([c.scores for c in curves])
        self._centres = _centres(curves)
        raw = scores - self._centre_at(self._t)
        self._scale = max(float(raw.std()), 1e-6)
        self._y = raw / self._scale - prior.mean[self._owner]
        self._doubted = prior.doubted[self._owner]
        if tune:
            self._theta = self._most_probable()
        self._solve(self._theta)

    def final(self, features: Array, owners: Sequence[int | None], prior: Prior) -> Belief:
        """Predict the final scores of configurations.

        Args:
            features: (configurations, features).
            owners: index of each one's curve among those fitted, None for one that was never tried.
            prior: as in `fit`.
        """
        theta = np.exp(self._theta)
        smooth, own = theta[:2]
        across = smooth * self._alike(features, self._x, theta) * _decay(-self._t[None], theta[4])
        mine = np.asarray([-1 if each is None else each for each in owners])[:, None] == self._owner[None]
        across += own * mine * _decay(-self._t[None], theta[3])
        across += _DOUBT**2 * np.outer(prior.doubted, self._doubted)
        mean = across @ self._weights
        half = _solved(self._factor, across.T)
        before = smooth + own + (_DOUBT * prior.doubted) ** 2
        variance = np.maximum(before - (half**2).sum(0), 1e-6)
        centre = self._centre_at(np.zeros(1))[0]
        return Belief(
            mean=centre + self._scale * (mean + prior.mean),
            sd=self._scale * np.sqrt(variance),
        )

    def before(self, prior: Prior) -> Array:
        """Return the final scores that were believed before any curve, but for the usual one."""
        return np.asarray(self._centre_at(np.zeros(1))[0] + self._scale * prior.mean)

    def _solve(self, theta: Array) -> float:
        """Factorise the covariance and return the log of the evidence."""
        grown = np.exp(theta)
        smooth, own, noise = grown[:3]
        apart = np.abs(self._t[:, None] - self._t[None])
        covariance = smooth * self._alike(self._x, self._x, grown) * _decay(apart, grown[4])
        covariance += own * (self._owner[:, None] == self._owner[None]) * _decay(apart, grown[3])
        covariance += _DOUBT**2 * np.outer(self._doubted, self._doubted)
        covariance[np.diag_indices_from(covariance)] += noise + _JITTER
        self._factor = np.linalg.cholesky(covariance)
        half = _solved(self._factor, self._y)
        self._weights = _solved(self._factor.T, half, lower=False)
        return float(-0.5 * half @ half - np.log(np.diag(self._factor)).sum())

    def _most_probable(self) -> Array:
        """Return the parameters that best explain the scores and are not unusual."""
        from scipy.optimize import minimize

        def surprise(theta: Array) -> float:
            unusual = 0.5 * (((theta - self._usual) / self._spread) ** 2).sum()
            return float(unusual - self._solve(theta))

        bounds = [(m - 3 * s, m + 3 * s) for m, s in zip(self._usual, self._spread, strict=True)]
        found = minimize(
            surprise, self._theta, method="L-BFGS-B", bounds=bounds, options={"maxiter": _ROUNDS, "eps": 1e-3}
        )
        return np.asarray(found.x)

    def _alike(self, one: Array, other: Array, theta: Array) -> Array:
        scales = theta[5:][self._groups]
        a, b = one / scales, other / scales
        square = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
        return np.asarray(np.exp(-0.5 * np.maximum(square, 0)))

    def _centre_at(self, t: Array) -> Array:
        places = np.array(sorted(self._centres))
        return np.interp(t, places, [self._centres[place] for place in places])


def expected_improvement(belief: Belief, best: float) -> Array:
    """Return by how much each configuration is expected to surpass `best`, 0 where it does not.

    Mockus 1978; Jones, Schonlau and Welch 1998, equation 15.
    """
    from scipy.stats import norm

    z = (belief.mean - best) / belief.sd
    return np.asarray(belief.sd * (z * norm.cdf(z) + norm.pdf(z)))


def _solved(factor: Array, right: Array, *, lower: bool = True) -> Array:
    """Solve a triangular system of equations."""
    from scipy.linalg import solve_triangular

    return np.asarray(solve_triangular(factor, right, lower=lower, check_finite=False))


def _decay(apart: Array, pace: float) -> Array:
    """Return the correlation of scores so many doublings of the share apart."""
    return np.asarray(np.exp(-pace * np.abs(apart)))


def _centres(curves: Sequence[Curve]) -> dict[float, float]:
    """Return the usual score at the log2 of each share seen, and at the end.

    What reaches a late share was chosen for its early scores, so that the scores there flatter: only the
    gains of those that were seen at both shares are added up. Before anything has reached the end, half of
    the last gain is expected for each doubling.
    """
    shares = sorted({share for curve in curves for share in curve.shares})
    seen = [dict(zip(curve.shares, curve.scores, strict=True)) for curve in curves]
    usual = float(np.median([each[shares[0]] for each in seen if shares[0] in each]))
    centres = {math.log2(shares[0]): usual}
    gain = 0.0
    for before, after in itertools.pairwise(shares):
        gains = [each[after] - each[before] for each in seen if before in each and after in each]
        gain = float(np.median(gains)) if gains else gain / 2
        usual += gain
        centres[math.log2(after)] = usual
    if shares[-1] < 1:
        centres[0.0] = usual + max(gain, 0.0) / 2 * -math.log2(shares[-1])
    return centres

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from autopeft.search.surrogate import Belief, Curve, Prior, Surrogate, expected_improvement

SHARES = (0.25, 0.5, 1.0)


def curve(x: float, upto: int = 3, luck: float = 0.0) -> Curve:
    """A curve that rises to a top, which is highest at x = 1."""
    top = 0.9 - 0.2 * (x - 1) ** 2 + luck
    scores = tuple(top - 0.1 * (1 - share) for share in SHARES)
    return Curve(np.array([x]), SHARES[:upto], scores[:upto])


def fitted(curves: list[Curve]) -> Surrogate:
    model = Surrogate([0], [0.5])
    model.fit(curves, prior=Prior.none(len(curves)), tune=True)
    return model


def test_what_was_never_tried_is_predicted_from_its_neighbours() -> None:
    places = [0.0, 0.3, 0.6, 0.9, 1.4, 1.7, 2.0]
    model = fitted([curve(place) for place in places])
    asked = np.array([[1.1], [0.15]])
    belief = model.final(asked, [None, None], Prior.none(2))
    assert belief.mean == pytest.approx([0.898, 0.7555], abs=0.02)


def test_a_started_curve_says_more_of_its_own_end_than_its_neighbours_do() -> None:
    curves = [curve(place) for place in (0.0, 0.4, 0.8, 1.2, 1.6, 2.0)]
    model = fitted([*curves, curve(0.9, upto=1, luck=-0.15)])
    asked = np.array([[0.9], [0.9]])
    belief = model.final(asked, [6, None], Prior.none(2))
    assert belief.mean[0] < belief.mean[1] - 0.02
    assert belief.sd[0] < belief.sd[1]


def test_what_was_chosen_for_its_early_score_does_not_flatter_the_rest() -> None:
    """Only the best goes to the end: an unknown one is still expected to end near the usual gain."""
    rng = np.random.default_rng(0)
    starts = rng.normal(0.6, 0.05, 30)
    curves = [Curve(np.array([rng.normal()]), (0.25,), (float(start),)) for start in starts]
    best = int(starts.argmax())
    curves[best] = Curve(
        curves[best].features, SHARES, (starts[best], starts[best] + 0.05, starts[best] + 0.1)
    )
    model = fitted(curves)
    belief = model.final(np.array([[0.0]]), [None], Prior.none(1))
    assert belief.mean[0] == pytest.approx(0.7, abs=0.02)
    assert belief.mean[0] < curves[best].scores[-1] - 0.05


def test_a_belief_from_outside_moves_what_was_never_tried() -> None:
    model = fitted([curve(place) for place in (0.0, 0.5)])
    prior = Prior(np.array([-1.0, 1.0]), np.zeros(2))
    low, high = model.final(np.array([[9.0], [9.0]]), [None, None], prior).mean
    assert high - low == pytest.approx(2 * model.spread)


def test_expected_improvement_is_its_integral() -> None:
    belief = Belief(mean=np.array([0.7, 0.9]), sd=np.array([0.1, 0.02]))
    for value, mean, sd in zip(expected_improvement(belief, 0.8), belief.mean, belief.sd, strict=True):
        integral, _ = quad(
            lambda score, mean=mean, sd=sd: max(0.0, score - 0.8) * norm.pdf(score, mean, sd), 0.8, 1.6
        )
        assert value == pytest.approx(integral, rel=1e-3)


def test_two_equal_curves_are_no_trouble() -> None:
    model = fitted([curve(1.0), curve(1.0), curve(1.0)])
    belief = model.final(np.array([[1.0]]), [None], Prior.none(1))
    assert math.isfinite(belief.mean[0])
    assert belief.sd[0] > 0


@pytest.mark.parametrize("right", [True, False])
def test_how_far_a_doubted_belief_holds_is_learnt(right: bool) -> None:
    drawn = np.random.default_rng(0)
    places = drawn.uniform(0, 40, 12)
    told = np.sign(drawn.normal(size=12))
    curves = [
        Curve(np.array([place]), (1.0,), (float(each if right else -each),))
        for place, each in zip(places, told, strict=True)
    ]
    model = Surrogate([0], [0.5])
    model.fit(curves, prior=Prior(told, told), tune=False)
    far = np.array([[100.0], [100.0]])
    asked = np.array([-1.0, 1.0])
    low, high = model.final(far, [None, None], Prior(asked, asked)).mean
    if right:
        assert high - low > 1.5
    else:
        assert high - low < 0.5
    stubborn = model.final(far, [None, None], Prior(asked, np.zeros(2))).mean
    assert stubborn[1] - stubborn[0] > 1.5

from __future__ import annotations

import math

import pytest

from autopeft.methods.registry import METHODS
from autopeft.search.prior import (
    UNKNOWN_RATE,
    known,
    prior_good,
    prior_rate,
)
from autopeft.space.domain import Range
from autopeft.space.reader import load_space


def test_every_row_names_methods_that_exist_and_a_source_that_can_be_looked_up() -> None:
    for row in known().rates:
        assert set(row.methods) <= set(METHODS), row
        assert any(sign in row.source for sign in ("arXiv", "peft", "ours", "Regret", "rows")), row
    pairs = [(method, row.family) for row in known().rates for method in row.methods]
    assert len(pairs) == len(set(pairs))


def test_a_rate_is_that_of_the_family_and_vaguer_where_only_another_is_known() -> None:
    assert prior_rate("lora", "encoder") == (pytest.approx(math.log10(1.5e-3)), 0.4)
    assert prior_rate("lora", "speech") == (pytest.approx(math.log10(5e-4)), pytest.approx(0.7))
    assert prior_rate("hira", "decoder")[0] == pytest.approx(math.log10(4.5e-3))
    assert prior_rate("unheard-of", "encoder") == UNKNOWN_RATE


def test_loras_rate_is_about_ten_times_that_of_full_fine_tuning() -> None:
    for family in ("decoder", "encoder"):
        tenfold = prior_rate("lora", family)[0] - prior_rate("full", family)[0]
        assert 0.9 < tenfold < 1.4


@pytest.mark.parametrize("name", ["full", "quick", "vision"])
def test_the_shipped_ranges_hold_the_usual_rates(name: str) -> None:
    space = load_space(name)
    for domain in space.domains:
        if domain.field == "training.learning_rate" and isinstance(domain.allowed, Range):
            for method in domain.when["method"]:
                for family in space.families:
                    centre, spread = prior_rate(str(method), family)
                    low, high = math.log10(domain.allowed.low), math.log10(domain.allowed.high)
                    assert low - spread <= centre <= high + spread, (method, family)


def test_how_often_a_method_is_good() -> None:
    assert prior_good("lora", "encoder") > prior_good("prompt_tuning", "encoder")

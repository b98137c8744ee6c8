from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
from toy_training import ACCURACY, estimate_of, toy_plan

from autopeft.methods.registry import METHODS
from autopeft.search.prior import (
    UNKNOWN_RATE,
    known,
    past_results,
    prior_good,
    prior_rate,
)
from autopeft.search.store import StudyStore
from autopeft.search.study import Trial
from autopeft.space.candidate import Candidate
from autopeft.space.domain import Range
from autopeft.space.reader import load_space
from autopeft.train.result import Report
from autopeft.workload.dataset import Metric


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


def study(
    folder: Path, metric: Metric, baseline: dict[int, float] | None, others: list[dict[int, float]]
) -> None:
    folder.mkdir(parents=True)
    store = StudyStore(folder / "study.db")
    store.create(name=folder.name, metric=metric, seed=0, request="{}", plan=toy_plan())
    curves = ([("baseline", baseline)] if baseline else []) + [("candidate", each) for each in others]
    for number, (role, curve) in enumerate(curves):
        candidate = Candidate(method="lora", rank=number + 1)
        store.add_trial(
            Trial.model_validate(
                {"number": number, "role": role, "candidate": candidate, "state": "running"}
                | {"predicted": estimate_of(candidate)}
            )
        )
        for samples, score in curve.items():
            store.report(
                number,
                Report(samples=samples, step=1, loss=1, score=score, seconds=1, step_seconds=1, peak_bytes=1),
            )
        store.finish(number, "complete" if 40 in curve else "stopped")
    store.close()


def test_past_trials_are_told_by_their_lead_over_their_own_baseline(tmp_path: Path) -> None:
    study(tmp_path / "studies" / "a", ACCURACY, {10: 0.5, 40: 0.7}, [{10: 0.6}, {10: 0.5, 40: 0.65}, {}])
    loss = Metric(name="loss", direction="minimize")
    study(tmp_path / "studies" / "b", loss, {40: 2.0}, [{40: 1.5}, {20: 1.0}])
    study(tmp_path / "studies" / "c", ACCURACY, None, [{40: 0.9}])
    (tmp_path / "studies" / "d").mkdir()
    (tmp_path / "studies" / "d" / "study.db").write_text("no database")
    found = past_results(tmp_path, "classification")
    assert [(past.study, past.candidate.rank, round(past.lead, 6)) for past in found] == [
        ("a", 3, -0.05), ("b", 2, 0.5),
    ]  # fmt: skip
    assert past_results(tmp_path, "sft") == ()
    shutil.rmtree(tmp_path / "studies")
    assert past_results(tmp_path, "classification") == ()

"""Two results are compared row by row where they share their rows, and else as two separate scores."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest

from autopeft.errors import BundleError, InputError
from autopeft.export.bundle import Bundle, Evaluated
from autopeft.export.opening import checksums
from autopeft.journey.comparing import compare
from autopeft.plan.budget import Budget
from autopeft.report.intervals import wilson
from autopeft.space.candidate import Candidate
from autopeft.train.result import Report, TrialResult
from autopeft.workload.tasks import ACCURACY, F1, HELD_OUT_LOSS, RELATIVE_ERROR, Metric

REPORT = Report(
    samples=9, step=1, loss=0.5, score=0.5, seconds=7.0, step_seconds=0.1, peak_bytes=10**6, extra={}
)


def bundle(place: Path, rows: list[list[float]], *, metric: Metric = ACCURACY, test_rows: str = "same",
           method: str = "lora", model: str = "tiny") -> str:  # fmt: skip
    place.mkdir()
    mean = sum(row[0] for row in rows) / len(rows)
    low, high = wilson(round(mean * len(rows)), len(rows)) if metric == ACCURACY else (mean - 0.1, mean + 0.1)
    earned = Evaluated(trial=0, metric=metric, score=mean, low=low, high=high, rows=test_rows,
                       facts=tuple(tuple(row) for row in rows))  # fmt: skip
    earned.keep(place / "evaluation.json")
    Bundle(
        path=str(place),
        format="peft",
        model=model,
        task="classification",
        head="AutoModelForSequenceClassification",
        labels=("bad", "good"),
        candidate=Candidate(method=method),
        budget=Budget(),
        predicted=None,
        measured=TrialResult(state="complete", reports=(REPORT,)),
        metric=metric,
        test_score=mean,
        low=low,
        high=high,
        data="rows",
        data_fingerprint="0",
        seed=0,
        study=place.name,
        trial=0,
        versions={},
        files=checksums(place),
    ).keep(place / "autopeft.json")
    return str(place)


def answers(right: int, only: range) -> list[list[float]]:
    """Return 200 rows of which the first `right` and those of `only` are right."""
    return [[float(at < right or at in only), 0.1] for at in range(200)]


def test_the_same_rows_are_paired_and_the_test_is_mcnemar_s(tmp_path) -> None:
    one = bundle(tmp_path / "one", answers(150, range(150, 170)))
    other = bundle(tmp_path / "other", answers(150, range(195, 200)), method="ia3")
    found = compare(one, other, ".autopeft")
    assert found.paired
    assert (found.only_one, found.only_other) == (20, 5)
    assert found.difference == pytest.approx(15 / 200)
    # Twice the tail of 25 coins of which at most 5 show heads.
    assert found.p_value == pytest.approx(0.00407731, abs=1e-7)
    assert found.low > 0
    assert found.verdict.startswith(f"{one} is better, by 0.0750 in accuracy")
    assert found.differing["method"] == ("lora", "ia3")


def test_other_rows_are_not_paired_and_the_interval_is_wider(tmp_path) -> None:
    rows = answers(150, range(150, 170)), answers(150, range(195, 200))
    same = compare(bundle(tmp_path / "a", rows[0]), bundle(tmp_path / "b", rows[1]), ".autopeft")
    apart = compare(
        bundle(tmp_path / "c", rows[0]), bundle(tmp_path / "d", rows[1], test_rows="other"), ".autopeft"
    )
    assert not apart.paired
    assert "not paired" in apart.test
    assert apart.p_value is None
    assert apart.high - apart.low > same.high - same.low
    assert apart.verdict.startswith("No difference beyond noise")


def test_losses_are_compared_row_by_row_and_less_is_better(tmp_path) -> None:
    dice = random.Random(0)
    hard = [dice.uniform(0, 5) for _ in range(60)]
    one = bundle(tmp_path / "one", [[loss, 1.0] for loss in hard], metric=HELD_OUT_LOSS)
    better = [[loss - dice.uniform(0.0, 0.2), 1.0] for loss in hard]
    other = bundle(tmp_path / "other", better, metric=HELD_OUT_LOSS)
    found = compare(one, other, ".autopeft")
    assert 0 < found.low < found.difference < found.high < 0.2
    assert found.verdict.startswith(f"{other} is better")


@pytest.mark.parametrize("odd", [math.inf, math.nan])
def test_nobody_is_better_by_what_is_no_number(odd: float, tmp_path) -> None:
    one = bundle(tmp_path / "one", [[1.0, 1.0]] * 20, metric=HELD_OUT_LOSS)
    other = bundle(tmp_path / "other", [[odd, 1.0]] + [[1.0, 1.0]] * 19, metric=HELD_OUT_LOSS)
    assert compare(one, other, ".autopeft").verdict.startswith("No difference beyond noise")


def test_losses_of_different_models_have_no_verdict(tmp_path) -> None:
    one = bundle(tmp_path / "one", [[1.0, 1.0]] * 20, metric=HELD_OUT_LOSS)
    other = bundle(tmp_path / "other", [[2.0, 1.0]] * 20, metric=HELD_OUT_LOSS, model="other")
    assert compare(one, other, ".autopeft").verdict.startswith("No verdict: the losses are of tiny and other")


def errors(sizes: list[float], spread: float) -> list[list[float]]:
    """Return rows of a regression that are off by `sizes` where the training rows had a spread."""
    return [[size / spread, 10.0 + size, 10.0] for size in sizes]


@pytest.mark.parametrize("test_rows", ["same", "other"])
def test_errors_as_shares_of_different_numbers_are_compared_in_their_own_unit(test_rows, tmp_path) -> None:
    sizes = [1.0, 2.0, 3.0, 2.0] * 10
    one = bundle(tmp_path / "one", errors(sizes, 4.0), metric=RELATIVE_ERROR)
    worse = [size + 1 for size in sizes]
    other = bundle(tmp_path / "other", errors(worse, 40.0), metric=RELATIVE_ERROR, test_rows=test_rows)
    found = compare(one, other, ".autopeft")
    assert found.metric.name == "mean absolute error"
    assert (found.one.score, found.other.score) == pytest.approx((2.0, 3.0))
    assert found.difference == pytest.approx(-1.0)
    assert found.verdict.startswith(f"{one} is better, by 1.0000 in mean absolute error")


def test_errors_as_shares_of_one_number_stay_shares(tmp_path) -> None:
    one = bundle(tmp_path / "one", errors([1.0, 2.0] * 20, 4.0), metric=RELATIVE_ERROR)
    other = bundle(tmp_path / "other", errors([2.0, 4.0] * 20, 4.0), metric=RELATIVE_ERROR)
    assert compare(one, other, ".autopeft").metric == RELATIVE_ERROR


def test_f1_is_drawn_again_with_both_on_the_same_rows(tmp_path) -> None:
    one = bundle(tmp_path / "one", [[2.0, 2.0, 2.0]] * 30 + [[0.0, 1.0, 1.0]] * 10, metric=F1)
    other = bundle(tmp_path / "other", [[2.0, 2.0, 2.0]] * 20 + [[0.0, 1.0, 1.0]] * 20, metric=F1)
    found = compare(one, other, ".autopeft")
    assert found.difference == pytest.approx(120 / 140 - 80 / 120)
    assert found.low < found.difference < found.high


def test_another_metric_or_a_harmed_bundle_is_refused(tmp_path) -> None:
    one = bundle(tmp_path / "one", answers(150, range(0)))
    other = bundle(tmp_path / "other", answers(150, range(0)), metric=HELD_OUT_LOSS)
    with pytest.raises(InputError, match="the same metric"):
        compare(one, other, ".autopeft")
    (Path(one) / "evaluation.json").write_text("{}")
    with pytest.raises(BundleError, match=r"evaluation\.json has another checksum"):
        compare(one, one, ".autopeft")


def test_the_command_shows_both_and_prints_json(tmp_path, capfd) -> None:
    from autopeft.cli.app import main

    one = bundle(tmp_path / "one", answers(150, range(150, 170)))
    other = bundle(tmp_path / "other", answers(150, range(195, 200)), method="ia3")
    for flags in (["--json"], []):
        with pytest.raises(SystemExit) as left:
            main(["compare", one, other, *flags])
        assert left.value.code == 0
    printed = capfd.readouterr().out
    document, _, text = printed.partition("\n}\n")
    assert json.loads(document + "}")["paired"] is True
    assert "Only A has 20 rows right, only B 5; p = 0.00408 of no difference." in text


def test_comparing_and_describing_data_load_no_torch() -> None:
    code = (
        "import sys, autopeft.journey.comparing, autopeft.journey.conclusion\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

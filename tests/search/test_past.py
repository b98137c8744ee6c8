from __future__ import annotations

import math
import os
from pathlib import Path

from toy_training import ACCURACY, estimate_of, toy_plan

from autopeft.search.past import leads, past_studies
from autopeft.search.store import StudyStore
from autopeft.search.study import Trial
from autopeft.space.candidate import Candidate
from autopeft.train.result import Report
from autopeft.workload.dataset import Metric


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
    found = leads(past_studies(tmp_path, "classification", "encoder"))
    assert [(each.study.name, each.candidate.rank, round(each.lead, 6)) for each in found] == [
        ("a", 3, -0.05), ("b", 2, 0.5),
    ]  # fmt: skip
    assert past_studies(tmp_path, "sft", "encoder") == ()
    assert past_studies(tmp_path / "nowhere", "classification", "encoder") == ()


def test_curves_are_told_in_shares_of_the_training_and_more_is_better(tmp_path: Path) -> None:
    loss = Metric(name="loss", direction="minimize")
    study(tmp_path / "studies" / "a", loss, {10: 3.0, 40: 2.0}, [{10: 1.5, 20: 1.0}, {}])
    (found,) = past_studies(tmp_path, "classification", "encoder")
    assert [each.curve for each in found.trainings] == [
        ((0.25, -3.0), (1.0, -2.0)),
        ((0.25, -1.5), (0.5, -1.0)),
    ]


def test_a_study_in_which_nothing_was_trained_to_its_end_tells_nothing(tmp_path: Path) -> None:
    study(tmp_path / "studies" / "a", ACCURACY, None, [{10: 0.5}, {20: 0.6}])
    assert past_studies(tmp_path, "classification", "encoder") == ()


def test_the_study_that_asks_is_left_out_and_the_latest_are_remembered(tmp_path: Path) -> None:
    for number, name in enumerate("cab"):
        study(tmp_path / "studies" / name, ACCURACY, {40: 0.5}, [])
        os.utime(tmp_path / "studies" / name / "study.db", (number, number))
    assert [each.name for each in past_studies(tmp_path, "classification", "encoder")] == ["c", "a", "b"]
    assert [each.name for each in past_studies(tmp_path, "classification", "encoder", but="a")] == ["c", "b"]
    assert [each.name for each in past_studies(tmp_path, "classification", "encoder", most=2)] == ["a", "b"]


def test_what_diverged_counts_as_the_worst_that_got_as_far(tmp_path: Path) -> None:
    study(tmp_path / "studies" / "a", ACCURACY, {10: 0.6, 40: 0.7}, [{10: 0.5, 40: 0.6}, {10: math.nan}])
    (found,) = past_studies(tmp_path, "classification", "encoder")
    assert found.trainings[-1].candidate.rank == 3
    assert found.trainings[-1].curve == ((0.25, 0.5),)


def test_studies_of_another_family_are_left_out(tmp_path: Path) -> None:
    study(tmp_path / "studies" / "a", ACCURACY, {40: 0.7}, [])
    assert past_studies(tmp_path, "classification", "vision") == ()

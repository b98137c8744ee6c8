from __future__ import annotations

from autopeft.report.facts import StudyFacts
from autopeft.report.points import curves, memory_parts, memory_points, noise, trade_offs


def test_every_trial_with_a_report_has_a_curve(facts: StudyFacts) -> None:
    assert [curve.number for curve in curves(facts.study)] == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert curves(facts.study)[3].scores == (0.77, 0.815, 0.836, 0.842)


def test_a_score_that_is_no_number_is_no_point_of_a_curve(facts: StudyFacts) -> None:
    trial = facts.study.trials[3]
    first, *others = trial.result.reports
    none = [each.model_copy(update={"score": float("nan")}) for each in others]
    for reports, scores in (((first, *none), [(first.score,)]), (none, [])):
        result = trial.result.model_copy(update={"reports": tuple(reports)})
        study = facts.study.model_copy(update={"trials": (trial.model_copy(update={"result": result}),)})
        assert [curve.scores for curve in curves(study)] == scores


def test_the_front_holds_what_no_smaller_trial_reaches(facts: StudyFacts) -> None:
    front = [point.number for point in trade_offs(facts.study) if point.front]
    assert front == [3, 6, 8]


def test_stopped_trials_are_never_on_the_front(facts: StudyFacts) -> None:
    assert all(point.state == "complete" for point in trade_offs(facts.study) if point.front)


def test_memory_points_know_whether_the_band_held(facts: StudyFacts) -> None:
    points = memory_points(facts)
    assert len(points) == 9
    assert [point.number for point in points if not point.inside] == [6]
    assert [point.number for point in points if point.whole] == [0, 1, 3, 6, 8]


def test_off_the_cpu_the_context_is_left_out_of_the_prediction(facts: StudyFacts) -> None:
    profile = facts.plan.profile.model_copy(update={"device": "cuda"})
    shifted = facts.model_copy(update={"plan": facts.plan.model_copy(update={"profile": profile})})
    best = facts.study.best
    assert best is not None
    assert best.predicted is not None
    there = memory_points(shifted)[3]
    assert there.predicted == best.predicted.memory.reserved_peak_bytes
    assert memory_points(facts)[3].predicted == best.predicted.memory.device_peak_bytes


def test_memory_parts_sum_to_the_device_peak(facts: StudyFacts) -> None:
    best = facts.study.best
    assert best is not None
    assert best.predicted is not None
    assert sum(memory_parts(best).values()) == best.predicted.memory.device_peak_bytes


def test_noise_is_the_interval_of_the_best_validation_score(facts: StudyFacts, fruitless: StudyFacts) -> None:
    band = noise(facts)
    assert band is not None
    assert band[0] < 0.842 < band[1]
    assert noise(fruitless) is None

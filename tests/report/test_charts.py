from __future__ import annotations

import math
from typing import get_args

import pytest

from autopeft.cost.estimate import Objective
from autopeft.report.charts import charts
from autopeft.report.costs import COSTS
from autopeft.report.facts import StudyFacts
from autopeft.report.figure import Chart
from autopeft.report.points import trade_offs
from autopeft.report.reasons import reasons
from autopeft.search.study import Trial
from autopeft.units import MIB


def test_a_full_study_has_every_chart_with_a_finding(facts: StudyFacts) -> None:
    drawn = charts(facts)
    assert [chart.name for chart in drawn] == ["learning", "trade-off", "memory", "parts", "stages"]
    assert all(chart.title and chart.finding.endswith(".") for chart in drawn)


def test_a_study_without_a_complete_trial_draws_what_it_has(fruitless: StudyFacts) -> None:
    assert [chart.name for chart in charts(fruitless)] == ["memory", "stages"]


@pytest.mark.parametrize("objective", get_args(Objective))
def test_a_search_for_a_front_draws_and_lists_it(facts: StudyFacts, objective: Objective) -> None:
    study = facts.study.model_copy(update={"front_of": objective})
    drawn = next(c for c in charts(facts.model_copy(update={"study": study})) if c.name == "trade-off")
    assert drawn.figure.layout.xaxis.title.text == COSTS[objective].axis
    said = reasons(study=study, plan=facts.plan, data=facts.data, scores=facts.scores)
    [line] = [each for each in said if each.startswith("The front of")]
    front = study.front(objective)
    assert [line.index(trial.candidate.label) for trial in front] == sorted(
        line.index(trial.candidate.label) for trial in front
    )


def test_a_thousand_trials_share_a_handful_of_traces(thousand: StudyFacts) -> None:
    assert all(len(chart.figure.data) <= 8 for chart in charts(thousand))


def test_hover_texts_hold_no_markup(facts: StudyFacts) -> None:
    hostile = facts.study.trials[3].candidate.model_copy(update={"targets": "<a href='x'>y</a>"})
    trial = facts.study.trials[3].model_copy(update={"candidate": hostile})
    study = facts.study.model_copy(update={"trials": (trial,)})
    learning = charts(facts.model_copy(update={"study": study}))[0]
    assert all("<a" not in text for trace in learning.figure.data for text in trace.text)


def chart_of(facts: StudyFacts, name: str) -> Chart:
    return next(chart for chart in charts(facts) if chart.name == name)


def shown(chart: Chart) -> set[str]:
    """Return the names in a chart's legend."""
    return {trace.name for trace in chart.figure.data if trace.showlegend is not False}


def of_trials(facts: StudyFacts, *trials: Trial) -> StudyFacts:
    return facts.model_copy(update={"study": facts.study.model_copy(update={"trials": trials})})


def seen_once(trial: Trial) -> Trial:
    """Return a trial that was stopped after its first evaluation."""
    assert trial.result is not None
    result = trial.result.model_copy(update={"state": "stopped", "reports": trial.result.reports[:1]})
    return trial.model_copy(update={"state": "stopped", "result": result})


def test_only_peaks_of_whole_trainings_are_held_against_the_band(facts: StudyFacts) -> None:
    memory = chart_of(facts, "memory")
    assert memory.finding.startswith("Measured inside the predicted 90 % band: 4 of 5 trained to the end;")
    assert memory.finding.endswith(
        "Hollow: 4 not trained to the end, whose peak is only that of the rows they saw."
    )
    drawn = {trace.name: len(trace.x) for trace in memory.figure.data[1:]}
    assert drawn == {"not trained to the end": 4, "inside the 90 % band": 4, "outside": 1}


def test_the_errors_of_a_prediction_do_not_count_what_was_cut_short(facts: StudyFacts) -> None:
    whole = [trial for trial in facts.study.trials if trial.state == "complete"]
    alone = chart_of(of_trials(facts, *whole), "memory").finding
    assert "Hollow" not in alone
    assert chart_of(facts, "memory").finding.startswith(alone)


def test_peaks_of_parts_alone_judge_no_prediction(fruitless: StudyFacts) -> None:
    memory = chart_of(fruitless, "memory")
    assert memory.finding.startswith("No trial was trained to the end, so that no prediction can be judged.")
    assert shown(memory) == {"exact", "not trained to the end"}


def test_the_bars_of_memory_sum_to_the_peak_however_many_parts_it_has(many_parts: StudyFacts) -> None:
    best = many_parts.study.best
    assert best is not None
    assert best.predicted is not None
    chart = chart_of(many_parts, "parts")
    assert len({trace.marker.color for trace in chart.figure.data}) == len(chart.figure.data) == 12
    drawn = sum(trace.x[0] for trace in chart.figure.data) * MIB
    assert drawn == pytest.approx(best.predicted.memory.device_peak_bytes)


def test_a_front_of_one_is_named_once_and_has_no_line(facts: StudyFacts) -> None:
    one = chart_of(of_trials(facts, facts.study.trials[0]), "trade-off")
    assert one.finding.count(facts.study.trials[0].label) == 1
    assert "front" not in shown(one)
    assert "front" in shown(chart_of(facts, "trade-off"))


def test_a_training_with_one_score_is_a_dot_and_said_to_be_one(facts: StudyFacts) -> None:
    whole, *rest = facts.study.trials
    learning = chart_of(of_trials(facts, whole, seen_once(rest[0]), seen_once(rest[2])), "learning")
    assert learning.finding.startswith(
        "3 with a score, 2 of them not trained to the end; 2 scored only once, each a dot."
    )
    [dots] = [trace for trace in learning.figure.data if trace.name == "not trained to the end"]
    [curve] = [trace for trace in learning.figure.data if trace.name == "winner"]
    assert min(dots.marker.size) > max(curve.marker.size)


def test_a_training_whose_scores_are_no_numbers_counts_among_no_curves(facts: StudyFacts) -> None:
    whole, lost = facts.study.trials[0], facts.study.trials[7]
    assert lost.result is not None
    nothing = tuple(report.model_copy(update={"score": math.nan}) for report in lost.result.reports)
    lost = lost.model_copy(update={"result": lost.result.model_copy(update={"reports": nothing})})
    learning = chart_of(of_trials(facts, whole, lost), "learning")
    assert learning.finding.startswith("1 with a score, all trained to the end.")


def test_the_curves_of_a_thousand_trials_are_all_there_but_only_two_answer_the_mouse(
    thousand: StudyFacts,
) -> None:
    learning = charts(thousand)[0].figure.data
    drawn = [score for trace in learning for score in trace.y if score is not None]
    reports = [one.score for trial in thousand.study.trials if trial.result for one in trial.result.reports]
    assert sorted(drawn) == sorted(reports)
    answering = {trace.name for trace in learning if trace.hoverinfo != "skip"}
    assert answering == {"default", "winner"}


def test_among_many_curves_those_of_one_point_are_dots(thousand: StudyFacts) -> None:
    trials = tuple(
        trial.model_copy(
            update={"result": trial.result.model_copy(update={"reports": trial.result.reports[:1]})}
        )
        if trial.result and trial.state == "stopped"
        else trial
        for trial in thousand.study.trials
    )
    few = thousand.model_copy(update={"study": thousand.study.model_copy(update={"trials": trials})})
    [stopped] = [trace for trace in charts(few)[0].figure.data if trace.name == "not trained to the end"]
    assert stopped.mode == "markers"
    assert stopped.showlegend
    assert len(stopped.x) == sum(trial.state == "stopped" for trial in trials)


def test_an_axis_of_sizes_has_marks_among_the_sizes_that_are_drawn(facts: StudyFacts) -> None:
    chart = next(chart for chart in charts(facts) if chart.name == "trade-off")
    axis = chart.figure.layout.xaxis
    sizes = [point.cost for point in trade_offs(facts.study)]
    among = [mark for mark in axis.tickvals if min(sizes) <= mark <= max(sizes)]
    assert among
    assert len(axis.ticktext) == len(axis.tickvals)

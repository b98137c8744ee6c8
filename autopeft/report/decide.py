"""Word the decision of a study: what to use, and how sure that is. Pure functions of messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from autopeft.plan.plan import Plan
from autopeft.report.facts import Compared, DataFacts, TestScore
from autopeft.report.leads import (
    DEFAULT,
    WINNER,
    contender_of,
    distance_text,
    in_a_row,
    lead,
    score_text,
    with_article,
)
from autopeft.search.study import Study, Trial
from autopeft.units import format_bound, format_bytes
from autopeft.workload.dataset import Metric


def decision(
    *,
    study: Study,
    plan: Plan,
    data: DataFacts,
    scores: Sequence[TestScore],
    comparisons: Sequence[Compared] = (),
) -> str:
    """Say in a sentence what to use.

    Args:
        study: the finished search.   plan: what it searched under.   data: its rows.
        scores: the winner first, then the baselines; empty where nothing was trained to the end.
        comparisons: predictions beside measurements of the winner.
    """
    winner, best = contender_of(scores, WINNER), study.best
    if winner is None or best is None:
        return _nothing(study, plan)
    metric, rows = data.metric, data.rows.get("test", 0)
    others = [score for score in scores if score.contender != WINNER]
    stronger = [score for score in others if lead(winner, score, metric).judgement == "worse"]
    if stronger:
        return _overruled(winner, stronger, metric, rows)
    if study.is_default(best):
        compared = any(each.state == "complete" and not study.is_default(each) for each in study.trials)
        said = "did better on the validation rows" if compared else "was trained to the end"
        head = f"Keep the default, {winner.label}: nothing else {said}"
        others = [score for score in others if score.contender != DEFAULT]
    else:
        head = f"Use {winner.label}"
    shown = f"{metric.name} {score_text(winner)} on {rows:,} test rows"
    clauses = [_against(winner, score, metric) for score in others]
    sentence = f"{head}: {', '.join([shown, in_a_row(clauses)]) if clauses else shown}"
    return f"{sentence}{_memory(plan, best, comparisons)}."


def is_peak_memory(compared: Compared) -> bool:
    """Whether a comparison is about what the memory budget limits."""
    return compared.unit == "bytes" and compared.quantity.startswith("peak memory")


def unseen_bytes(plan: Plan) -> int:
    """Return what a trial's measured peak leaves out of what the budget limits: the context of a GPU."""
    return 0 if plan.profile.device == "cpu" else plan.profile.context_bytes


def _against(winner: TestScore, other: TestScore, metric: Metric) -> str:
    found = lead(winner, other, metric)
    note = " (within noise)" if found.judgement == "within noise" else ""
    return f"{distance_text(found.difference, metric)} {with_article(other.contender)}{note}"


def _overruled(winner: TestScore, stronger: Sequence[TestScore], metric: Metric, rows: int) -> str:
    top = stronger[0]
    for score in stronger[1:]:
        top = score if metric.better(score.test_score, top.test_score) else top
    difference = -lead(winner, top, metric).difference
    head = f"Prefer {with_article(top.contender)}"
    if top.label and top.label != top.contender:
        head += f" ({top.label})"
    return (
        f"{head}: {metric.name} {score_text(top)} on {rows:,} test rows, {distance_text(difference, metric)} "
        f"the search's winner, {winner.label} ({score_text(winner)})."
    )


def _memory(plan: Plan, best: Trial, comparisons: Sequence[Compared]) -> str:
    limit = plan.budget.gpu_mem
    if limit is None:
        return ""
    measured = [compared.measured for compared in comparisons if is_peak_memory(compared)]
    peak = measured[0] if measured else best.result.peak_bytes if best.result else 0
    if not peak:
        return ""
    peak += unseen_bytes(plan)
    if peak > limit:
        return f"; but it peaked at {format_bytes(peak)}, over the {format_bound(limit)} allowed"
    return (
        f"; it peaked at {format_bytes(peak)} of the {format_bound(limit)} allowed, "
        f"{format_bytes(limit - peak)} to spare"
    )


def _nothing(study: Study, plan: Plan) -> str:
    started = [trial for trial in study.trials if trial.state != "rejected"]
    if started:
        why = [trial.reason or (trial.result.reason if trial.result else "") for trial in started]
        said = f"Nothing to recommend: no trial was trained to the end ({len(started):,} started)"
    else:
        why = [trial.reason for trial in study.trials] + [refused.reason for refused in plan.rejected]
        said = "Nothing was trained: no configuration was allowed to start"
    common = Counter(filter(None, why)).most_common(1)
    return f"{said}; most often because: {common[0][0].rstrip('.')}." if common else f"{said}."

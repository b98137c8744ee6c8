"""What the tables of a report show, row by row, ready for the template."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from autopeft.report.decide import is_peak_memory, unseen_bytes
from autopeft.report.facts import Compared, StudyFacts
from autopeft.report.leads import WINNER, Judgement, difference_text, lead, percent
from autopeft.report.timing import timing
from autopeft.search.study import Trial
from autopeft.units import format_bound, format_bytes, format_count, format_seconds

_VERDICTS: dict[Judgement, tuple[str, str]] = {
    "better": ("beyond noise", "ahead"),
    "within noise": ("within noise", "noise"),
    "worse": ("behind", "behind"),
}


class ScoreRow(NamedTuple):
    """One contender; positions are percentages along the shared scale."""

    contender: str
    label: str
    winner: bool
    score: str
    interval: str
    ahead: str
    judgement: str
    mood: str
    params: str
    left: float
    right: float
    dot: float


class Scale(NamedTuple):
    """The ends of the scale that the intervals share."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """Return where a value lies, in percent of the scale."""
        return round(100 * min(1.0, max(0.0, (value - self.low) / (self.high - self.low))), 2)


class BudgetRow(NamedTuple):
    """One quantity: what was allowed, predicted and measured; positions in percent, None where unknown."""

    quantity: str
    budget: str
    predicted: str
    measured: str
    note: str
    over: bool
    limit: float | None = None
    low: float | None = None
    expected: float | None = None
    high: float | None = None
    seen: float | None = None


class TrialRow(NamedTuple):
    """One trial, each cell as text; `order` holds what the columns sort by."""

    number: int
    label: str
    kind: str
    state: str
    score: str
    params: str
    predicted: str
    measured: str
    seconds: str
    reason: str
    order: tuple[float, ...]


class Refused(NamedTuple):
    """Configurations that the plan refused for the same reason."""

    reason: str
    way_out: str
    labels: tuple[str, ...]


def score_scale(facts: StudyFacts) -> Scale:
    """Return a scale that holds every finite interval with a little room on both sides."""
    ends = [end for score in facts.scores for end in (score.low, score.high, score.test_score)]
    ends = [end for end in ends if math.isfinite(end)]
    if not ends:
        return Scale(0.0, 1.0)
    room = 0.08 * (max(ends) - min(ends)) or 0.05
    return Scale(min(ends) - room, max(ends) + room)


def score_rows(facts: StudyFacts) -> tuple[ScoreRow, ...]:
    """Return the contenders on the test rows, the winner first."""
    scale, rows = score_scale(facts), []
    sign = 1 if facts.data.metric.direction == "maximize" else -1
    winner = next((score for score in facts.scores if score.contender == WINNER), None)
    for score in facts.scores:
        first = score is winner
        found = lead(winner, score, facts.data.metric) if winner and not first else None
        rows.append(
            ScoreRow(
                contender=score.contender,
                label=score.label,
                winner=first,
                score=f"{score.test_score:.3f}",
                interval=f"{score.low:.3f} to {score.high:.3f}",
                ahead=difference_text(sign * found.difference, facts.data.metric) if found else "",
                judgement=_VERDICTS[found.judgement][0] if found else "",
                mood=_VERDICTS[found.judgement][1] if found else "",
                params="" if score.trainable_params is None else format_count(score.trainable_params),
                left=scale.at(score.low),
                right=100 - scale.at(score.high),
                dot=scale.at(score.test_score),
            )
        )
    return tuple(rows)


def budget_rows(facts: StudyFacts) -> tuple[BudgetRow, ...]:
    """Return what was allowed beside what was predicted and measured, memory first."""
    budget, best = facts.plan.budget, facts.study.best
    rows = [_compared(compared, budget.gpu_mem, unseen_bytes(facts.plan)) for compared in facts.comparisons]
    spent = timing(budget.time, facts.study.seconds, facts.session)
    if spent is not None:
        scale = Scale(0.0, 1.1 * max(spent.allowed, spent.seconds, 1.0))
        rows.append(
            BudgetRow(
                spent.what, format_seconds(spent.allowed), "", format_seconds(spent.seconds), spent.note,
                over=spent.over, limit=scale.at(spent.allowed), seen=scale.at(spent.seconds),
            )
        )  # fmt: skip
    tried = sum(
        trial.state != "rejected" and trial.role == "candidate" and not trial.repetition
        for trial in facts.study.trials
    )
    if budget.trials is not None:
        over = tried > budget.trials
        rows.append(BudgetRow("candidates tried", f"{budget.trials:,}", "", f"{tried:,}", "", over=over))
    if budget.params is not None and best and best.predicted and best.predicted.total_params:
        share = best.predicted.trainable_params / best.predicted.total_params
        rows.append(
            BudgetRow(
                "trained share of parameters", percent(budget.params, 2), percent(share, 2), "", "",
                over=share > budget.params,
            )
        )  # fmt: skip
    return tuple(rows)


def bars_legend(rows: Sequence[BudgetRow]) -> str:
    """Say what the signs in the bars of a budget's rows mean, of those that are drawn."""
    drawn = [row for row in rows if row.seen is not None]
    signs = {
        "Blue: measured.": any(not row.over for row in drawn),
        "Red: measured, over budget.": any(row.over for row in drawn),
        "Tick: predicted, on its band.": any(row.expected is not None for row in drawn),
        "Red line: budget.": any(row.limit is not None for row in drawn),
    }
    return " ".join(words for words, there in signs.items() if there)


def trial_rows(facts: StudyFacts) -> tuple[TrialRow, ...]:
    """Return every trial of the study, rejected ones included, in the order of proposal."""
    best = facts.study.best
    return tuple(_trial(trial, best, facts.plan.profile.device) for trial in facts.study.trials)


def refused(facts: StudyFacts) -> tuple[Refused, ...]:
    """Return what the plan refused, grouped by reason, the largest group first."""
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for one in facts.plan.rejected:
        groups[one.reason, one.way_out].append(one.candidate.label)
    ranked = sorted(groups.items(), key=lambda group: -len(group[1]))
    return tuple(Refused(reason, way_out, tuple(labels)) for (reason, way_out), labels in ranked)


def _compared(compared: Compared, memory: int | None, context: int) -> BudgetRow:
    shown = format_bytes if compared.unit == "bytes" else format_seconds
    limit = memory - context if memory is not None and is_peak_memory(compared) else None
    allowed = "" if limit is None or memory is None else format_bound(memory)
    if allowed and context:
        allowed += f", {format_bytes(context)} of it context"
    known = (limit, compared.low, compared.predicted, compared.high, compared.measured)
    most = max(value for value in known if value is not None)
    scale = Scale(0.0, 1.1 * most if most > 0 else 1.0)
    band, note = "", ""
    if compared.low is not None and compared.high is not None:
        inside = compared.low <= compared.measured <= compared.high
        band = f" ({shown(compared.low)} to {shown(compared.high)})"
        note = "inside the 90 % band" if inside else "outside the 90 % band"
    elif compared.predicted:
        note = percent(compared.measured / compared.predicted - 1, sign=True)
    places = (None if value is None else scale.at(value) for value in known)
    return BudgetRow(
        compared.quantity,
        allowed,
        f"{shown(compared.predicted)}{band}",
        shown(compared.measured),
        note,
        limit is not None and compared.measured > limit,
        *places,
    )


def _trial(trial: Trial, best: Trial | None, device: str) -> TrialRow:
    won = best is not None and trial.number == best.number
    kind = "winner" if won else "default" if trial.role == "baseline" else ""
    reports = trial.result.reports if trial.result else ()
    score = trial.result.score if trial.result else math.nan
    params = trial.predicted.trainable_params if trial.predicted else None
    predicted = trial.predicted.memory.reported(device)[1] if trial.predicted else None
    measured = trial.result.peak_bytes if trial.result else 0
    seconds = reports[-1].seconds if reports else None
    order = (trial.number, score, params, predicted, measured or None, seconds)
    return TrialRow(
        number=trial.number,
        label=trial.candidate.label if kind == "default" else trial.label,
        kind=kind,
        state=trial.state,
        score="" if math.isnan(score) else f"{score:.3f}",
        params="" if params is None else format_count(params),
        predicted="" if predicted is None else format_bytes(predicted),
        measured=format_bytes(measured) if measured else "",
        seconds="" if seconds is None else format_seconds(seconds),
        reason=trial.reason or (trial.result.reason if trial.result else ""),
        order=tuple(math.nan if value is None else float(value) for value in order),
    )

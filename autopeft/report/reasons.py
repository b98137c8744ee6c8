"""Why a study decided as it did, a sentence each, doubts included. Pure functions of messages."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence

from autopeft.plan.plan import Plan
from autopeft.report.costs import COSTS
from autopeft.report.facts import Compared, DataFacts, Session, TestScore, shown
from autopeft.report.intervals import wilson
from autopeft.report.leads import (
    DEFAULT,
    WINNER,
    contender_of,
    in_a_row,
    is_share,
    lead,
    percent,
    score_text,
    with_article,
)
from autopeft.report.timing import timing, timing_reason
from autopeft.search.study import Study, Trial
from autopeft.units import format_bytes, format_count, format_seconds
from autopeft.workload.dataset import Metric


def reasons(
    *,
    study: Study,
    plan: Plan,
    data: DataFacts,
    scores: Sequence[TestScore],
    comparisons: Sequence[Compared] = (),
    session: Session | None = None,
    tested: int = 0,
) -> tuple[str, ...]:
    """Say why, a sentence each, doubts included; the arguments are those of `decision`.

    Args:
        session: the last that came to its end.
        tested: for how many configurations the test rows were used, 0 where that is not known.
    """
    winner, best, metric = contender_of(scores, WINNER), study.best, data.metric
    timed = timing(plan.budget.time, study.seconds, session)
    # What must not be overlooked comes early: a screen shows the first of them.
    lines = [_counted(study, plan), timing_reason(timed) if timed is not None and timed.over else ""]
    if comparisons and plan.profile.doubt:
        lines.append("Speeds were measured beside other work, so that predicted times say little here.")
    lines += [_prediction(compared) for compared in comparisons if not _inside(compared)]
    if winner is not None and best is not None:
        lines.insert(0, _meaning(winner, metric))
        itself = {WINNER, DEFAULT} if study.is_default(best) else {WINNER}
        lines += [_doubt(winner, other, metric) for other in scores if other.contender not in itself]
        lines += [_optimism(winner, best, metric), _peers(study, best, data), _share(best)]
        lines.append(_front(study))
    lines += [_prediction(compared) for compared in comparisons if _inside(compared)]
    lines.append(timing_reason(timed) if timed is not None and not timed.over else "")
    if winner is not None:
        lines += [_tested(tested, tested - shown(study, scores)), _seeds(study, best)]
    return tuple(line for line in lines if line)


def _tested(tested: int, unseen: int) -> str:
    if not tested:
        return ""
    line = f"The test rows were used for {tested} configuration{'s' * (tested > 1)}"
    if unseen <= 0:
        return f"{line}, after the search."
    return f"{line}, {unseen} of them not shown here: a choice by these scores flatters what it takes."


def _seeds(study: Study, best: Trial | None) -> str:
    runs = study.runs_of(best.candidate) if best else ()
    if len(runs) < 2:
        line = f"The winner's scores come from one seed ({study.seed}) and one split of the rows"
        again = [trial for trial in study.trials if trial.repetition]
        if any(best is not None and trial.candidate.key == best.candidate.key for trial in again):
            return f"{line}: it was begun from another, but that did not come to its end."
        if any(trial.state == "complete" for trial in again):
            return f"{line}; what was trained again from others was not the winner."
        return (
            f"{line}: no leader was trained again from another, which the usual search does once three "
            "configurations were trained to the end, what it set aside promises little more, and time is "
            "left."
        )
    scores = sorted(trial.result.score for trial in runs if trial.result)
    return (
        f"The winner was trained from {len(runs)} seeds, with validation scores from "
        f"{scores[0]:.3f} to {scores[-1]:.3f}; "
        "all scores come from one split of the rows."
    )


def _counted(study: Study, plan: Plan) -> str:
    states = Counter(trial.state for trial in study.trials)
    refused = states["rejected"] + len(plan.rejected)
    tail = [
        f"{count:,} {text}"
        for count, text in (
            (states["stopped"], "stopped early"),
            (states["failed"], "failed"),
            (states["paused"], f"set aside{_ahead(study)}"),
            (states["running"], "cut off"),
            (refused, "refused before starting"),
        )
        if count
    ]
    rest = f"; {in_a_row(tail)}" if tail else ""
    best = study.best
    if best is None or best.result is None:
        return f"No configuration was trained to the end{rest}."
    several = states["complete"] > 1
    of = f"of {states['complete']} trained to the end" if several else "as the only one trained to the end"
    if study.prefer != "quality":
        which = "smallest" if study.prefer == "small" else "fastest to train"
        if not study.knows_noise:
            return (
                f"It has the best validation {study.metric.name}, {best.result.score:.3f}, {of}{rest}; the "
                f"{which} within noise of the best was asked for, but nothing was trained twice, so that "
                "nothing tells what is noise."
            )
        return (
            f"It is the {which} of {study.equals} within noise of the best validation {study.metric.name}, "
            f"with {best.result.score:.3f}, {of}{rest}."
        )
    runs = [
        trial.result.score
        for trial in study.trials
        if trial.state == "complete" and trial.result and trial.candidate.key == best.candidate.key
    ]
    every = [trial.result.score for trial in study.trials if trial.state == "complete" and trial.result]
    if len(runs) == 1 and any(study.metric.better(score, best.result.score) for score in every):
        return (
            f"Most is expected of it once luck is taken off: validation {study.metric.name} "
            f"{best.result.score:.3f}, {of}{rest}."
        )
    if len(runs) > 1:
        mean, low, high = statistics.fmean(runs), min(runs), max(runs)
        return (
            f"Most is expected of it: validation {study.metric.name} {mean:.3f} on average of {len(runs)} "
            f"trainings from different seeds ({low:.3f} to {high:.3f}), {of}{rest}."
        )
    equals = sum(score == best.result.score for score in every) - len(runs)
    same = f", {equals} other{'s' * (equals > 1)} with the same" if equals else ""
    return f"It had the best validation {study.metric.name}, {best.result.score:.3f}, {of}{same}{rest}."


def _ahead(study: Study) -> str:
    """Say how many of those that were set aside had a better score by then than the best has at its end."""
    if study.best is None or study.best.result is None:
        return ""
    end = study.best.result.score
    better = [
        trial.result.score
        for trial in study.trials
        if trial.state == "paused" and trial.result and study.metric.better(trial.result.score, end)
    ]
    if not better:
        return ""
    top = max(better) if study.metric.direction == "maximize" else min(better)
    return f" ({len(better):,} of them with a better one by then, {top:.3f})"


def _meaning(winner: TestScore, metric: Metric) -> str:
    """Say how to read the score, where its name does not, and what it is in the user's own unit."""
    error = winner.extra.get("mean_absolute_error")
    own = f"; the winner is {error:.3g} off on average, in the numbers' own unit" if error is not None else ""
    return f"How to read the {metric.name}: {metric.meaning}{own}." if metric.meaning else ""


def _doubt(winner: TestScore, other: TestScore, metric: Metric) -> str:
    found = lead(winner, other, metric)
    scale, unit = (100, " points") if is_share(metric) else (1, "")
    digits = 1 if is_share(metric) else 3
    sign = scale if metric.direction == "maximize" else -scale
    low, high = sorted((sign * found.low, sign * found.high))
    amount = f"{sign * found.difference:+.{digits}f}{unit} [{low:+.{digits}f}, {high:+.{digits}f}]"
    verdicts = {
        "better": "more than noise.",
        "worse": "worse by more than noise.",
        "within noise": "within noise, so nothing speaks against the cheaper of the two.",
    }
    return f"Against {with_article(other.contender)}: {amount}, {verdicts[found.judgement]}"


def _optimism(winner: TestScore, best: Trial, metric: Metric) -> str:
    chosen = best.result.score if best.result else math.nan
    kinder = chosen > winner.high if metric.direction == "maximize" else chosen < winner.low
    if not kinder:
        return ""
    return (
        f"Validation was kinder ({chosen:.3f}) than the test ({score_text(winner)}): the best of many on the "
        "same rows is partly luck."
    )


def _peers(study: Study, best: Trial, data: DataFacts) -> str:
    """Name the smallest configuration that validation cannot tell from the best one."""
    rows = data.rows.get("validation", 0)
    if data.metric.interval != "proportion" or not rows or best.result is None or best.predicted is None:
        return ""
    low, _ = wilson(round(best.result.score * rows), rows)
    peers = [
        (trial.predicted.trainable_params, trial)
        for trial in study.trials
        if trial.candidate.key != best.candidate.key and not trial.repetition
        if trial.state == "complete" and trial.result and trial.predicted
        if trial.result.score >= low
    ]
    if not peers:
        return ""
    params, smallest = min(peers, key=lambda peer: (peer[0], peer[1].number))
    several = f"{len(peers):,} other configurations lie" if len(peers) > 1 else "One other configuration lies"
    line = f"{several} within noise of it on the {rows:,} validation rows"
    if 0 < params < best.predicted.trainable_params:
        line += f"; the smallest, {smallest.candidate.label}, trains {format_count(params)} parameters"
    return f"{line}."


def _share(best: Trial) -> str:
    if best.predicted is None or not best.predicted.total_params:
        return ""
    some, every = best.predicted.trainable_params, best.predicted.total_params
    return f"It trains {format_count(some)} of {format_count(every)} parameters ({percent(some / every, 2)})."


def _front(study: Study) -> str:
    """Say what the front looks like that was searched for."""
    if study.front_of is None or not (trials := study.front(study.front_of)):
        return ""
    cost = COSTS[study.front_of]
    points = [
        f"{trial.candidate.label} ({cost.show(amount)}, {trial.result.score:.3f})"
        for trial in trials
        if trial.predicted and trial.result
        if (amount := trial.predicted.amount(study.front_of)) is not None
    ]
    return f"The front of validation {study.metric.name} against {cost.axis}: {'; '.join(points)}."


def _prediction(compared: Compared) -> str:
    shown = format_bytes if compared.unit == "bytes" else format_seconds
    off = compared.measured / compared.predicted - 1 if compared.predicted else math.nan
    line = (
        f"{compared.quantity[:1].upper()}{compared.quantity[1:]}: predicted {shown(compared.predicted)}, "
        f"measured {shown(compared.measured)} ({percent(off, sign=True)})"
    )
    if compared.low is None or compared.high is None:
        return f"{line}."
    return f"{line}, {'inside' if _inside(compared) else 'outside'} the 90 % band."


def _inside(compared: Compared) -> bool:
    """Whether a measurement is in its band; what has none is not outside either."""
    if compared.low is None or compared.high is None:
        return True
    return compared.low <= compared.measured <= compared.high

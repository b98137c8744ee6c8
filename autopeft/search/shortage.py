"""Shortage: what follows from a trial that ran out of memory, as pure functions of the trials so far.

Such a trial is a result. What was predicted for it was too little, so from then on nothing of its kind starts
that is predicted to take as much. And it is tried once more in smaller pieces: with fewer rows a micro-batch
and as many more of these, so that a step learns from the same rows as before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from autopeft.plan.plan import Rejected, Verdict
from autopeft.search.study import Trial
from autopeft.space.candidate import Candidate
from autopeft.units import format_bytes

OUT_OF_MEMORY = "out of memory"
"""What the reason of such a trial begins with."""


@dataclass(frozen=True)
class SecondTry:
    """A trial to be tried once more.

    Attributes:
        of: the trial that ran out.
        candidate: the same in smaller pieces.
        reason: what is done and why, on one line.
    """

    of: Trial
    candidate: Candidate
    reason: str


def ran_out(trial: Trial) -> bool:
    """Say whether a trial ended because memory did."""
    return trial.state == "failed" and trial.reason.startswith(OUT_OF_MEMORY)


def second_try(trials: Iterable[Trial]) -> SecondTry | None:
    """Return the first trial that ran out and is to be tried again; None where there is none.

    A second try that runs out is not followed by a third, nor is there one of what cannot be made smaller.
    """
    known = sorted(trials, key=lambda trial: trial.number)
    tried = {trial.candidate.key for trial in known}
    again: set[str] = set()
    for trial in known:
        if not ran_out(trial) or trial.candidate.key in again:
            continue
        candidate = smaller(trial.candidate)
        if candidate is None:
            continue
        again.add(candidate.key)
        if candidate.key not in tried:
            rows = candidate.training.batch_size
            pieces = f"{rows} {'row' if rows == 1 else 'rows'}"
            reason = f"again in micro-batches of {pieces}: trial {trial.number} ran out of memory"
            return SecondTry(trial, candidate, reason)
    return None


def smaller(candidate: Candidate) -> Candidate | None:
    """Return the candidate with at most half the rows a micro-batch and as many a step; None below two rows.

    What is trained stays the same but for the mean: that of a step is over its micro-batches, so tokens of a
    language model weigh a little otherwise.
    """
    training = candidate.training
    rows = training.batch_size
    fewer = next((each for each in range(rows // 2, 0, -1) if rows % each == 0), None)
    if fewer is None:
        return None
    pieces = {"batch_size": fewer, "grad_accum": training.grad_accum * (rows // fewer)}
    return candidate.model_copy(update={"training": training.model_copy(update=pieces)})


def fit_together(trials: Sequence[Trial], limit: int | None) -> bool:
    """Say whether trials side by side fit by the upper ends of their bands; one alone does."""
    if limit is None or len(trials) < 2:
        return True
    return sum(trial.predicted.memory.high_bytes for trial in trials if trial.predicted) <= limit


def held_against(verdict: Verdict, trials: Sequence[Trial]) -> Verdict:
    """Return the budget's verdict, or a refusal where the like has run out of memory.

    The prediction is at fault, by nobody knows how much; but that more is needed for more holds. So what is
    refused has the method and quantisation of a trial that ran out, and is predicted to take no less.
    """
    if isinstance(verdict, Rejected):
        return verdict
    candidate, predicted = verdict.candidate, verdict.estimate.memory.high_bytes
    for trial in trials:
        same = (trial.candidate.method, trial.candidate.quantization) == (
            candidate.method,
            candidate.quantization,
        )
        if same and ran_out(trial) and trial.predicted is not None:
            limit = trial.predicted.memory.high_bytes
            if predicted >= limit:
                reason = (
                    f"up to {format_bytes(predicted)} are predicted, and trial {trial.number}, "
                    f"{trial.candidate.method} too, ran out of memory with {format_bytes(limit)} predicted"
                )
                return Rejected(candidate=candidate, estimate=verdict.estimate, reason=reason)
    return verdict

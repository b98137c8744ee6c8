"""The executor that needs nothing: one trial after the other in this process."""

from __future__ import annotations

from pathlib import Path

from autopeft.search.desk import CutOff, Desk, Failure, checkpoint_folder, drop_checkpoint
from autopeft.search.loop import Search
from autopeft.search.searcher import RunFactory
from autopeft.search.strategy import Decision
from autopeft.train.result import Report


def run_locally(search: Search, factory: RunFactory, *, seed: int, folder: Path) -> None:
    """Train one trial after the other in this process.

    Args:
        search: says what to train.
        factory: makes the runs.
        seed: of every trial's first run.
        folder: the study's; checkpoints go to `trials/NNNN/checkpoint` below it.
    """
    desk = Desk(factory, seed)
    while (trial := search.next_trial()) is not None:
        checkpoint = checkpoint_folder(folder, trial.number)
        desk.take(trial.candidate, checkpoint, trial.repetition)
        for samples in search.remaining(trial.number):
            outcome = desk.advance(samples)
            if settle(search, trial.number, outcome, checkpoint) is not Decision.CONTINUE:
                break


def settle(search: Search, number: int, outcome: Report | Failure | CutOff, checkpoint: Path) -> Decision:
    """Tell the search how a piece of a trial went; a trial that is out needs its checkpoint no more."""
    match outcome:
        case CutOff():
            search.cut_off(number)
            decision = Decision.PAUSE
        case Failure(reason):
            search.fail(number, reason)
            decision = Decision.STOP
        case Report():
            decision = search.report(number, outcome)
    if decision is Decision.STOP:
        drop_checkpoint(checkpoint)
    return decision

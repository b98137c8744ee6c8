"""Refitting: a trial's configuration trained once more, on the validation rows too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autopeft.errors import ExportError, StorageError, TrialError
from autopeft.export.bundle import Bundle
from autopeft.export.names import MANIFEST
from autopeft.journey.concluding import Finished
from autopeft.journey.inputs import Inputs, require_dataset
from autopeft.report.facts import DataFacts
from autopeft.search.deadline import GRACE_SECONDS
from autopeft.search.desk import last_checkpoint, reason_of, replace_checkpoint
from autopeft.search.study import Trial
from autopeft.train.result import Report
from autopeft.units import format_seconds

if TYPE_CHECKING:
    from autopeft.train.trainer import Trainer

_PIECES = 4
"""A checkpoint is kept after each, so that a refit that is killed goes on."""


def refitted(done: Finished, chosen: Trial, inputs: Inputs) -> Trainer:
    """Train a trial's configuration from its seed on training and validation rows, or take up what was.

    No rows are left to choose by: it takes what the search chose, to its end.

    Raises:
        ExportError: the training fails.
        StorageError: its checkpoint cannot be written.
    """
    from autopeft.train.trainer import Trainer

    place = done.folder.refit(chosen.number)
    try:
        trainer = Trainer(
            *(inputs.base, require_dataset(inputs).all_but_test, chosen.candidate),
            seed=done.study.seed_of(chosen),
            device=done.device,
        )
        if (saved := last_checkpoint(place)) is not None:
            trainer.restore(saved)
        for piece in range(1, _PIECES + 1):
            goal = round(trainer.total_samples * piece / _PIECES)
            if trainer.samples < goal:
                _require_finite(trainer.advance(goal), trainer.training.learning_rate)
                replace_checkpoint(trainer.save, place)
    except (StorageError, OSError):
        raise
    except Exception as error:
        raise ExportError(f"the refit of trial {chosen.number} failed: {reason_of(error)}") from error
    return trainer


def _require_finite(report: Report, rate: float) -> None:
    """Check that what a model scores are numbers: no loss of a training tells of its last step.

    Raises:
        TrialError: they are not.
    """
    if not report.is_finite:
        raise TrialError(
            f"it diverged: its scores are no numbers at step {report.step} with learning rate {rate:.2g}; a "
            "smaller one may hold."
        )


def is_refit(done: Finished, chosen: Trial) -> bool:
    """Say whether the adapter that the study has of a trial is a refit."""
    manifest = done.folder.bundle / MANIFEST
    found = Bundle.read(manifest) if manifest.exists() else None
    return found is not None and found.trial == chosen.number and found.refit_rows > 0


def too_long(done: Finished, chosen: Trial, beside: float) -> str:
    """Say why there is no time for a refit; empty where there is.

    Args:
        beside: seconds of the time that were not spent on the search.
    """
    limit = done.plan.budget.time
    if limit is None or chosen.result is None or not chosen.result.reports:
        return ""
    rows = DataFacts.read(done.folder.data).rows
    needed = chosen.result.reports[-1].seconds * (1 + rows["validation"] / rows["train"])
    left = max(0.0, limit - done.study.seconds - beside)
    if needed <= left + GRACE_SECONDS:
        return ""
    return f"it takes about {format_seconds(needed)}, and {format_seconds(left)} of the time are left"

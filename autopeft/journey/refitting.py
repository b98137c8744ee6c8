"""Refitting: a trial's configuration trained once more, on the validation rows too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autopeft.journey.concluding import Finished
from autopeft.journey.inputs import Inputs, require_dataset
from autopeft.search.desk import last_checkpoint, replace_checkpoint
from autopeft.search.study import Trial

if TYPE_CHECKING:
    from autopeft.train.trainer import Trainer

_PIECES = 4
"""A checkpoint is kept after each, so that a refit that is killed goes on."""


def refitted(done: Finished, chosen: Trial, inputs: Inputs) -> Trainer:
    """Train a trial's configuration from its seed on training and validation rows, or take up what was.

    No rows are left to choose by: it takes what the search chose, to its end.
    """
    from autopeft.train.trainer import Trainer

    dataset = require_dataset(inputs).all_but_test
    trainer = Trainer(
        inputs.base, dataset, chosen.candidate, seed=done.study.seed_of(chosen), device=done.device
    )
    place = done.folder.refit(chosen.number)
    if (saved := last_checkpoint(place)) is not None:
        trainer.restore(saved)
    for piece in range(1, _PIECES + 1):
        goal = round(trainer.total_samples * piece / _PIECES)
        if trainer.samples < goal:
            trainer.advance(goal)
            replace_checkpoint(trainer.save, place)
    return trainer

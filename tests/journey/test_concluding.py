"""When the test rows of a study are scored, and when not."""

from __future__ import annotations

from pathlib import Path

import pytest

from autopeft.errors import ClaimedError
from autopeft.handover import compare
from autopeft.journey.concluding import Finished, write_conclusion
from autopeft.journey.contest import Scores
from autopeft.journey.workspace import StudyFolder, open_store
from autopeft.report.leads import DEFAULT
from autopeft.search.desk import replace_checkpoint
from autopeft.search.store import StudyStore
from autopeft.search.study import Trial
from autopeft.train.trainer import Trainer
from tests.journey.test_refitting import QUIET, MakeStudy, request_of, study_of

__all__ = ["study_of"]


def contenders(scores: Scores) -> list[str]:
    return [each.contender for each in scores.scores]


def add_default(folder: StudyFolder) -> None:
    """Train a default that is worse than the winner, as a resumption does."""
    request = request_of(folder)
    inputs = Finished(request).inputs()
    assert inputs.dataset is not None
    small = QUIET.model_copy(update={"rank": 1})
    trainer = Trainer(inputs.base, inputs.dataset, small, seed=0)
    last = trainer.advance(8).model_copy(update={"score": 0.0})
    replace_checkpoint(trainer.save, folder.checkpoint(1))
    store = open_store(folder)
    store.add_trial(Trial(number=1, role="baseline", candidate=small, state="running"))
    store.finish(1, "complete", last=last)
    store.close()


def test_a_study_that_is_searched_has_no_test_rows_scored(study_of: MakeStudy, tmp_path: Path) -> None:
    folder = study_of(QUIET)
    store: StudyStore = open_store(folder)
    with store.claimed():
        with pytest.raises(ClaimedError, match="is being searched or exported"):
            write_conclusion(request_of(folder), "")
        with pytest.raises(ClaimedError, match="is being searched or exported"):
            compare("s", "s", workspace=str(tmp_path))
        assert not folder.scores.exists()
    assert write_conclusion(request_of(folder), "").scores
    with store.claimed():
        assert write_conclusion(request_of(folder), "").scores
        assert compare("s", "s", workspace=str(tmp_path)).difference == 0
    store.close()


def test_a_default_that_a_resumption_trains_to_its_end_is_scored(study_of: MakeStudy) -> None:
    folder = study_of(QUIET)
    request = request_of(folder)
    write_conclusion(request, "")
    before = Finished(request).kept_scores()
    assert DEFAULT not in contenders(before)
    add_default(folder)
    assert DEFAULT in [each.contender for each in write_conclusion(request, "").scores]
    after = Finished(request).kept_scores()
    assert (after.trial, after.of(0)) == (0, before.of(0))
    assert after.of(1) is not None
    kept = folder.scores.stat().st_mtime_ns
    write_conclusion(request, "")
    assert folder.scores.stat().st_mtime_ns == kept

"""Which study is meant where nobody names one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from autopeft.cost.model import TracedCostModel
from autopeft.hardware.profile import HardwareProfile
from autopeft.journey.searching import run_search
from autopeft.journey.workspace import existing_study
from autopeft.request import Request
from autopeft.search.latest import mark_searched
from autopeft.search.store import StudyStore
from tests.search.toy_training import ACCURACY, toy_plan


def interrupt(_: Request) -> HardwareProfile:
    raise KeyboardInterrupt


def go_on(workspace: Path, name: str) -> None:
    """Go on with a study, for no longer than a moment."""
    asked = Request(study=name, workspace=str(workspace), resume=True)
    with pytest.raises(KeyboardInterrupt):
        run_search(asked, interrupt, TracedCostModel(), (), lambda *_: None)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A study "killed", whose writes are not in the database's own file yet, and a later one, "later"."""
    studies = tmp_path / "studies"
    for name in ("killed", "later"):
        store = StudyStore(tmp_path / name / "study.db")
        asked = Request(demo="classification", study=name)
        store.create(name=name, metric=ACCURACY, seed=0, request=asked.model_dump_json(), plan=toy_plan())
        shutil.copytree(tmp_path / name, studies / name)
        store.close()
        assert (studies / name / "study.db-wal").stat().st_size
        mark_searched(studies / name)
    return tmp_path


def test_reading_a_study_that_was_killed_does_not_make_it_the_latest(workspace: Path) -> None:
    read, later = (workspace / "studies" / name / "study.db" for name in ("killed", "later"))
    store = StudyStore(read)
    store.load()
    store.close()
    assert read.stat().st_mtime_ns > later.stat().st_mtime_ns
    assert existing_study(str(workspace), None).path.name == "later"


def test_going_on_with_a_study_makes_it_the_latest(workspace: Path) -> None:
    go_on(workspace, "killed")
    assert existing_study(str(workspace), None).path.name == "killed"

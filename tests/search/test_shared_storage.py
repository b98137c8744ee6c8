"""Several studies and users on one PostgreSQL server."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres import running_server, why_not

from autopeft.errors import StorageError
from autopeft.search.store import StudyStore

pytest.importorskip(
    "psycopg", reason="the driver of PostgreSQL is not installed: pip install 'autopeft[postgres]'"
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
]

DRIVER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from toy_training import ACCURACY, ToyFactory, admit_all, toy_plan, toy_space
from autopeft.errors import StorageError
from autopeft.search.executor import run_locally
from autopeft.search.freeze_thaw import FreezeThaw
from autopeft.search.halving import plan_rungs
from autopeft.search.loop import Search
from autopeft.search.store import StudyStore
from autopeft.space.candidate import Candidate

url, name, seed, folder, pause = sys.argv[2:]
seed, folder, pause = int(seed), Path(folder), float(pause)
store = StudyStore(url, name=name, folder=folder)
try:
    with store.claimed():
        if not store.exists():
            store.create(name=name, metric=ACCURACY, seed=seed, request="{}", plan=toy_plan())
        print("claimed", flush=True)
        sys.stdin.readline()
        rungs = plan_rungs(60)
        strategy = FreezeThaw(toy_space(), rungs, seed=seed, metric=ACCURACY, warm=())
        search = Search(store, strategy, admit_all, rungs, ACCURACY,
            baseline=Candidate(method="lora", rank=16), max_trials=8)
        run_locally(search, ToyFactory(folder / "made.txt", pause=pause), seed=seed, folder=folder)
        search.finish()
        print("done", flush=True)
except StorageError as error:
    sys.exit(f"autopeft: {error}")
"""


def start(url: str, name: str, seed: int, folder: Path, pause: float = 0.0) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    values = [str(Path(__file__).parent), url, name, str(seed), str(folder), str(pause)]
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, *values],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


def wait_for(driver: subprocess.Popen[str], word: str) -> None:
    assert driver.stdout is not None
    line = driver.stdout.readline()
    assert line.strip() == word, driver.communicate()[1]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running_server() as address:
        yield address


def test_two_processes_search_two_studies_in_one_database_at_once(url: str, tmp_path: Path) -> None:
    names = ("north", "south")
    drivers = [start(url, name, seed, tmp_path / name) for seed, name in enumerate(names)]
    for driver in drivers:  # both have made the tables and a study before either goes on
        wait_for(driver, "claimed")
    for driver in drivers:
        assert driver.stdin is not None
        driver.stdin.write("\n")
        driver.stdin.flush()
    for driver in drivers:
        wait_for(driver, "done")
        assert driver.wait(timeout=60) == 0
    for seed, name in enumerate(names):
        study = StudyStore(url, name=name, folder=tmp_path / name).load()
        assert (study.name, study.seed) == (name, seed)
        first = [trial for trial in study.trials if not trial.repetition]
        assert [trial.number for trial in study.trials] == list(range(len(study.trials)))
        assert not any(trial.state == "running" for trial in study.trials)
        assert len({trial.candidate.key for trial in first}) == len(first) == 9


def test_a_study_is_run_by_one_process_at_a_time_and_let_go_when_that_is_killed(
    url: str, tmp_path: Path
) -> None:
    first = start(url, "claimed", 0, tmp_path / "first")
    wait_for(first, "claimed")
    second = start(url, "claimed", 0, tmp_path / "second")
    _, said = second.communicate(timeout=120)
    assert second.returncode == 1
    assert said.strip().endswith("is being searched or exported by another process; wait for it or stop it.")
    assert len(said.strip().splitlines()) == 1
    assert "the study 'claimed' in postgresql+psycopg://autopeft@127.0.0.1" in said

    first.kill()
    first.communicate()
    third = start(url, "claimed", 0, tmp_path / "third")
    wait_for(third, "claimed")
    third.communicate("\n", timeout=120)
    assert third.returncode == 0
    trials = StudyStore(url, name="claimed").load().trials
    assert sum(not trial.repetition for trial in trials) == 9


def test_a_server_that_goes_away_ends_the_search_with_one_line_and_loses_nothing(tmp_path: Path) -> None:
    with running_server() as url:
        driver = start(url, "cut", 0, tmp_path / "cut", pause=0.02)
        wait_for(driver, "claimed")
        assert driver.stdin is not None
        driver.stdin.write("\n")
        driver.stdin.flush()
        store = StudyStore(url, name="cut", folder=tmp_path / "cut")
        while not any(trial.finished for trial in store.load().trials):
            time.sleep(0.05)
        kept = store.load()
        store.close()
    _, said = driver.communicate(timeout=120)
    assert driver.returncode == 1
    assert any(trial.finished for trial in kept.trials)
    assert len(said.strip().splitlines()) == 1
    assert "postgresql+psycopg://autopeft@127.0.0.1" in said


def test_a_database_that_is_not_there_is_said(url: str) -> None:
    with pytest.raises(StorageError, match=r'the database says: .*"nosuch" does not exist') as error:
        StudyStore(url.replace("/postgres", "/nosuch"), name="one").load()
    assert "\n" not in str(error.value)

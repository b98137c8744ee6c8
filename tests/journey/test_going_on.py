"""From the command line: a search for a front that is killed goes on for it, and so does a refit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autopeft.errors import StorageError
from autopeft.export.bundle import Bundle
from autopeft.export.opening import checksums
from autopeft.journey.keeping import load
from autopeft.request import Request
from autopeft.search.study import Study
from tests.service.live import write_rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
BIN = [sys.executable, "-m", "autopeft"]
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, sentiment) -> Path:
    folder = tmp_path_factory.mktemp("going-on")
    write_rows(sentiment, folder / "rows.csv")
    return folder


def studied(place: Path) -> Study | None:
    """Return the study as it is now; None before there is one."""
    if not (place / ".autopeft" / "studies" / "s" / "data.json").exists():
        return None
    try:
        return load(Request(workspace=str(place / ".autopeft"), study="s"))
    except StorageError:  # it is being made
        return None


def kill_when(reached: Callable[[], object], place: Path, *arguments: str) -> None:
    """Run a command and kill it, with all that it started, at a moment."""
    process = subprocess.Popen(
        [*BIN, *arguments],
        cwd=place,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        deadline = time.monotonic() + 900
        while not (seen := reached()) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        over = process.poll()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        _, errors = process.communicate()
    assert seen, errors.decode()[-2000:]
    assert over is None, "it ended before it could be killed"


def autopeft(place: Path, *arguments: str) -> Any:
    """Run a command to its end, and return what it printed as JSON."""
    done = subprocess.run(
        [*BIN, *arguments, "--json"], cwd=place, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def before(place: Path, encoder_with_weights) -> Study:
    """A study of a front, as a kill has left it when its first trial was finished."""

    def finished() -> bool:
        study = studied(place)
        return study is not None and any(trial.finished for trial in study.trials)

    kill_when(
        finished, place, "search", "--model", str(encoder_with_weights.path), "--data", "rows.csv",
        "--study", "s", "--front", "share", "--gpu-mem", "8GB", "--trials", "4", "--epochs", "8",
        "--seq-len", "24",
    )  # fmt: skip
    study = studied(place)
    assert study is not None
    return study


@pytest.fixture(scope="module")
def facts(place: Path, before: Study) -> Any:
    del before
    return autopeft(place, "run", "--resume", "--study", "s")


def test_a_search_for_a_front_that_was_killed_goes_on_for_that_front(place, before, facts) -> None:
    after = studied(place)
    assert after is not None
    assert before.front_of == after.front_of == facts["study"]["front_of"] == "share"
    kept = {trial.number: trial for trial in before.trials if trial.finished}
    assert {number: after.trials[number] for number in kept} == kept
    begun = [(trial.candidate.key, trial.repetition) for trial in after.trials]
    assert len(set(begun)) == len(begun)
    tried = [
        trial
        for trial in after.trials
        if trial.role == "candidate" and not trial.repetition and trial.state != "rejected"
    ]
    assert len(tried) == 4
    (front,) = [each for each in facts["reasons"] if each.startswith("The front of validation accuracy")]
    for trial in after.front("share"):
        assert trial.candidate.label in front


def test_a_refit_that_was_killed_leaves_all_as_it_was_and_goes_on_to_the_same_end(place, facts) -> None:
    folder = place / ".autopeft" / "studies" / "s"
    bundle = Bundle.read(folder / "bundle" / "autopeft.json")
    assert bundle.path == facts["places"]["adapter"]
    kept = folder / "trials" / f"{bundle.trial:04d}" / "refit" / "checkpoint"
    files, study = checksums(folder / "bundle"), studied(place)
    flags = ("export", "--study", "s", "--refit", "--force")
    undisturbed = place / "undisturbed"
    undisturbed.mkdir()
    shutil.copytree(place / ".autopeft", undisturbed / ".autopeft")

    kill_when(kept.exists, place, *flags)
    at = json.loads((kept / "progress.json").read_text())["samples"]
    assert 0 < at < (facts["data"]["rows"]["train"] + facts["data"]["rows"]["validation"]) * 8
    assert checksums(folder / "bundle") == files
    assert studied(place) == study
    assert autopeft(place, "verify", str(folder / "bundle"))["state"] == "same"

    again = autopeft(place, *flags)
    whole = autopeft(undisturbed, *flags)
    assert again["refit_rows"] == whole["refit_rows"] > 0
    assert again["files"][WEIGHTS] == whole["files"][WEIGHTS] != files[WEIGHTS]
    assert autopeft(place, "verify", str(folder / "bundle"))["state"] == "same"

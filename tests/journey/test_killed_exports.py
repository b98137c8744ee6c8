"""`autopeft export` itself is killed at random moments: the old bundle or the new one is there, whole."""

from __future__ import annotations

import csv
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from autopeft.export.bundle import Bundle, Form
from autopeft.export.check import differences
from autopeft.export.opening import open_bundle
from autopeft.search.store import StudyStore

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

BIN = [sys.executable, "-m", "autopeft"]
FORMS: dict[Form, tuple[str, ...]] = {"adapter": (), "merged": ("--merged",), "lora": ("--to-lora",)}
FROM_WRITING = (False, True, True, True)
"""Of each kill, whether its moment is drawn from the seconds of writing, or from all."""
# A method that folds into the weights, and that converts to LoRA.
SPACE = """
description: one method
families: [encoder]
domains: {method: [loha]}
fixed: {rank: 4, training.learning_rate: 1e-2, training.batch_size: 8, training.epochs: 1}
"""


class Ended(NamedTuple):
    """How an export ended: its status, seconds until it began to write, and seconds in all."""

    status: int
    writing: float
    seconds: float


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, sentiment, encoder_with_weights) -> Path:
    """A directory with a study in it, of one trial."""
    folder = tmp_path_factory.mktemp("study")
    with (folder / "rows.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        rows = [*sentiment.train, *sentiment.validation, *sentiment.test]
        writer.writerows([f"{row.text} {at}", sentiment.labels[row.label]] for at, row in enumerate(rows))
    (folder / "one.yaml").write_text(SPACE)
    asked = ["--model", str(encoder_with_weights.path), "--data", "rows.csv", "--space", "one.yaml"]
    done = subprocess.run(
        [*BIN, "search", *asked, "--study", "study", "--trials", "1", "--seq-len", "24", "--gpu-mem", "8GB"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def trial(place: Path) -> str:
    """The number of the trial of that method."""
    store = StudyStore(place / ".autopeft" / "studies" / "study" / "study.db")
    try:
        trials = store.load().trials
    finally:
        store.close()
    return next(str(each.number) for each in trials if each.candidate.method == "loha")


def export(
    target: Path, asked: tuple[str, ...], named: str, *, limit: float = 1e9, from_writing: bool = False
) -> Ended:
    """Export under a license that tells it from others; kill it after `limit` seconds, of its writing if so.

    Only the command itself is killed, not what it started.
    """
    begun, wrote, before = time.monotonic(), 0.0, beside(target)
    process = subprocess.Popen(
        [*BIN, "export", "study", *asked, "--license", named, "--force", "--out", target.name],
        cwd=target.parent, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    while process.poll() is None:
        now = time.monotonic() - begun
        if not wrote and beside(target) - before:
            wrote = now
        if (wrote or not from_writing) and now > limit + wrote * from_writing:
            process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.01)
    errors = process.stderr.read().decode()
    assert process.returncode in (0, -signal.SIGKILL), errors[-2000:]
    return Ended(process.returncode, wrote, time.monotonic() - begun)


def beside(target: Path) -> set[Path]:
    return set(target.parent.glob(f".{target.name}.*"))


@pytest.mark.parametrize("form", FORMS)
def test_a_killed_export_leaves_the_old_bundle_or_the_new(
    form: Form, place: Path, trial: str, tmp_path: Path
) -> None:
    target, asked = place / f"bundle-{form}", ("--trial", trial, *FORMS[form])
    first, dice = export(target, asked, "kept-0"), random.Random(form)
    kept, killed, left = "kept-0", 0, list[tuple[Path, Bundle]]()
    for attempt, from_writing in enumerate(FROM_WRITING, start=1):
        named = f"kept-{attempt}"
        longest = first.seconds - first.writing if from_writing else first.seconds
        ended = export(target, asked, named, limit=dice.uniform(0, longest), from_writing=from_writing)
        found = open_bundle(target)
        assert found.form == form
        assert found.license in ({kept, named} if ended.status else {named})
        kept, killed = found.license, killed + bool(ended.status)
        left.append((shutil.copytree(target, tmp_path / named), found))
    assert killed
    assert max(differences(left)) <= 1e-5
    assert export(target, asked, "last").status == 0
    assert open_bundle(target).license == "last"
    assert not beside(target)

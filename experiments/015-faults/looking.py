"""Reads a study that may have been cut off, and says what was lost, changed or done twice meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autopeft.search.store import StudyStore
from autopeft.search.study import Study
from autopeft.space.candidate import Candidate


def load(folder: Path) -> Study | None:
    """Read the study; None before it was begun."""
    if not (folder / "study.db").exists():
        return None
    store = StudyStore(folder / "study.db")
    try:
        return store.load() if store.exists() else None
    finally:
        store.close()


def name(candidate: Candidate, seed: int) -> str:
    """Name a training by what its numbers depend on."""
    return f"{candidate.rank}/{candidate.training.learning_rate}/{seed}"


def recorded(study: Study | None, folder: Path) -> dict[int, dict[str, Any]]:
    """Return what is finished, and the evaluations of what is not."""
    if study is None:
        return {}
    store = StudyStore(folder / "study.db")
    found = {
        trial.number: {
            "state": trial.state,
            "rank": trial.candidate.rank,
            "who": name(trial.candidate, study.seed_of(trial)),
            "curve": [
                [report.samples, report.score]
                for report in (trial.result.reports if trial.result else store.reports(trial.number))
            ],
        }
        for trial in study.trials
    }
    store.close()
    return found


def differences(before: dict[int, dict[str, Any]], after: dict[int, dict[str, Any]]) -> list[str]:
    """Say what was lost or changed between two looks at the same study."""
    wrong = []
    for number, then in before.items():
        now = after.get(number)
        if now is None:
            wrong.append(f"trial {number} is gone")
        elif then["state"] != "running" and now != then:
            wrong.append(f"trial {number} was finished and has changed: {then} -> {now}")
        elif now["curve"][: len(then["curve"])] != then["curve"]:
            wrong.append(f"evaluations of trial {number} have changed")
    return wrong


def trained(folder: Path) -> list[tuple[str, int, int]]:
    """Return the pieces of training that processes ended, each with its training and its rows: from, to."""
    log = folder / "trained.txt"
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return [(who, int(begun), int(ended)) for who, begun, ended in (line.split() for line in lines)]


def trained_again(before: dict[int, dict[str, Any]], since: list[tuple[str, int, int]]) -> list[str]:
    """Say which pieces were trained although their evaluation had been recorded before."""
    known = {one["who"]: one["curve"][-1][0] for one in before.values() if one["curve"]}
    return [f"{who} was trained to {ended} again" for who, _, ended in since if ended <= known.get(who, 0)]

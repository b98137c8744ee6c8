"""What a search by freeze-thaw has come to, and whether a disturbed one came to the same."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

from driver import DEFAULT, RUNGS, SPACE, Descent
from looking import load, name, trained

from autopeft.search.choosing import noise_variance
from autopeft.search.desk import checkpoint_folder
from autopeft.search.study import Study, Trial
from autopeft.space.domain import assemble
from autopeft.space.search_space import assignments


def describe(folder: Path) -> dict[str, Any]:
    """Say what a search did, and what of it is as it must be, whoever was killed meanwhile."""
    study = load(folder)
    assert study is not None
    assert study.best is not None
    assert study.best.result is not None
    begun = Counter((trial.candidate.key, trial.repetition) for trial in study.trials)
    every = {assemble({**SPACE.fixed, **values}).key for values in assignments(SPACE)} | {DEFAULT.key}
    pieces = trained(folder)
    recorded = sum(_seen(trial) for trial in study.trials)
    rows = sum(ended - first for _, first, ended in pieces)
    checkpoint = checkpoint_folder(folder, study.best.number) / "state.json"
    return {
        "trials": len(study.trials),
        "states": dict(Counter(trial.state for trial in study.trials)),
        "reasons": sorted({trial.reason for trial in study.trials if trial.state == "failed"}),
        "repetitions": sum(trial.repetition > 0 for trial in study.trials),
        **_moves(folder),
        "every_candidate_begun": {key for key, _ in begun} == every,
        "none_begun_twice": max(begun.values()) == 1,
        "complete_ones_saw_all_rows": all(
            _seen(trial) == RUNGS.samples[-1] for trial in study.trials if trial.state == "complete"
        ),
        "evaluations_as_computed": all(_curve(trial) == _computed(trial, study) for trial in study.trials),
        "rows_recorded": recorded,
        "rows_trained_and_not_recorded": rows - recorded,
        "pieces_trained_and_not_recorded": len(pieces) - sum(len(_curve(trial)) for trial in study.trials),
        "best": name(study.best.candidate, study.seed_of(study.best)),
        "best_score": study.best.result.score,
        "noise": math.sqrt(_noise(study)),
        "winner_has_checkpoint": checkpoint.is_file(),
    }


def compare(folder: Path, reference: dict[str, Any]) -> dict[str, Any]:
    """Describe a search, and say whether its winner is the undisturbed one's up to noise."""
    found = describe(folder)
    apart = abs(found["best_score"] - reference["best_score"])
    return found | {"winner_equal_up_to_noise": apart <= 2 * math.sqrt(2) * reference["noise"]}


def _curve(trial: Trial) -> list[tuple[int, float]]:
    return [(report.samples, report.score) for report in trial.result.reports] if trial.result else []


def _seen(trial: Trial) -> int:
    return max((samples for samples, _ in _curve(trial)), default=0)


def _computed(trial: Trial, study: Study) -> list[tuple[int, float]]:
    """Train without interruption, here, as far as a trial came."""
    descent = Descent(trial.candidate, study.seed_of(trial))
    reached = [samples for samples in RUNGS.samples if samples <= _seen(trial)]
    return [(samples, descent.advance(samples).score) for samples in reached]


def _noise(study: Study) -> float:
    """Return the variance between trainings of one candidate, 0 where none was repeated."""
    groups: dict[str, list[float]] = {}
    for trial in study.trials:
        if trial.state == "complete" and trial.result:
            groups.setdefault(trial.candidate.key, []).append(trial.result.score)
    return noise_variance(list(groups.values())) or 0.0


def _moves(folder: Path) -> dict[str, int]:
    """Count how often a trial was set aside, and how often one of them went on, in whatever session."""
    aside: set[str] = set()
    pauses = resumptions = 0
    for line in (folder / "events.txt").read_text(encoding="utf-8").splitlines():
        _, event, number = line.split()
        if event == "paused":
            aside.add(number)
            pauses += 1
        elif number in aside:
            aside.remove(number)
            resumptions += 1
    return {"pauses": pauses, "goings_on": resumptions}

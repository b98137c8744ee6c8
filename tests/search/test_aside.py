from __future__ import annotations

from toy_training import ACCURACY, lora, report

from autopeft.search.aside import MOST_KEPT, left_aside
from autopeft.search.study import Trial


def test_the_best_can_go_on_and_the_default_always_can() -> None:
    trials = [
        Trial(number=number, role="candidate" if number else "baseline", candidate=lora(2), state="running")
        for number in range(MOST_KEPT + 3)
    ]
    reports = {trial.number: [report(10, trial.number / 100)] for trial in trials}
    left = dict(left_aside(trials, reports, ACCURACY))
    kept = {number for number, state in left.items() if state == "paused"}
    best = set(range(4, MOST_KEPT + 3))
    assert kept == {0, *best}
    assert set(left) == {trial.number for trial in trials}


def test_what_was_set_aside_before_takes_its_room() -> None:
    before = [Trial(number=n, role="candidate", candidate=lora(2), state="paused") for n in range(MOST_KEPT)]
    late = Trial(number=MOST_KEPT, role="candidate", candidate=lora(4), state="running")
    assert dict(left_aside([*before, late], {MOST_KEPT: [report(10, 0.9)]}, ACCURACY)) == {
        MOST_KEPT: "stopped"
    }

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable

import pytest
from rich.console import Console

from autopeft.plan.plan import Plan
from autopeft.search.study import Study, Trial
from autopeft.tracking.console import ConsoleObserver
from autopeft.train.result import TrialResult
from autopeft.units import format_seconds
from autopeft.workload.dataset import ACCURACY

Play = Callable[..., Study]


def told(play: Play, *, terminal: bool = False, width: int = 80, **how: int) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=width, color_system=None)
    observer = ConsoleObserver(console)
    play(observer, **how)
    observer.close()
    return stream.getvalue()


def test_a_log_has_one_line_for_every_event(play: Play) -> None:
    lines = told(play).splitlines()
    assert [line.split()[2] for line in lines[1:-1]] == [
        *("started", "report", "report", "report", "complete"),
        "rejected",
        *("started", "report", "failed"),
        *("started", "report", "set", "goes", "report", "report", "complete"),
    ]
    assert "trial 3 set aside after 500 rows, accuracy=0.6000" in lines
    assert lines[0] == "study demo started trials=2+default expected=1 min 00 s memory=4 GB time=5 min 00 s"
    assert lines[-1].startswith("study demo finished in 12.0 s: best accuracy=0.8500 trial 3 lora r=8")


def test_a_log_says_what_the_data_were_taken_for(ratings) -> None:
    stream = io.StringIO()
    notes = ("12 repeated train rows left out", "rows: 60 train, 20 validation, 20 test")
    named = ratings.model_copy(update={"columns": {"text": "review", "number": "stars"}, "notes": notes})
    ConsoleObserver(Console(file=stream)).data_read(named)
    lines = stream.getvalue().splitlines()
    assert lines[0] == f"data {ratings.name} task=regression columns: text=review, number=stars"
    assert lines[1:3] == [f"data {note}" for note in notes]
    assert lines[3].startswith("score relative absolute error: 1 is always saying the median")


def test_an_event_is_one_plain_line_however_narrow_the_console(play: Play) -> None:
    lines = told(play, width=20).splitlines()
    assert len(lines) == 18
    assert all(line.isprintable() for line in lines)


def test_a_report_tells_rows_score_step_time_and_memory(play: Play) -> None:
    assert "trial 3 report rows=1500 accuracy=0.8500 loss=0.5 step=290 ms peak=2.92 KiB" in told(play)


def left_at_the_end(play: Play, trials: tuple[Trial, ...], *, evaluated: bool) -> list[str]:
    """Return the last lines of a log whose search ends while trial 3 is under way."""
    stream = io.StringIO()
    observer = ConsoleObserver(Console(file=stream, width=200))
    study = play(observer, stop=1)
    result = trials[3].result
    assert result is not None
    running = trials[3].model_copy(update={"state": "running", "result": None})
    observer.trial_started(running)
    if evaluated:
        observer.trial_reported(running, result.reports[0])
    observer.trial_paused(running)
    left = TrialResult(state="paused", reports=result.reports[:1])
    reason = "set aside after 500 rows: the time was spent"
    observer.trial_finished(running.model_copy(update={"state": "paused", "result": left, "reason": reason}))
    observer.study_finished(study)
    return stream.getvalue().splitlines()[-3 - evaluated :]


@pytest.mark.parametrize("evaluated", [True, False])
def test_a_trial_that_the_end_of_the_search_sets_aside_has_one_line_that_says_why(
    play: Play, trials: tuple[Trial, ...], evaluated: bool
) -> None:
    lines = left_at_the_end(play, trials, evaluated=evaluated)
    assert [line.split()[2] for line in lines[:-1]] == ["started", *["report"] * evaluated, "paused"]
    assert lines[-2].endswith(": set aside after 500 rows: the time was spent")


def test_a_trial_set_aside_without_a_new_evaluation_counts_no_rows(
    play: Play, trials: tuple[Trial, ...]
) -> None:
    stream = io.StringIO()
    observer = ConsoleObserver(Console(file=stream))
    play(observer, stop=1)
    running = trials[3].model_copy(update={"state": "running", "result": None})
    observer.trial_started(running)
    observer.trial_paused(running)
    observer.close()
    assert stream.getvalue().splitlines()[-1] == "trial 3 set aside before its next evaluation"


def test_markup_in_names_is_shown_as_it_is(play: Play) -> None:
    assert "value [bold]x" in told(play)


def test_rejected_and_failed_trials_say_why(play: Play) -> None:
    lines = told(play).splitlines()
    assert lines[6].startswith("trial 1 rejected lora r=2")
    assert lines[6].endswith(": it does not fit: 5 GB > 4 GB")
    assert lines[9].endswith(": diverged")


def test_a_resumed_study_counts_its_session_and_all_of_them(play: Play, plan: Plan) -> None:
    stream = io.StringIO()
    observer = ConsoleObserver(Console(file=stream, width=200))
    done = play(observer).model_copy(update={"seconds": 12.0})
    observer.study_started(done, plan, 3, 60.0)
    observer.study_finished(done.model_copy(update={"seconds": 52.0}))
    lines = stream.getvalue().splitlines()
    assert lines[-2].endswith("time=5 min 00 s (12.0 s spent) done=3")
    assert "finished in 40.0 s, 52.0 s with the sessions before: best" in lines[-1]


def test_a_resumed_study_says_what_is_done(play: Play) -> None:
    assert "study demo resumed trials=2+default" in told(play, known=2)
    assert "done=1" in told(play, known=2)


def test_control_signs_never_reach_the_terminal(play: Play) -> None:
    assert "\x1b" not in told(play, name="evil\x1b[2J\nname")


def test_a_terminal_shows_progress_best_and_time_to_go(play: Play, plan: Plan) -> None:
    stream, now = io.StringIO(), [0.0]
    console = Console(file=stream, force_terminal=True, width=100, color_system=None)
    observer = ConsoleObserver(console, clock=lambda: now[0])
    play(observer, stop=1)
    now[0] = 10.0
    shown = Console(file=io.StringIO(), width=100, color_system=None)
    with shown.capture() as capture:
        shown.print(observer._picture())
    observer.close()
    assert "1/3 trials, about 20.0 s to go" in capture.get()
    assert "10.0 s spent, 4 min 50 s left of 5 min 00 s" in capture.get()
    lines = [" ".join(line.split()) for line in capture.get().splitlines()]
    assert "0 running, 1 complete, 0 stopped early, 0 failed, 0 refused" in lines
    assert "rows accuracy configuration" in lines
    assert any(line.startswith("best so far: trial 0 1,500 0.8000 lora r=1") for line in lines)


def test_what_is_set_aside_is_counted_and_its_progress_stays(
    play: Play, plan: Plan, trials: tuple[Trial, ...]
) -> None:
    now = [0.0]
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    observer = ConsoleObserver(console, clock=lambda: now[0])
    study = play(observer, stop=1)  # one trial of three is done
    late = trials[3]
    assert late.result is not None
    running = late.model_copy(update={"state": "running", "result": None})
    observer.trial_started(running)
    observer.trial_reported(running, late.result.reports[0])  # 500 of 1,500 rows
    now[0] = 10.0
    done, _, needed = observer._progress()
    observer.trial_paused(running)
    assert observer._progress() == (done, 10.0, needed)
    assert done == pytest.approx(1 + 1 / 3)
    assert observer._counts() == "0 running, 1 complete, 1 set aside, 0 stopped early, 0 failed, 0 refused"
    observer.trial_started(running)
    assert observer._progress() == (done, 10.0, needed)
    assert observer._counts() == "1 running, 1 complete, 0 stopped early, 0 failed, 0 refused"
    observer.trial_paused(running)
    observer.close()

    left = TrialResult(state="paused", reports=late.result.reports[:1])
    paused = late.model_copy(update={"state": "paused", "result": left})
    resumed = ConsoleObserver(console, clock=lambda: now[0])
    resumed.study_started(study.model_copy(update={"trials": (*study.trials, paused)}), plan, 3, 60.0)
    assert resumed._progress() == (pytest.approx(1 + 1 / 3), 0.0, 60.0)
    resumed.close()


@pytest.mark.parametrize(
    ("asked", "before", "to_go"),
    [
        pytest.param(None, 0, 500.0, id="as many as time pays for"),
        pytest.param(None, 20, 500.0, id="as many as the time of this session pays for"),
        pytest.param(27, 20, 500.0, id="as many as were asked for in all sessions"),
        pytest.param(22, 20, 0.0, id="no more than these two"),
    ],
)
def test_a_resumed_session_says_how_long_its_own_trials_take(
    plan: Plan, trials: tuple[Trial, ...], asked: int | None, before: int, to_go: float
) -> None:
    """Two trials of this session took 100 s each: the five that are left take 500 s, whatever was before."""
    now = [0.0]
    done = [trials[0].model_copy(update={"number": number}) for number in range(before + 2)]
    budget = plan.budget.model_copy(update={"time": 7200.0, "trials": asked})
    console = Console(file=io.StringIO(), width=100, color_system=None)
    observer = ConsoleObserver(console, clock=lambda: now[0])
    study = Study(
        name="x", folder="x", metric=ACCURACY, seed=0, trials=tuple(done[:before]), seconds=50.0 * before
    )
    observer.study_started(study, plan.model_copy(update={"budget": budget}), asked or 7, 700.0)
    for trial in done[before:]:
        now[0] += 100
        observer.trial_finished(trial)
    with console.capture() as capture:
        console.print(observer._picture())
    shown = capture.get()
    assert f"{before + 2}/{asked or before + 7} trials, about {format_seconds(to_go)} to go" in shown


def test_a_terminal_gets_its_cursor_back(play: Play) -> None:
    text = told(play, terminal=True)
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1


def test_observers_are_imported_without_heavy_libraries() -> None:
    code = (
        "import sys, autopeft.tracking.console, autopeft.tracking.mlflow;"
        "print({'torch', 'mlflow', 'ray', 'pandas', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_doubtful_profile_is_said_at_the_start(play: Play, plan: Plan) -> None:
    study = play(ConsoleObserver(Console(file=io.StringIO())), stop=0)
    slowed = plan.profile.model_copy(update={"disturbance": 0.5})
    stream = io.StringIO()
    observer = ConsoleObserver(Console(file=stream, width=80))
    observer.study_started(study, plan.model_copy(update={"profile": slowed}), 3, 60.0)
    assert "predictions are doubtful: measure again on an idle machine" in stream.getvalue()
    assert "doubtful" not in told(play)

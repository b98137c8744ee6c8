"""ConsoleObserver: the search on a terminal, live; in a log, one line an event."""

from __future__ import annotations

import atexit
import math
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from autopeft.plan.plan import Plan
from autopeft.search.study import Study, Trial
from autopeft.train.result import Report
from autopeft.units import format_bytes, format_limit, format_seconds
from autopeft.workload.dataset import Dataset

_STYLES = {"complete": "green", "paused": "yellow", "stopped": "yellow", "failed": "red", "rejected": "dim"}
_WORDS = {
    "complete": "complete",
    "paused": "set aside",
    "stopped": "stopped early",
    "failed": "failed",
    "rejected": "refused",
}


class Running(NamedTuple):
    """A trial under way with its last report and the rows it will have seen at its end."""

    trial: Trial
    report: Report | None
    rows: int

    @property
    def share(self) -> float:
        """How much of its training is behind it."""
        return min(1.0, self.report.samples / self.rows) if self.report and self.rows else 0.0


class ConsoleObserver:
    """Shows a search on a console; on a terminal a live display, otherwise a plain line for each event.

    What it cannot write (a closed stream, a broken pipe) it leaves unwritten: the search goes on.
    """

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._live: Live | None = None
        self._study: Study | None = None
        self._plan: Plan | None = None
        self._expected_trials, self._expected_seconds = 0.0, 0.0
        self._began = clock()
        self._done_before = 0.0
        self._running: dict[int, Running] = {}
        self._aside: dict[int, Running] = {}
        self._begun: set[int] = set()
        self._held: dict[int, str] = {}
        self._done: dict[int, Trial] = {}

    def data_read(self, dataset: Dataset) -> None:
        """Write what was taken for what, and what was decided about the rows; a line for each decision."""
        columns = ", ".join(f"{role}={column}" for role, column in dataset.columns.items())
        self._line(f"data {dataset.name} task={dataset.task}" + (f" columns: {columns}" if columns else ""))
        for note in dataset.notes:
            self._line(f"data {note}")
        if meaning := dataset.metric.meaning:
            self._line(f"score {dataset.metric.name}: {meaning}")

    def study_started(self, study: Study, plan: Plan, expected_trials: int, expected_seconds: float) -> None:
        """Show what is to come, and on a terminal start the live display."""
        self._study, self._plan = study, plan
        self._expected_seconds = expected_seconds
        self._began, self._running = self._clock(), {}
        self._done = {trial.number: trial for trial in study.trials if trial.finished}
        self._aside = {
            trial.number: Running(trial, _last(trial), self._rows_of(trial))
            for trial in study.trials
            if trial.state == "paused"
        }
        self._begun = {trial.number for trial in study.trials if trial.state != "rejected"}
        self._done_before = self._done_so_far()
        # A number that was asked for is of all sessions; one that time pays for comes on top of what is done.
        on_top = plan.budget.trials is None and plan.budget.time is not None
        self._expected_trials = expected_trials + (self._done_before if on_top else 0)
        words = [
            f"trials={expected_trials - 1}+default",
            f"expected={format_seconds(max(0.0, expected_seconds))}",
        ]
        if plan.budget.gpu_mem:
            words.append(f"memory={format_limit(plan.budget.gpu_mem)}")
        if plan.budget.time:
            before = f" ({format_seconds(study.seconds)} spent)" if study.trials else ""
            words.append(f"time={format_seconds(plan.budget.time)}{before}")
        verb = "resumed" if study.trials else "started"
        if study.trials:
            words.append(f"done={self._finished()}")
        self._line(f"study {study.name} {verb} {' '.join(words)}")
        if plan.profile.doubt:
            self._line("predictions are doubtful: measure again on an idle machine (autopeft profile)")
        if self._console.is_terminal and self._live is None:
            live = Live(
                get_renderable=self._picture, console=self._console, refresh_per_second=4, transient=True
            )
            if self._tolerant(live.start):
                self._live = live
                atexit.register(self.close)  # so that an interrupted search gives the cursor back

    def trial_started(self, trial: Trial) -> None:
        """Take the trial among the running ones, from where it was set aside."""
        before = self._aside.pop(trial.number, None)
        report = before.report if before else None
        self._running[trial.number] = Running(trial, report, self._rows_of(trial))
        verb = "goes on" if trial.number in self._begun else "started"
        self._begun.add(trial.number)
        if self._live is None:
            note = f" ({trial.note})" if trial.note else ""
            self._line(f"trial {trial.number} {verb} {trial.label}{note}")

    def trial_reported(self, trial: Trial, report: Report) -> None:
        """Update the trial's progress."""
        known = self._running.get(trial.number)
        self._running[trial.number] = Running(trial, report, known.rows if known else 0)
        if self._live is None:
            loss = "" if report.loss is None else f" loss={report.loss:.4g}"
            score = f"{self._metric()}={report.score:.4f}"
            self._line(
                f"trial {trial.number} report rows={report.samples} {score}{loss} "
                f"step={format_seconds(report.step_seconds)} peak={format_bytes(report.peak_bytes)}"
            )

    def trial_paused(self, trial: Trial) -> None:
        """Take the trial from the running ones; what it has seen stays counted.

        Its line waits for what comes next: at the search's end that one says so, and why.
        """
        known = self._running.pop(trial.number, Running(trial, None, 0))
        self._aside[trial.number] = known
        if self._live is None:
            # What was reported in an earlier session is not told.
            where = "before its next evaluation"
            if known.report:
                where = f"after {known.report.samples} rows, {self._metric()}={known.report.score:.4f}"
            self._held[trial.number] = f"trial {trial.number} set aside {where}"

    def trial_finished(self, trial: Trial) -> None:
        """Write how the trial ended; the line stays above the live display."""
        self._running.pop(trial.number, None)
        if self._aside.pop(trial.number, None) is None:
            self._let_go()
        self._held.pop(trial.number, None)
        self._done[trial.number] = trial
        score = trial.result.score if trial.result else math.nan
        shown = "" if math.isnan(score) else f" {self._metric()}={score:.4f}"
        best = self._best()
        mark = " best so far" if best is not None and best.number == trial.number else ""
        reason = trial.reason or (trial.result.reason if trial.result else "")
        because = f": {reason}" if reason else ""
        line = f"trial {trial.number} {trial.state}{shown}{mark} {trial.label}{because}"
        self._write(line, style=_STYLES.get(trial.state, ""))

    def study_finished(self, study: Study) -> None:
        """Take the live display away and write the result."""
        before, self._study = self._study.seconds if self._study else 0.0, study
        self.close()
        best = study.best
        end = "no trial was trained to the end"
        if best is not None and best.result is not None:
            score = f"{study.metric.name}={best.result.score:.4f}"
            end = f"best {score} trial {best.number} {best.candidate.label}"
        here = format_seconds(max(0.0, study.seconds - before))
        whole = f", {format_seconds(study.seconds)} with the sessions before" if before else ""
        self._line(f"study {study.name} finished in {here}{whole}: {end}")

    def close(self) -> None:
        """Take the live display away; harmless if there is none."""
        self._let_go()
        live, self._live = self._live, None
        if live is not None:
            atexit.unregister(self.close)
            self._tolerant(live.stop)

    def _metric(self) -> str:
        return self._study.metric.name if self._study else "score"

    def _finished(self) -> int:
        return sum(trial.state != "rejected" for trial in self._done.values())

    def _rows_of(self, trial: Trial) -> int:
        rows = self._plan.workload.rows if self._plan else 0
        return round(rows * trial.candidate.training.epochs)

    def _done_so_far(self) -> float:
        """Return the trials done, those under way and set aside in part."""
        under_way = [*list(self._running.values()), *list(self._aside.values())]
        return self._finished() + sum(each.share for each in under_way)

    def _best(self) -> Trial | None:
        if self._study is None:
            return None
        return self._study.model_copy(update={"trials": tuple(self._done.values())}).best

    def _line(self, text: str) -> None:
        """Write a line, behind those that waited for it."""
        self._let_go()
        self._write(text)

    def _let_go(self) -> None:
        held, self._held = self._held, {}
        for line in held.values():
            self._write(line)

    def _write(self, text: str, style: str = "") -> None:
        flat = self._clean(text)
        self._tolerant(lambda: self._console.print(Text(flat, style=style), soft_wrap=True))

    def _clean(self, text: str) -> str:
        """Keep a text on its line, without control signs and in what the console can encode."""
        flat = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
        encoding = self._console.encoding
        return flat.encode(encoding, "replace").decode(encoding, "replace")

    def _tolerant(self, write: Callable[[], None]) -> bool:
        """Write, and say whether it worked: a closed stream raises ValueError, a broken one OSError."""
        try:
            write()
        except (OSError, ValueError):
            return False
        return True

    def _progress(self) -> tuple[float, float, float | None]:
        """Return the trials done (in part, too), the seconds spent and those still needed."""
        spent = self._clock() - self._began
        done = self._done_so_far()
        here = done - self._done_before
        left = max(0.0, self._expected_trials - done)
        if here < 1:
            return done, spent, max(0.0, self._expected_seconds - spent) if self._expected_seconds else None
        return done, spent, min(spent / here * left, self._time_left(spent))

    def _time_left(self, spent: float) -> float:
        """Return the seconds left of the time budget; infinite where there is none."""
        limit = self._plan.budget.time if self._plan else None
        before = self._study.seconds if self._study else 0.0
        return math.inf if limit is None else max(0.0, limit - before - spent)

    def _picture(self) -> Group:
        """Draw the display; called by rich four times a second."""
        done, spent, needed = self._progress()
        total = max(math.ceil(self._expected_trials), math.ceil(done), 1)
        head = Table.grid(padding=(0, 1))
        to_go = "" if needed is None else f", about {format_seconds(needed)} to go"
        bar = ProgressBar(total=total, completed=done, width=20)
        head.add_row(bar, f"{self._finished()}/{total} trials{to_go}")
        times = f"{format_seconds(spent)} spent"
        limit = self._plan.budget.time if self._plan else None
        if limit:
            times += f", {format_seconds(self._time_left(spent))} left of {format_seconds(limit)}"
        return Group(head, Text(times), Text(self._counts(), style="dim"), self._table())

    def _counts(self) -> str:
        """Say how many trials run, how many are set aside, and how the others ended."""
        ended: Counter[str] = Counter(trial.state for trial in self._done.values())
        ended["paused"] += len(self._aside)
        said = [each for each in _WORDS if ended[each] or each != "paused"]
        parts = [f"{len(self._running)} running", *(f"{ended[each]} {_WORDS[each]}" for each in said)]
        return ", ".join(parts)

    def _table(self) -> Table:
        """Draw the best trial and those that run."""
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False)
        for name in ("", "rows", self._clean(self._metric())):
            table.add_column(name, no_wrap=True)
        table.add_column("configuration")  # which alone gives way where the console is narrow
        best = self._best()
        if best is not None and best.result is not None:
            seen = f"{best.result.reports[-1].samples:,}" if best.result.reports else ""
            label = self._clean(best.candidate.label)
            row = (f"best so far: trial {best.number}", seen, f"{best.result.score:.4f}", label)
            table.add_row(*_cells(row), style="bold")
        for trial, report, rows in list(self._running.values()):
            seen, score = "starting", ""
            if report is not None:
                seen = f"{report.samples:,}/{rows:,}" if rows else f"{report.samples:,}"
                score = f"{report.score:.4f}"
            row = (f"running: trial {trial.number}", seen, score, self._clean(trial.label))
            table.add_row(*_cells(row), style="dim")
        return table


def _last(trial: Trial) -> Report | None:
    return trial.result.reports[-1] if trial.result and trial.result.reports else None


def _cells(row: tuple[str, ...]) -> list[Text]:
    return [Text(cell, no_wrap=True, overflow="ellipsis") for cell in row]

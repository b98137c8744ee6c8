"""What every Observer must stand: it sees what comes, in any order, and never raises."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from autopeft.search.observer import Observer
from autopeft.search.study import Study
from autopeft.tracking.console import ConsoleObserver
from autopeft.tracking.mlflow import MlflowObserver
from autopeft.tracking.mlflow_store import default_tracking_uri

Play = Callable[..., Study]


def _closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(
    params=[
        "log",
        "terminal",
        "ascii terminal",
        "closed stream",
        "mlflow",
        "mlflow without a server",
        "mlflow on a broken file",
    ]
)
def observer(request: pytest.FixtureRequest, workspace: Path) -> Iterator[Observer]:
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    broken = workspace / "broken.db"
    broken.write_bytes(b"this is no database" * 100)
    makers: dict[str, Callable[[], ConsoleObserver | MlflowObserver]] = {
        "log": lambda: ConsoleObserver(Console(file=io.StringIO())),
        "terminal": lambda: ConsoleObserver(Console(file=io.StringIO(), force_terminal=True)),
        "ascii terminal": lambda: ConsoleObserver(Console(file=ascii_only, force_terminal=True)),
        "closed stream": lambda: ConsoleObserver(Console(file=_closed(), force_terminal=True)),
        "mlflow": lambda: MlflowObserver(default_tracking_uri(workspace), "contract"),
        "mlflow without a server": lambda: MlflowObserver("http://127.0.0.1:9", "contract"),
        "mlflow on a broken file": lambda: MlflowObserver(f"sqlite:///{broken}", "contract"),
    }
    made = makers[request.param]()
    yield made
    made.close()


def test_it_stands_a_whole_search(observer: Observer, play: Play) -> None:
    play(observer, name="whole")


def test_it_stands_a_search_that_is_cut_off_and_goes_on(observer: Observer, play: Play) -> None:
    play(observer, name="cut", stop=2)
    play(observer, name="cut", known=2)


def test_it_stands_a_search_without_a_trial(observer: Observer, play: Play) -> None:
    study = play(observer, name="empty", stop=0)
    observer.study_finished(study)


def test_it_stands_a_finished_search_that_is_resumed(observer: Observer, play: Play) -> None:
    play(observer, name="again", known=4)


def test_it_stands_events_before_the_start(observer: Observer, play: Play) -> None:
    collected: list[tuple[str, tuple[object, ...]]] = []

    class Recorder:
        def __getattr__(self, name: str) -> Callable[..., None]:
            return lambda *parts: collected.append((name, parts))

    play(Recorder(), name="early")
    for name, parts in collected[1:]:
        getattr(observer, name)(*parts)

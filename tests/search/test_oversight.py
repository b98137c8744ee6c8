"""Work that calls Ray is left behind where it does not come back, and otherwise ends as it ends."""

from __future__ import annotations

import signal
import threading

import pytest

from autopeft.errors import AutopeftError
from autopeft.search.oversight import RAY_DIED, oversee


def test_what_never_returns_once_ray_has_died_is_told_to_stop_and_left_behind() -> None:
    told, never = threading.Event(), threading.Event()
    with pytest.raises(AutopeftError) as error:
        oversee(never.wait, lambda: False, told.set, patience=0.05)
    assert str(error.value) == RAY_DIED
    assert told.is_set()
    never.set()


def test_what_ends_when_it_is_told_to_is_waited_for() -> None:
    told, done = threading.Event(), threading.Event()

    def work() -> None:
        told.wait()
        done.set()

    with pytest.raises(AutopeftError, match="Ray's own processes died"):
        oversee(work, lambda: False, told.set)
    assert done.is_set()


def test_what_fails_as_ray_dies_fails_of_that() -> None:
    alive = [True]

    def work() -> None:
        alive[0] = False
        raise RuntimeError("an actor died")

    with pytest.raises(AutopeftError, match="Ray's own processes died") as error:
        oversee(work, lambda: alive[0], lambda: None)
    assert isinstance(error.value.__cause__, RuntimeError)


def test_while_ray_lives_a_failure_is_its_own_and_nothing_is_stopped() -> None:
    told = threading.Event()

    def work() -> None:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        oversee(work, lambda: True, told.set)
    assert not told.is_set()


def test_an_interrupt_stops_the_work_and_comes_through(request: pytest.FixtureRequest) -> None:
    # Whatever ran in this process before may have taken the signal for itself.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))  # type: ignore[arg-type]
    told = threading.Event()

    def work() -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        told.wait()

    with pytest.raises(KeyboardInterrupt):
        oversee(work, lambda: True, told.set)
    assert told.is_set()

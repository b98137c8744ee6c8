from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from autopeft.cost.tracing.beside import beside


def test_work_beside_is_done_in_another_process() -> None:
    with beside(os.getpid, alone=True) as wait:
        assert wait() != os.getpid()


def test_work_is_done_here_where_other_traces_want_the_cores() -> None:
    with beside(os.getpid, alone=False) as wait:
        assert wait() == os.getpid()


def test_what_fails_there_fails_here() -> None:
    def fail() -> None:
        raise ZeroDivisionError("a bug of a library")

    with beside(fail, alone=True) as wait, pytest.raises(ZeroDivisionError, match="a bug"):
        wait()


def test_what_comes_to_nothing_there_is_done_here() -> None:
    here = os.getpid()

    def work() -> int:
        return here if os.getpid() == here else os._exit(1)

    with beside(work, alone=True) as wait:
        assert wait() == here


def test_nothing_outlives_the_block(tmp_path: Path) -> None:
    file = tmp_path / "pid"

    def work() -> None:
        file.write_text(str(os.getpid()))
        time.sleep(60)

    with beside(work, alone=True):
        while not (file.exists() and file.read_text()):
            time.sleep(0.01)
    with pytest.raises(ProcessLookupError):
        os.kill(int(file.read_text()), 0)

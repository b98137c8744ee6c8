from __future__ import annotations

import os
import signal
import subprocess
import sys
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


def test_what_is_killed_while_it_answers_is_done_here(tmp_path: Path) -> None:
    here, file = os.getpid(), tmp_path / "pid"

    def work() -> bytes:
        if os.getpid() != here:
            file.write_text(str(os.getpid()))
        return bytes(20_000_000)

    with beside(work, alone=True) as wait:
        while not (file.exists() and file.read_text()):
            time.sleep(0.01)
        time.sleep(0.2)  # the pipe is full by now
        os.kill(int(file.read_text()), signal.SIGKILL)
        assert wait() == bytes(20_000_000)


def test_it_ends_with_a_parent_that_dies(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    program = f"""
import os, time
from pathlib import Path
from autopeft.cost.tracing.beside import beside
def work():
    Path({str(file)!r}).write_text(str(os.getpid()))
    time.sleep(60)
with beside(work, alone=True):
    while not (Path({str(file)!r}).exists() and Path({str(file)!r}).read_text()):
        time.sleep(0.01)
    os._exit(9)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=False)
    assert done.returncode == 9
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(int(file.read_text()), 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{file.read_text()}/stat").read_text().split()[2] == "Z":
            return  # dead, and nobody has asked yet
        time.sleep(0.05)
    pytest.fail("it is still there")


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

"""Answers from a process of their own: what becomes of one that takes too much, or finds the disk full."""

from __future__ import annotations

import sys

import pytest

from autopeft.service import apart
from tests.service.conftest import QUESTION

MISDEEDS = {
    "memory": "bytearray(10**9)",
    "much at once": "[bytearray(10**7) for _ in range(100)]",
    "disk": "open('/dev/full', 'wb', buffering=0).write(b'x')",
    "processes": "(_ for _ in ()).throw(BlockingIOError(errno.EAGAIN, 'no more processes'))",
    "killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "crashed": "os.abort()",
    "slow": "time.sleep(60)",
    "bug": "{}['x']",
}
SCRIPT = """
import errno, os, signal, sys, time
from autopeft.service import apart
def misdeed(**_): {misdeed}
apart._VERBS["serving"] = misdeed
sys.exit(apart.main())
"""


@pytest.mark.parametrize(
    ("misdeed", "status", "kind", "words"),
    [
        ("memory", 422, "unsupported", "more than 500 MiB of memory"),
        ("much at once", 422, "unsupported", "more than 500 MiB of memory"),
        ("disk", 507, "storage", "No space left on device"),
        ("processes", 503, "busy", "try again"),
        ("killed", 503, "busy", "signal 9"),
        ("crashed", 503, "busy", "signal 6"),
        ("slow", 503, "busy", "within 3 s"),
        ("bug", 500, "internal", "bug"),
    ],
)
def test_a_process_that_cannot_answer_is_a_problem_with_the_reason(
    service, monkeypatch, misdeed, status, kind, words
) -> None:
    command = [sys.executable, "-c", SCRIPT.format(misdeed=MISDEEDS[misdeed])]
    monkeypatch.setattr(apart, "_COMMAND", command)
    monkeypatch.setattr(apart, "BYTES", 500 * 2**20)
    if misdeed == "slow":
        monkeypatch.setattr(apart, "SECONDS", 3)
    reply = service.post("/api/v1/serving", json=QUESTION)
    assert reply.status_code == status, reply.text
    assert reply.json()["type"].endswith(f":{kind}")
    assert words in reply.json()["detail"]
    assert ("retry-after" in reply.headers) == (status == 503)


def test_a_machine_that_can_start_no_process_is_busy(service, monkeypatch) -> None:
    def none(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(apart.subprocess, "Popen", none)
    reply = service.post("/api/v1/serving", json=QUESTION)
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "30")

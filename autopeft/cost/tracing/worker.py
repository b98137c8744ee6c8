"""The tracing worker: `python -m autopeft.cost.tracing.worker`, requests in, tapes out.

It imports torch, transformers and peft once and then forks a child for every trace. A child's end
takes all traces of the shims with it, and a child that crashes or takes too long costs nobody else
anything: a second trace in one process was seen to crash inside the fake-tensor machinery.

A request is one line of JSON; an answer one line of JSON (`state`, `bytes`), then so many bytes.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
import warnings
from typing import Any

_CHUNK = 1 << 16


def main() -> None:
    """Serve until the input ends."""
    # What a library prints must not get between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business; it closes our input
    warnings.simplefilter("ignore")
    from autopeft.cost.tracing import trace  # noqa: F401 (imported once, before the forks)

    for line in sys.stdin:
        state, payload = _serve(json.loads(line))
        head = json.dumps({"state": state, "bytes": len(payload)})
        answers.write(head.encode() + b"\n" + payload)
        answers.flush()


def _serve(message: dict[str, Any]) -> tuple[str, bytes]:
    """Trace in a child; return "tape", "unsupported" or "input", and the tape or the reason."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        _trace_and_leave(message["request"], write)
    os.close(write)
    try:
        content, in_time = _read_all(read, float(message["seconds"]))
    finally:
        os.close(read)
    if not in_time:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not in_time:
        return "unsupported", f"tracing took more than {message['seconds']:.0f} s".encode()
    if os.waitstatus_to_exitcode(status) != 0 or b"\n" not in content:
        return "unsupported", f"tracing crashed with status {os.waitstatus_to_exitcode(status)}".encode()
    state, _, payload = content.partition(b"\n")
    return state.decode(), payload


def _trace_and_leave(request: dict[str, Any], write: int) -> None:
    """Trace, send the result and end the process without running what the parent left to be run."""
    from autopeft.cost.tracing.request import TraceRequest
    from autopeft.cost.tracing.trace import trace
    from autopeft.errors import AutopeftError, InputError

    code = 1
    try:
        try:
            answer = b"tape\n" + trace(TraceRequest.model_validate(request)).to_bytes()
        except AutopeftError as error:
            state = b"input" if isinstance(error, InputError) else b"unsupported"
            answer = state + b"\n" + str(error).encode()
        with os.fdopen(write, "wb") as stream:
            stream.write(answer)
        code = 0
    finally:
        os._exit(code)


def _read_all(descriptor: int, seconds: float) -> tuple[bytes, bool]:
    """Read until the end; the flag says whether it came in time."""
    deadline = time.monotonic() + seconds
    chunks = []
    while True:
        ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return b"".join(chunks), False
        chunk = os.read(descriptor, _CHUNK)
        if not chunk:
            return b"".join(chunks), True
        chunks.append(chunk)


if __name__ == "__main__":
    main()

"""The tracing process: `python -m autopeft.cost.tracing.worker` answers requests on stdin with patterns.

A frame is its length (8 bytes, big endian) and its body. A request's body is one byte, `ALONE` where no
other trace wants a core, else `AMONG_OTHERS`, and then a `TraceRequest` as JSON; an answer's is one byte,
`PATTERN`, `INPUT` or `UNSUPPORTED`, and then a pattern or a message.
"""

from __future__ import annotations

import gc
import os
import struct
import sys
from typing import BinaryIO

PATTERN, INPUT, UNSUPPORTED = b"T", b"I", b"U"
ALONE, AMONG_OTHERS = b"1", b"2"
_LENGTH = struct.Struct(">Q")


def read_frame(stream: BinaryIO) -> bytes | None:
    """Read one frame; None at the end of the stream."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    body = stream.read(length)
    return body if len(body) == length else None


def write_frame(stream: BinaryIO, body: bytes) -> None:
    """Write one frame."""
    stream.write(_LENGTH.pack(len(body)) + body)
    stream.flush()


def main() -> None:
    """Answer requests until stdin ends."""
    requests = sys.stdin.buffer
    # Whatever libraries print goes to stderr; the answers keep the real stdout to themselves.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    _import()
    while (request := read_frame(requests)) is not None:
        write_frame(answers, answer(request))


def answer(request: bytes) -> bytes:
    """Trace what a request asks for."""
    from autopeft.cost.tracing.request import TraceRequest
    from autopeft.cost.tracing.trace import trace
    from autopeft.errors import InputError, UnsupportedError

    try:
        asked = TraceRequest.model_validate_json(request[1:])
        return PATTERN + trace(asked, alone=request[:1] == ALONE).to_bytes()
    except InputError as error:
        return INPUT + str(error).encode()
    except UnsupportedError as error:
        return UNSUPPORTED + str(error).encode()


def _import() -> None:
    """Import what every trace needs, and spare the collector from looking at it again."""
    import warnings

    import torch

    # Nothing is compiled here, and functions that are decorated to be would load the compiler: a second.
    torch.compile = lambda model=None, **_: model if model is not None else (lambda function: function)  # type: ignore[assignment]
    from autopeft.cost.tracing import trace

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    del trace
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    main()

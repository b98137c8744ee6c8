"""Oversight: what calls Ray does so in a thread of its own, as a call may never return once Ray has died.

Some calls wait for Ray's control store without end and deaf to Ctrl-C; a minute after that has died, Ray ends
the whole process with status 1 (`gcs_rpc_server_reconnect_timeout_s`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from autopeft.errors import AutopeftError

LOOK_SECONDS = 0.5
"""How often Ray's own processes are looked at."""
PATIENCE_SECONDS = 10.0
"""What is told to stop gets so long to come to its end; then it is left behind."""
RAY_DIED = "Ray's own processes died; finished trials are kept, go on with --resume."


def oversee(
    work: Callable[[], None],
    alive: Callable[[], bool],
    stop: Callable[[], None],
    *,
    patience: float = PATIENCE_SECONDS,
) -> None:
    """Do work in a thread, and come back from it where Ray dies or the user interrupts.

    Args:
        alive: says whether Ray's own processes are.
        stop: tells the work, from this thread, to do nothing more and end.

    Raises:
        AutopeftError: Ray has died.
    """
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 (raised again in the thread that waits)
            failed.append(error)

    thread = threading.Thread(target=run, name="ray", daemon=True)
    died = False
    try:
        thread.start()
        while thread.is_alive() and not died:
            thread.join(LOOK_SECONDS)
            died = thread.is_alive() and not alive()
    finally:
        if thread.is_alive():
            stop()
            thread.join(patience)
    if died or (failed and not alive()):  # whatever Tune makes of it
        raise AutopeftError(RAY_DIED) from next(iter(failed), None)
    if failed:
        raise failed[0]

"""autopeft ui."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from autopeft.cli.exits import Exit
from autopeft.cli.flags import Json, takes_request
from autopeft.errors import InputError, StorageError

if TYPE_CHECKING:
    from autopeft.request import Request

Port = Annotated[
    int | None, typer.Option(min=1, max=65535, metavar="N", help="Port to listen on. Default: any free one.")
]


@takes_request("workspace")
def ui(request: Request, port: Port = None, as_json: Json = False) -> int:
    """Browse all runs in MLflow, on this machine only, until Ctrl-C."""
    import subprocess

    from autopeft import handover
    from autopeft.cli import screen

    command = _command(handover.tracking_uri(request), chosen := port or _free_port())
    url = f"http://127.0.0.1:{chosen}"
    answer = {"url": url} if as_json else f"MLflow: {url}  (about 10 seconds to start; Ctrl-C ends it)"
    screen.show(answer, str, as_json=as_json)
    # The command is our own interpreter with arguments made here.
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
    try:
        code = server.wait()
    except KeyboardInterrupt:
        return Exit.DONE
    finally:
        server.terminate()
        server.wait()
    raise StorageError(f"the viewer ended with status {code}: try another --port, or `autopeft doctor`.")


def _command(store: str, port: int) -> list[str]:
    """Return the command of the viewer.

    Raises:
        InputError: there is nothing to see yet.
    """
    import sys
    from pathlib import Path

    file = Path(store.removeprefix("sqlite:///"))
    if not file.exists():
        raise InputError(f"there are no runs in {file.parent} yet: `autopeft run --demo` makes some.")
    flags = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    return [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store, *flags]


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

"""A PostgreSQL server of the system's packages, started for tests on a port of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("initdb", "postgres")


def why_not() -> str:
    """Say why no server can be started here; empty where one can."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"no PostgreSQL server here: {' and '.join(missing)} not found"
    if os.geteuid() == 0 and _owner() is None:
        return "a PostgreSQL server does not run as root, and there is no user postgres or nobody"
    return ""


@contextmanager
def running_server() -> Iterator[str]:
    """Start a server with an empty database; yield its URL, and leave nothing behind."""
    owner = _owner() if os.geteuid() == 0 else None
    place = Path(tempfile.mkdtemp(prefix="autopeft-postgres-"))
    if owner is not None:
        os.chown(place, owner.pw_uid, owner.pw_gid)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    who = {"user": owner.pw_uid, "group": owner.pw_gid, "cwd": place} if owner else {"cwd": place}
    data, log = place / "data", place / "log.txt"
    subprocess.run(
        ["initdb", "-D", data, "-U", "autopeft", "-A", "trust", "--no-sync", "-E", "UTF8"],
        check=True, capture_output=True, **who,
    )  # fmt: skip
    with log.open("w") as stream:
        server = subprocess.Popen(
            ["postgres", "-D", data, "-k", place, "-h", "127.0.0.1", "-p", str(port), "-c", "fsync=off"],
            stdout=stream, stderr=stream, **who,
        )  # fmt: skip
        try:
            _wait(port, server, log)
            yield f"postgresql+psycopg://autopeft@127.0.0.1:{port}/postgres"
        finally:
            server.send_signal(signal.SIGINT)  # sends its clients away
            try:
                server.wait(timeout=20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
            shutil.rmtree(place, ignore_errors=True)


def _owner() -> pwd.struct_passwd | None:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    return None


def _wait(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the server takes connections, which it may refuse for a moment after it listens."""
    import psycopg

    deadline = time.monotonic() + 120
    while True:
        try:
            psycopg.connect(f"host=127.0.0.1 port={port} user=autopeft dbname=postgres").close()
        except psycopg.OperationalError:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        else:
            return

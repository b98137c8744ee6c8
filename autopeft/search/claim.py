"""Claims: only one process at a time searches, exports or syncs a study; one that dies lets go at once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import sqlalchemy as sql
from filelock import FileLock, Timeout

from autopeft.errors import ClaimedError, StorageError


@contextmanager
def claim_file(path: Path, what: str) -> Iterator[None]:
    """Hold a lock on a file of this machine; the operating system lets go when the process dies.

    Raises:
        ClaimedError: another process holds it.
        StorageError: the file cannot be written.
    """
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ClaimedError(_taken(what)) from None
    except OSError as error:
        raise StorageError(f"{path.parent} cannot be written: {error.strerror}.") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def claim_server(engine: sql.Engine, name: str, what: str) -> Iterator[sql.Connection]:
    """Hold a lock of a database server by a name, as long as its connection lives; yield the connection.

    PostgreSQL has session-level advisory locks, MySQL and MariaDB have GET_LOCK; other servers are
    protected by the file in the study's folder alone.

    Raises:
        ClaimedError: another process holds it.
    """
    digest = hashlib.sha256(f"autopeft study {engine.url.database} {name}".encode())
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            key = int.from_bytes(digest.digest()[:8], "big", signed=True)
            got = connection.execute(sql.select(sql.func.pg_try_advisory_lock(key))).scalar_one()
        elif engine.dialect.name in ("mysql", "mariadb"):
            got = connection.execute(sql.select(sql.func.get_lock(digest.hexdigest()[:60], 0))).scalar_one()
        else:
            got = True
        connection.commit()
        if not got:
            raise ClaimedError(_taken(what))
        try:
            yield connection
        finally:
            # Closed for good: back in the pool, the connection would keep the lock.
            with suppress(sql.exc.SQLAlchemyError):
                connection.invalidate()


def _taken(what: str) -> str:
    return f"{what} is being searched or exported by another process; wait for it or stop it."

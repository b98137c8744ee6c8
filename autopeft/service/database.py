"""The service's own database: tokens, jobs, their events, the audit log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sql

from autopeft.errors import InputError, MissingExtraError, StorageError
from autopeft.files import make_folder

_EXTRAS = {"psycopg": "postgres"}
_TRIES = 5
LOCK_WAIT_SECONDS = 20.0

_tables = sql.MetaData()
TOKENS = sql.Table(
    "service_tokens",
    _tables,
    sql.Column("id", sql.String(16), primary_key=True),
    sql.Column("name", sql.String(100), nullable=False),
    sql.Column("digest", sql.String(64), nullable=False),
    sql.Column("scope", sql.String(10), nullable=False),
    sql.Column("created", sql.Double, nullable=False),
    sql.Column("expires", sql.Double),
    sql.Column("revoked", sql.Double),
)
JOBS = sql.Table(
    "service_jobs",
    _tables,
    sql.Column("id", sql.String(26), primary_key=True),
    sql.Column("user", sql.String(100), nullable=False, index=True),
    sql.Column("kind", sql.String(10), nullable=False),
    sql.Column("study", sql.String(100), nullable=False, unique=True),
    sql.Column("request", sql.Text, nullable=False),
    sql.Column("state", sql.String(10), nullable=False, index=True),
    sql.Column("reason", sql.Text, nullable=False),
    sql.Column("seconds", sql.Double, nullable=False),
    sql.Column("spent", sql.Double, nullable=False),
    sql.Column("stopping", sql.Boolean, nullable=False),
    sql.Column("attempts", sql.Integer, nullable=False),
    sql.Column("owner", sql.String(100)),
    sql.Column("lease", sql.Double),
    sql.Column("submitted", sql.Double, nullable=False),
    sql.Column("queued", sql.Double, nullable=False),
    sql.Column("started", sql.Double),
    sql.Column("ended", sql.Double),
    sql.Column("key", sql.String(255)),
    sql.Column("key_digest", sql.String(64)),
    sql.UniqueConstraint("user", "key"),
)
EVENTS = sql.Table(
    "service_events",
    _tables,
    sql.Column("job", sql.String(26), sql.ForeignKey("service_jobs.id"), primary_key=True),
    sql.Column("number", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("event", sql.Text, nullable=False),
)
AUDIT = sql.Table(
    "service_audit",
    _tables,
    sql.Column("number", sql.Integer, primary_key=True),
    sql.Column("at", sql.Double, nullable=False),
    sql.Column("user", sql.String(100), nullable=False),
    sql.Column("action", sql.String(30), nullable=False),
    sql.Column("what", sql.String(200), nullable=False),
    sql.Column("request_id", sql.String(64), nullable=False),
)


class Database:
    """One database, which several service processes may share.

    Args:
        place: URL, such as `sqlite:////srv/service.db` or `postgresql+psycopg://USER@HOST/NAME`.

    Every method raises StorageError where the database cannot be written or read.
    """

    def __init__(self, place: str) -> None:
        try:
            url = sql.make_url(place)
        except sql.exc.ArgumentError:
            raise InputError(
                "the database must be a URL, such as postgresql+psycopg://USER@HOST/NAME, but is none."
            ) from None
        self.place = url.render_as_string(hide_password=True)
        self.is_sqlite = url.get_backend_name() == "sqlite"
        if not self.is_sqlite and url.get_backend_name() != "postgresql":
            raise InputError(f"the database must be SQLite or PostgreSQL, but got {self.place}.")
        if self.is_sqlite and url.database:
            make_folder(Path(url.database).parent)
        waiting: dict[str, Any] = {"timeout": LOCK_WAIT_SECONDS} if self.is_sqlite else {"connect_timeout": 5}
        with self._faults():
            self._engine = sql.create_engine(url, connect_args=waiting, pool_pre_ping=not self.is_sqlite)
        if self.is_sqlite:
            sql.event.listen(self._engine, "connect", _make_durable)
        with self._faults():
            self._make_tables()

    def _make_tables(self) -> None:
        for left in reversed(range(_TRIES)):
            try:
                _tables.create_all(self._engine)
            except sql.exc.DBAPIError:  # another process made one between the look and the making
                if not left:
                    raise
                time.sleep(0.2)
            else:
                return

    @contextmanager
    def reading(self) -> Iterator[sql.Connection]:
        """Have a connection to read."""
        with self._faults(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sql.Connection]:
        """Have a transaction: what is written in it is written when it ends, or not at all."""
        with self._faults(), self._engine.connect() as connection:
            if self.is_sqlite:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection
            connection.commit()

    def now(self, connection: sql.Connection) -> float:
        """Return the database's time in seconds, which all processes that share it agree on."""
        if self.is_sqlite:
            return time.time()
        return float(
            connection.execute(sql.text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one()
        )

    def check(self) -> None:
        """Find out whether the database answers."""
        with self.reading() as connection:
            connection.execute(sql.select(1))

    def note(self, user: str, action: str, what: str, request_id: str = "") -> None:
        """Write a line into the audit log."""
        row = {"user": user, "action": action, "what": what[:200], "request_id": request_id}
        with self.writing() as connection:
            connection.execute(AUDIT.insert().values(row | {"at": self.now(connection)}))

    def audit(self, *, limit: int, before: int | None = None) -> list[dict[str, Any]]:
        """Return lines of the audit log, the latest first."""
        wanted = sql.select(AUDIT).order_by(AUDIT.c.number.desc()).limit(limit)
        if before is not None:
            wanted = wanted.where(AUDIT.c.number < before)
        with self.reading() as connection:
            return [dict(row) for row in connection.execute(wanted).mappings()]

    def close(self) -> None:
        """Let go of all connections."""
        self._engine.dispose()

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Turn what a driver raises into one line without the statement, which may hold data."""
        try:
            yield
        except sql.exc.IntegrityError:
            raise
        except ModuleNotFoundError as error:
            extra = _EXTRAS.get(str(error.name))
            if extra is None:
                raise
            raise MissingExtraError(str(error.name), extra, f"the database {self.place}") from None
        except sql.exc.SQLAlchemyError as error:
            cause = str(getattr(error, "orig", None) or type(error).__name__).partition("\n")[0]
            raise StorageError(f"the database {self.place} cannot be used: {cause}") from None


def _make_durable(connection: Any, _record: object) -> None:
    """Let readers and a writer work side by side, and let no crash undo what was written."""
    connection.isolation_level = None
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")

"""StudyStore: a study's trials in a database; what a write has returned from survives any crash."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sql
from filelock import FileLock, Timeout
from pydantic import ValidationError

from autopeft.errors import StorageError
from autopeft.files import make_folder
from autopeft.message import Message
from autopeft.plan.plan import Plan
from autopeft.search.study import Study, Trial, TrialState
from autopeft.train.result import Report, TrialResult
from autopeft.workload.dataset import Metric

SCHEMA_VERSION = 1
LOCK_WAIT_SECONDS = 20.0

_tables = sql.MetaData()
_study = sql.Table(
    "study",
    _tables,
    sql.Column("schema_version", sql.Integer, nullable=False),
    sql.Column("name", sql.Text, nullable=False),
    sql.Column("metric", sql.Text, nullable=False),
    sql.Column("seed", sql.Integer, nullable=False),
    sql.Column("seconds", sql.Float, nullable=False),
    sql.Column("request", sql.Text, nullable=False),
    sql.Column("plan", sql.Text, nullable=False),
)
_trials = sql.Table(
    "trials",
    _tables,
    sql.Column("number", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("state", sql.Text, nullable=False),
    sql.Column("reason", sql.Text, nullable=False),
    sql.Column("trial", sql.Text, nullable=False),
)
_reports = sql.Table(
    "reports",
    _tables,
    sql.Column("trial", sql.Integer, sql.ForeignKey("trials.number"), primary_key=True),
    sql.Column("samples", sql.Integer, primary_key=True),
    sql.Column("report", sql.Text, nullable=False),
)
_SomeMessage = TypeVar("_SomeMessage", bound=Message)


class StudyStore:
    """The trials of one study, in SQLite or any database SQLAlchemy speaks to.

    Args:
        place: a SQLite file, or a database URL ("postgresql+psycopg://...").
        folder: directory that holds the study's other files; that of the SQLite file where left out.
        lock_wait_seconds: how long to wait for another program that writes.

    Every method raises StorageError where the database cannot be written or read.
    """

    def __init__(
        self, place: str | Path, *, folder: Path | None = None, lock_wait_seconds: float = LOCK_WAIT_SECONDS
    ) -> None:
        self.place = str(place)
        is_url = "://" in self.place
        url = sql.make_url(self.place) if is_url else sql.URL.create("sqlite", database=self.place)
        self.folder = folder or Path(url.database or ".").parent
        self._file = None if is_url else Path(place)
        with self._faults():
            waiting = {"timeout": lock_wait_seconds} if url.get_backend_name() == "sqlite" else {}
            self._engine = sql.create_engine(url, connect_args=waiting)
        if url.get_backend_name() == "sqlite":
            sql.event.listen(self._engine, "connect", _make_durable)

    def create(self, *, name: str, metric: Metric, seed: int, request: str, plan: Plan) -> None:
        """Begin the study; `request` is what was asked, as JSON."""
        row = {
            "schema_version": SCHEMA_VERSION,
            "name": name,
            "metric": metric.model_dump_json(),
            "seed": seed,
            "seconds": 0.0,
            "request": request,
            "plan": plan.model_dump_json(),
        }
        if self._file:
            make_folder(self._file.parent)
        with self._writing() as connection:
            _tables.create_all(connection)
            if connection.execute(sql.select(sql.func.count()).select_from(_study)).scalar_one():
                raise StorageError(f"{self.place} holds a study already; resume it or name another one.")
            connection.execute(_study.insert().values(row))

    def exists(self) -> bool:
        """Say whether a study has been created here."""
        if self._file and not self._file.exists():
            return False
        with self._reading() as connection:
            return bool(sql.inspect(connection).has_table("study")) and bool(
                connection.execute(sql.select(sql.func.count()).select_from(_study)).scalar_one()
            )

    def add_trial(self, trial: Trial) -> None:
        """Record a trial that starts, or that is rejected."""
        row = {"number": trial.number, "state": trial.state, "reason": trial.reason}
        body = trial.model_dump_json(exclude={"result"})
        with self._writing() as connection:
            connection.execute(_trials.insert().values(row | {"trial": body}))

    def report(self, number: int, report: Report) -> None:
        """Record an evaluation of a running trial."""
        with self._writing() as connection:
            connection.execute(_reports.insert().values(_report_row(number, report)))

    def finish(self, number: int, state: TrialState, reason: str = "", last: Report | None = None) -> None:
        """Record a trial's end together with its last evaluation, both or neither."""
        with self._writing() as connection:
            if last is not None:
                connection.execute(_reports.insert().values(_report_row(number, last)))
            change = _trials.update().where(_trials.c.number == number)
            connection.execute(change.values(state=state, reason=reason))

    def add_seconds(self, seconds: float) -> None:
        """Add to the wall time spent on the study."""
        with self._writing() as connection:
            connection.execute(_study.update().values(seconds=_study.c.seconds + seconds))

    def load(self) -> Study:
        """Read the study with all its trials; the evaluations of running ones are in `reports`."""
        with self._reading() as connection:
            head = self._head(connection)
            rows = connection.execute(sql.select(_trials).order_by(_trials.c.number)).all()
            reports = self._reports(connection)
        return Study(
            name=head.name,
            folder=str(self.folder),
            metric=self._parse(Metric, head.metric),
            seed=head.seed,
            seconds=head.seconds,
            trials=tuple(self._trial(row, reports.get(row.number, ())) for row in rows),
        )

    def reports(self, number: int) -> tuple[Report, ...]:
        """Read the evaluations of one trial, in their order."""
        with self._reading() as connection:
            return self._reports(connection, _reports.c.trial == number).get(number, ())

    def plan(self) -> Plan:
        """Read the plan that the study began with."""
        with self._reading() as connection:
            return self._parse(Plan, self._head(connection).plan)

    def request(self) -> str:
        """Read what was asked, as JSON."""
        with self._reading() as connection:
            return str(self._head(connection).request)

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep every other driver off the study; the operating system lets go when this one dies.

        Raises:
            StorageError: another process is running the study.
        """
        make_folder(self.folder)
        lock = FileLock(self.folder / "running.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise StorageError(
                f"the study in {self.folder} is being run by another process; wait for it or stop it."
            ) from None
        except OSError as error:
            raise StorageError(f"{self.folder} cannot be written: {error.strerror}.") from None
        try:
            yield
        finally:
            lock.release()

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def _trial(self, row: sql.Row[Any], reports: tuple[Report, ...]) -> Trial:
        trial = self._parse(Trial, row.trial)
        result = None
        if row.state in ("complete", "stopped", "failed"):
            result = TrialResult(state=row.state, reports=reports, reason=row.reason)
        return trial.model_copy(update={"state": row.state, "reason": row.reason, "result": result})

    def _reports(
        self, connection: sql.Connection, *which: sql.ColumnElement[bool]
    ) -> dict[int, tuple[Report, ...]]:
        found: dict[int, tuple[Report, ...]] = {}
        query = sql.select(_reports).where(*which).order_by(_reports.c.trial, _reports.c.samples)
        for row in connection.execute(query):
            found[row.trial] = (*found.get(row.trial, ()), self._parse(Report, row.report))
        return found

    def _head(self, connection: sql.Connection) -> sql.Row[Any]:
        if not sql.inspect(connection).has_table("study"):
            raise StorageError(f"{self.place} holds no study; start one without --resume.")
        head = connection.execute(sql.select(_study)).one_or_none()
        if head is None:
            raise StorageError(f"{self.place} holds no study; start one without --resume.")
        if head.schema_version != SCHEMA_VERSION:
            raise StorageError(
                f"{self.place} was written in format {head.schema_version}, but this autopeft reads "
                f"format {SCHEMA_VERSION}; use the autopeft that wrote it or start a new study."
            )
        return head

    def _parse(self, kind: type[_SomeMessage], text: str) -> _SomeMessage:
        try:
            return kind.model_validate_json(text)
        except ValidationError:
            raise StorageError(
                f"{self.place} holds a {kind.__name__} that this autopeft cannot read; "
                "use the autopeft that wrote it or start a new study."
            ) from None

    @contextmanager
    def _writing(self) -> Iterator[sql.Connection]:
        with self._faults(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[sql.Connection]:
        if self._file and not self._file.exists():  # SQLite would make an empty one
            raise StorageError(f"{self.place} does not exist; start a study without --resume.")
        with self._faults(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except sql.exc.DBAPIError as error:
            raise StorageError(f"{self.place}: {_explain(str(error.orig))}") from None
        except (sql.exc.SQLAlchemyError, ModuleNotFoundError) as error:
            first = str(error).partition("\n")[0]
            raise StorageError(f"{self.place} cannot be used as a study's database: {first}.") from None


def _make_durable(connection: Any, _record: object) -> None:
    """Make SQLite wait for the disk at every commit, and let readers read meanwhile."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")


def _report_row(number: int, report: Report) -> dict[str, Any]:
    return {"trial": number, "samples": report.samples, "report": report.model_dump_json()}


_CAUSES = {
    "disk is full": "the disk is full; free some space and go on with --resume.",
    "locked": "another program keeps the database locked; stop it and go on with --resume.",
    "not a database": "the file is no study's database, or is damaged; name another place.",
    "malformed": "the database is damaged; restore it from a copy or start a new study.",
    "readonly": "the database cannot be written; check the permissions of file and folder.",
    "unable to open": "the database cannot be opened; check the permissions of file and folder.",
    "disk I/O error": "the disk cannot be read or written (is it full?).",
}


def _explain(cause: str) -> str:
    first = cause.partition("\n")[0]
    return next((text for sign, text in _CAUSES.items() if sign in cause), f"the database says: {first}.")

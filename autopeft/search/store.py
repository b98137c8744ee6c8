"""StudyStore: a study's trials in a database; what a write has returned from survives any crash."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sql
from pydantic import ValidationError

from autopeft.errors import MissingExtraError, StorageError
from autopeft.files import make_folder
from autopeft.message import Message
from autopeft.plan.plan import Plan
from autopeft.search.claim import claim_file, claim_server
from autopeft.search.store_schema import (
    REPORTS,
    SCHEMA_VERSION,
    STUDY,
    TRIALS,
    give_id,
    id_of,
    make_tables,
    old_version,
    upgrade,
)
from autopeft.search.study import Study, Trial, TrialState
from autopeft.train.result import Report, TrialResult
from autopeft.workload.dataset import Metric

LOCK = "running.lock"
LOCK_WAIT_SECONDS = 20.0
_EXTRAS = {"psycopg": "postgres", "pymysql": "mysql"}
_SomeMessage = TypeVar("_SomeMessage", bound=Message)


class StudyStore:
    """The trials of one study, in a SQLite file of its own or in a database that many studies share.

    Args:
        place: a SQLite file, or a database URL ("postgresql+psycopg://...").
        name: the study's, where the database is shared; None takes the only one in it.
        folder: directory that holds the study's other files; that of the SQLite file where left out.
        lock_wait_seconds: how long to wait for another program that writes.

    Attributes:
        place: for messages.
        place_without_password: the same database; who opens it gives the password anew.

    Every method raises StorageError where the database cannot be written or read.
    """

    def __init__(
        self,
        place: str | Path,
        *,
        name: str | None = None,
        folder: Path | None = None,
        lock_wait_seconds: float = LOCK_WAIT_SECONDS,
    ) -> None:
        self.place = str(place)
        with self._faults():
            is_url = "://" in self.place
            url = sql.make_url(self.place) if is_url else sql.URL.create("sqlite", database=self.place)
        if is_url:
            self.place = url.render_as_string(hide_password=True)
        self.place_without_password = url.set(password=None).render_as_string(hide_password=False)
        self.folder = folder or Path(url.database or ".").parent
        self._name, self._shared = name, name is not None
        self._is_sqlite = url.get_backend_name() == "sqlite"
        self._file = Path(url.database or "") if self._is_sqlite else None
        self._claim: sql.Connection | None = None
        if url.get_backend_name() in ("mysql", "mariadb") and not url.password:
            url = url.set(password=os.environ.get("MYSQL_PWD"))
        with self._faults():
            waiting = {"timeout": lock_wait_seconds} if self._is_sqlite else {}
            self._engine = sql.create_engine(url, connect_args=waiting, pool_pre_ping=not self._is_sqlite)
        if self._is_sqlite:
            sql.event.listen(self._engine, "connect", _make_durable)
        self._upgraded = False

    def create(self, *, name: str, metric: Metric, seed: int, request: str, plan: Plan) -> None:
        """Begin the study; `request` is what was asked, as JSON."""
        row = {
            "name": name,
            "schema_version": SCHEMA_VERSION,
            "metric": metric.model_dump_json(),
            "seed": seed,
            "seconds": 0.0,
            "request": request,
            "plan": plan.model_dump_json(),
        }
        if self._file:
            make_folder(self._file.parent)
        with self._faults():
            make_tables(self._engine)
        same = STUDY.c.name == name if self._shared else sql.true()
        with self._writing() as connection:
            if connection.execute(sql.select(sql.func.count()).select_from(STUDY).where(same)).scalar_one():
                raise StorageError(f"{self.place} holds a study already; resume it or name another one.")
            connection.execute(STUDY.insert().values(row))
            give_id(connection, name)
        self._name = name

    def exists(self) -> bool:
        """Say whether the study has been created here."""
        if self._file and not self._file.exists():
            return False
        with self._reading() as connection:
            return sql.inspect(connection).has_table(STUDY.name) and (
                connection.execute(sql.select(STUDY.c.name).where(*self._this())).first() is not None
            )

    def add_trial(self, trial: Trial) -> None:
        """Record a trial that starts, or that is rejected."""
        row = {"study": self._key(), "number": trial.number, "state": trial.state, "reason": trial.reason}
        body = trial.model_dump_json(exclude={"result"})
        with self._writing() as connection:
            connection.execute(TRIALS.insert().values(row | {"trial": body}))

    def report(self, number: int, report: Report) -> None:
        """Record an evaluation of a running trial."""
        with self._writing() as connection:
            connection.execute(REPORTS.insert().values(self._report_row(number, report)))

    def finish(self, number: int, state: TrialState, reason: str = "", last: Report | None = None) -> None:
        """Record a trial's end together with its last evaluation, both or neither."""
        with self._writing() as connection:
            if last is not None:
                connection.execute(REPORTS.insert().values(self._report_row(number, last)))
            change = TRIALS.update().where(TRIALS.c.study == self._key(), TRIALS.c.number == number)
            connection.execute(change.values(state=state, reason=reason))

    def take_up(self) -> None:
        """Record that all trials which were set aside may go on."""
        with self._writing() as connection:
            paused = TRIALS.c.study == self._key(), TRIALS.c.state == "paused"
            connection.execute(TRIALS.update().where(*paused).values(state="running", reason=""))

    def replan(self, plan: Plan) -> None:
        """Put another plan in the place of the study's, which goes on under it."""
        with self._writing() as connection:
            connection.execute(STUDY.update().where(*self._this()).values(plan=plan.model_dump_json()))

    def add_seconds(self, seconds: float) -> None:
        """Add to the wall time spent on the study."""
        with self._writing() as connection:
            total = STUDY.c.seconds + seconds
            connection.execute(STUDY.update().where(*self._this()).values(seconds=total))

    def load(self) -> Study:
        """Read the study with all its trials; the evaluations of running ones are in `reports`."""
        with self._reading() as connection:
            head = self._head(connection)
            mine = sql.select(TRIALS).where(TRIALS.c.study == head.name)
            rows = connection.execute(mine.order_by(TRIALS.c.number)).all()
            reports = self._reports(connection)
            own_id = id_of(connection, head.name)
        asked = json.loads(head.request)
        prefer = asked.get("prefer", "quality")
        return Study(
            name=head.name,
            id=own_id,
            folder=str(self.folder),
            metric=self._parse(Metric, head.metric),
            seed=head.seed,
            seconds=head.seconds,
            trials=tuple(self._trial(row, reports.get(row.number, ())) for row in rows),
            prefer=prefer,
            front_of=asked.get("front"),
            validation_rows=0
            if prefer == "quality"
            else self._parse(Plan, head.plan).workload.validation_rows,
        )

    def reports(self, number: int) -> tuple[Report, ...]:
        """Read the evaluations of one trial, in their order."""
        with self._reading() as connection:
            return self._reports(connection, REPORTS.c.trial == number).get(number, ())

    def all_reports(self) -> dict[int, tuple[Report, ...]]:
        """Read the evaluations of each trial that has any, in their order."""
        with self._reading() as connection:
            return self._reports(connection)

    def plan(self) -> Plan:
        """Read the plan that the study began or last went on with."""
        with self._reading() as connection:
            return self._parse(Plan, self._head(connection).plan)

    def request(self) -> str:
        """Read what was asked, as JSON."""
        with self._reading() as connection:
            return str(self._head(connection).request)

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep every other driver off the study; whoever dies lets go at once.

        While it is claimed on a server, all is written over the connection that holds the claim, so
        that a driver that lost it cannot write.

        Raises:
            StorageError: another process is running the study.
        """
        make_folder(self.folder)
        with ExitStack() as held:
            held.enter_context(claim_file(self.folder / LOCK, f"the study in {self.folder}"))
            said = f"the study {self._name!r} in {self.place}"
            if self._file and self._name is not None:
                beside = self._file.with_name(f"{self._file.name}.{self._name}.lock")
                held.enter_context(claim_file(beside, said))
            elif not self._is_sqlite:
                with self._faults():
                    self._claim = held.enter_context(claim_server(self._engine, self._name or "", said))
            try:
                yield
            finally:
                self._claim = None

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def _trial(self, row: sql.Row[Any], reports: tuple[Report, ...]) -> Trial:
        trial = self._parse(Trial, row.trial)
        result = None
        if row.state in ("complete", "paused", "stopped", "failed"):
            result = TrialResult(state=row.state, reports=reports, reason=row.reason)
        return trial.model_copy(update={"state": row.state, "reason": row.reason, "result": result})

    def _reports(
        self, connection: sql.Connection, *which: sql.ColumnElement[bool]
    ) -> dict[int, tuple[Report, ...]]:
        found: dict[int, tuple[Report, ...]] = {}
        query = (
            sql.select(REPORTS)
            .where(REPORTS.c.study == self._key(), *which)
            .order_by(REPORTS.c.trial, REPORTS.c.samples)
        )
        for row in connection.execute(query):
            found[row.trial] = (*found.get(row.trial, ()), self._parse(Report, row.report))
        return found

    def _head(self, connection: sql.Connection) -> sql.Row[Any]:
        head = None
        if sql.inspect(connection).has_table(STUDY.name):
            head = connection.execute(sql.select(STUDY).where(*self._this())).one_or_none()
        if head is None:
            which = f"no study {self._name!r}" if self._name else "no study"
            raise StorageError(f"{self.place} holds {which}; start one without --resume.")
        self._require_known(head.schema_version)
        return head

    def _require_known(self, version: int) -> None:
        if version != SCHEMA_VERSION:
            raise StorageError(
                f"{self.place} was written in format {version}, but this autopeft reads "
                f"format {SCHEMA_VERSION}; use the autopeft that wrote it or start a new study."
            )

    def _this(self) -> tuple[sql.ColumnElement[bool], ...]:
        """Return the condition that picks the study's row; none where it is the only one."""
        return () if self._name is None else (STUDY.c.name == self._name,)

    def _key(self) -> str:
        """Return the study's name, as its rows have it."""
        if self._name is None:
            with self._reading() as connection:
                self._name = str(self._head(connection).name)
        return self._name

    def _report_row(self, number: int, report: Report) -> dict[str, Any]:
        body = report.model_dump_json()
        return {"study": self._key(), "trial": number, "samples": report.samples, "report": body}

    def _upgrade(self) -> None:
        """Bring a file of an older format to today's, once."""
        if self._upgraded or not self._file or not self._file.exists():
            return
        with self._engine.connect() as connection:
            version = old_version(connection)
        if version is not None:
            if version > 1:
                self._require_known(version)
            upgrade(self._engine)
        self._upgraded = True

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
        with self._faults():
            self._upgrade()
            opened = self._engine.begin() if self._claim is None else _begun(self._claim)
            with opened as connection:
                yield connection

    @contextmanager
    def _reading(self) -> Iterator[sql.Connection]:
        if self._file and not self._file.exists():  # SQLite would make an empty one
            raise StorageError(f"{self.place} does not exist; start a study without --resume.")
        with self._faults():
            self._upgrade()
            with self._engine.connect() as connection:
                yield connection

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except sql.exc.DBAPIError as error:
            raise StorageError(f"{self.place}: {_explain(str(error.orig))}") from None
        except (sql.exc.SQLAlchemyError, ModuleNotFoundError) as error:
            if isinstance(error, ModuleNotFoundError) and error.name in _EXTRAS:
                raise MissingExtraError(error.name, _EXTRAS[error.name], "this database") from None
            first = str(error).partition("\n")[0]
            raise StorageError(f"{self.place} cannot be used as a study's database: {first}.") from None


@contextmanager
def _begun(connection: sql.Connection) -> Iterator[sql.Connection]:
    with connection.begin():
        yield connection


def _make_durable(connection: Any, _record: object) -> None:
    """Make SQLite wait for the disk at every commit, and let readers read meanwhile."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")


_CAUSES = {
    "disk is full": "the disk is full; free some space and go on with --resume.",
    "locked": "another program keeps the database locked; stop it and go on with --resume.",
    "not a database": "the file is no study's database, or is damaged; name another place.",
    "malformed": "the database is damaged; restore it from a copy or start a new study.",
    "readonly": "the database cannot be written; check the permissions of file and folder.",
    "unable to open": "the database cannot be opened; check the permissions of file and folder.",
    "no password supplied": "the server wants a password; set PGPASSWORD, or put it into ~/.pgpass.",
    "refused": "no database server answers there; start it, or name another.",
    "closed the connection": "the server went away; what was written is kept, go on with --resume.",
    "terminating connection": "the server went away; what was written is kept, go on with --resume.",
    "disk I/O error": "the disk cannot be read or written (is it full?).",
}


def _explain(cause: str) -> str:
    first = cause.partition("\n")[0]
    return next((text for sign, text in _CAUSES.items() if sign in cause), f"the database says: {first}.")

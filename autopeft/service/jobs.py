"""Jobs: what is to be trained or exported, in a queue that several service processes share.

A job is claimed with a lease that its process renews; one whose lease ran out is claimed by another, which
goes on where its study was cut off. Every step is one transaction, so that no crash loses or doubles a job.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import time
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Literal, get_args

import sqlalchemy as sql

from autopeft.errors import InputError, StorageError
from autopeft.job import ENDED, OF_A_STUDY, STATES, ExportOrder, Job, Kind, State
from autopeft.request import Request
from autopeft.service.database import EVENTS, JOBS, Database
from autopeft.service.problems import RefusedError
from autopeft.service.tokens import Caller

MOST_ATTEMPTS = 10
"""A job that took so many service processes down with it is not begun again."""
MOST_EVENTS = 20_000
_KEPT_ALWAYS = '{"event": "study-finished"'
"""An event that begins so is kept beyond the most, too: followers need it, and a job has few."""
_STOPPED = "stopped by its user; finished trials are kept"


class Jobs:
    """The queue."""

    def __init__(self, database: Database, *, quota: int, lease_seconds: float) -> None:
        self._database, self._quota, self._lease = database, quota, lease_seconds

    def submit(
        self,
        who: Caller,
        kind: Kind,
        wish: Request | ExportOrder,
        *,
        seconds: float,
        key: str | None = None,
        instead_of: str | None = None,
    ) -> tuple[Job, bool]:
        """Put a job into the queue; return it, and whether it is new.

        Args:
            key: the same key with the same request returns the job that it made the first time.
            instead_of: id of a job that is stopped in the same step, where it has not ended.

        Raises:
            RefusedError: the user has too many jobs, or the key was used for another request.
        """
        number = f"{int(time.time() * 1000):012x}{secrets.token_hex(4)}"
        asked = wish.model_dump_json(exclude_unset=True, exclude={"workspace"})
        digest = hashlib.sha256(f"{kind} {asked}".encode()).hexdigest()
        with self._database.writing() as connection:
            self._alone(connection, f"jobs {who.user}")
            if key is not None:
                mine = sql.select(JOBS).where(JOBS.c.user == who.user, JOBS.c.key == key)
                before = connection.execute(mine).mappings().first()
                if before is not None:
                    if before["key_digest"] != digest:
                        raise RefusedError(
                            HTTPStatus.CONFLICT,
                            "conflict",
                            "this Idempotency-Key was used for another request: take a new one.",
                        )
                    return _job(before), False
            self._check_quota(connection, who.user, instead_of)
            if instead_of is not None:
                self._stop(connection, instead_of)
            now = self._database.now(connection)
            row = {
                "id": number,
                "user": who.user,
                "kind": kind,
                "study": number,
                "request": asked,
                "state": "queued",
                "reason": "",
                "seconds": seconds,
                "spent": 0.0,
                "stopping": False,
                "attempts": 0,
                "submitted": now,
                "queued": now,
                "key": key,
                "key_digest": digest,
                "started": None,
                "ended": None,
            }
            connection.execute(JOBS.insert().values(row))
        return _job(row), True

    def find(self, who: Caller, number: str) -> Job:
        """Return a job of a user; an administrator's are all.

        Raises:
            RefusedError: the user has no such job, or another version made it and this one cannot read it.
        """
        wanted = sql.select(JOBS).where(JOBS.c.id == number[:26])
        with self._database.reading() as connection:
            row = connection.execute(wanted).mappings().first()
        if row is None or not (row["user"] == who.user or who.may("admin")):
            raise RefusedError(HTTPStatus.NOT_FOUND, "not-found", f"you have no job {number[:80]!r}.")
        return _job(row)

    def of(
        self, who: Caller, *, state: State | None = None, limit: int = 50, before: str | None = None
    ) -> tuple[Job, ...]:
        """Return jobs of a user, the latest first; an administrator's are all.

        Those of a kind or state that only another version knows are left out.
        """
        wanted = sql.select(JOBS).order_by(JOBS.c.id.desc()).limit(limit)
        wanted = wanted.where(JOBS.c.kind.in_(get_args(Kind)), JOBS.c.state.in_(STATES))
        if not who.may("admin"):
            wanted = wanted.where(JOBS.c.user == who.user)
        if state is not None:
            wanted = wanted.where(JOBS.c.state == state)
        if before is not None:
            wanted = wanted.where(JOBS.c.id < before)
        with self._database.reading() as connection:
            return tuple(_job(row) for row in connection.execute(wanted).mappings())

    def stop(self, who: Caller, number: str) -> Job:
        """Stop a job: at once where it waits, else as soon as its process has ended its training.

        Raises:
            RefusedError: there is no such job, or it has ended.
        """
        self.find(who, number)
        with self._database.writing() as connection:
            changed = self._stop(connection, number)
        if not changed:
            raise RefusedError(HTTPStatus.CONFLICT, "conflict", f"the job {number} has ended already.")
        return self.find(who, number)

    def resume(self, who: Caller, number: str, *, seconds: float, trials: int | None = None) -> Job:
        """Put a job that has ended back into the queue, with so many seconds more and this limit of trials.

        Raises:
            RefusedError: there is no such job, it has not ended, or its user has too many jobs.
        """
        job = self.find(who, number)
        if job.state not in ENDED:
            raise _not_ended(number)
        asked = _longer(job, seconds, trials)
        with self._database.writing() as connection:
            self._alone(connection, f"jobs {job.user}")
            self._check_quota(connection, job.user)
            change = JOBS.update().where(JOBS.c.id == number, JOBS.c.state.in_(ENDED))
            now = self._database.now(connection)
            row = {"state": "queued", "reason": "", "stopping": False, "attempts": 0, "queued": now}
            row |= {"ended": None, "seconds": job.spent + seconds}
            row |= {"request": asked}
            changed = connection.execute(change.values(row)).rowcount
        if not changed:
            raise _not_ended(number)
        return self.find(who, number)

    def claim(self, owner: str) -> Job | None:
        """Take the job whose turn it is: of the user with the fewest running, then of who waited longest.

        Jobs whose process is silent come first: they were begun before. One of `owner`'s own is not silent:
        its end waits to be written. A study has one job at a time. What this version cannot read waits for a
        service of the version that can.
        """
        with self._database.reading() as connection:
            if not any(map(_is_ours, self._claimable(connection, self._database.now(connection)))):
                return None
        with self._database.writing() as connection:
            self._alone(connection, "claims")
            now = self._database.now(connection)
            for row in filter(_is_ours, self._claimable(connection, now)):
                if row["state"] == "running" and row["owner"] == owner:
                    continue
                change = JOBS.update().where(
                    JOBS.c.id == row["id"], JOBS.c.state == row["state"], JOBS.c.attempts == row["attempts"]
                )
                if row["state"] == "running":  # unless its lease has been renewed since
                    change = change.where(JOBS.c.lease == row["lease"])
                if (end := _end_of(row)) is not None:
                    state, reason = end
                    values = {"state": state, "reason": reason, "ended": now, "stopping": False}
                    connection.execute(change.values(values | {"lease": None}))
                    continue
                values = {
                    "state": "running",
                    "owner": owner,
                    "lease": now + self._lease,
                    "attempts": row["attempts"] + 1,
                    "started": row["started"] or now,
                }
                if connection.execute(change.values(values)).rowcount:
                    return _job(dict(row) | values)
        return None

    def renew(self, number: str, owner: str, spent: float) -> Literal["go", "stop", "lost"]:
        """Renew the lease of a running job, and learn whether to go on.

        Args:
            spent: seconds it has taken, over all attempts.
        """
        with self._database.writing() as connection:
            lease = self._database.now(connection) + self._lease
            mine = JOBS.c.id == number, JOBS.c.owner == owner, JOBS.c.state == "running"
            if not connection.execute(JOBS.update().where(*mine).values(lease=lease, spent=spent)).rowcount:
                return "lost"
            stopping = connection.execute(sql.select(JOBS.c.stopping).where(*mine)).scalar_one()
        return "stop" if stopping else "go"

    def finish(self, number: str, owner: str, state: State, reason: str, spent: float) -> bool:
        """Write how a job ended, or with state "queued" that it waits again; say whether it was ours.

        One that was told to stop does not wait again: it is stopped.
        """
        with self._database.writing() as connection:
            now = self._database.now(connection)
            mine = JOBS.c.id == number, JOBS.c.owner == owner, JOBS.c.state == "running"
            told = sql.select(JOBS.c.stopping).where(*mine).with_for_update()
            if state == "queued" and connection.execute(told).scalar_one_or_none():
                state, reason = "stopped", _STOPPED
            values: dict[str, Any] = {"state": state, "reason": reason, "spent": spent, "lease": None}
            values |= {"owner": None, "stopping": False}
            values |= {"ended": None, "attempts": 0} if state == "queued" else {"ended": now}
            return bool(connection.execute(JOBS.update().where(*mine).values(values)).rowcount)

    def note(self, number: str, events: Sequence[str]) -> None:
        """Add events, each a JSON text, to those of a job.

        Raises:
            StorageError: they cannot be written now; also where another process adds some at once.
        """
        with self._database.writing() as connection:
            last = sql.select(sql.func.max(EVENTS.c.number)).where(EVENTS.c.job == number)
            first = (connection.execute(last).scalar_one() or 0) + 1
            rows = [
                {"job": number, "number": place, "event": event}
                for place, event in enumerate(events, first)
                if place <= MOST_EVENTS or event.startswith(_KEPT_ALWAYS)
            ]
            try:
                if rows:
                    connection.execute(EVENTS.insert(), rows)
            except sql.exc.IntegrityError:
                raise StorageError(f"another process adds to the events of the job {number}.") from None

    def events(self, number: str, after: int, limit: int = 500) -> list[tuple[int, str]]:
        """Return the events of a job after one of them, each with its number."""
        wanted = sql.select(EVENTS.c.number, EVENTS.c.event).where(
            EVENTS.c.job == number, EVENTS.c.number > after
        )
        with self._database.reading() as connection:
            rows = connection.execute(wanted.order_by(EVENTS.c.number).limit(limit)).all()
        return [(row.number, row.event) for row in rows]

    def is_open(self, number: str) -> bool:
        """Say whether a job of that id waits or runs."""
        wanted = sql.select(JOBS.c.id).where(JOBS.c.id == number, JOBS.c.state.not_in(ENDED))
        with self._database.reading() as connection:
            return connection.execute(wanted).first() is not None

    def counts(self) -> dict[str, int]:
        """Return how many jobs there are in each state."""
        wanted = sql.select(JOBS.c.state, sql.func.count()).group_by(JOBS.c.state)
        with self._database.reading() as connection:
            return {row[0]: row[1] for row in connection.execute(wanted).all()}

    def _claimable(self, connection: sql.Connection, now: float) -> list[dict[str, Any]]:
        """Return the rows that may be claimed, in their order."""
        alive = sql.and_(JOBS.c.state == "running", JOBS.c.lease >= now)
        left = sql.and_(JOBS.c.state == "running", JOBS.c.lease < now)
        wanted = sql.select(JOBS).where(sql.or_(JOBS.c.state == "queued", left))
        rows = [dict(row) for row in connection.execute(wanted).mappings()]
        if not rows:
            return []
        held = sql.select(JOBS.c.id, JOBS.c.kind, JOBS.c.request).where(alive)
        studies = {_study_of(row) for row in connection.execute(held).mappings()}
        rows = [row for row in rows if _study_of(row) not in studies]
        by_user = sql.select(JOBS.c.user, sql.func.count()).where(alive).group_by(JOBS.c.user)
        running = {row[0]: row[1] for row in connection.execute(by_user).all()}
        latest = sql.select(JOBS.c.user, sql.func.max(JOBS.c.started)).group_by(JOBS.c.user)
        served = {user: at or 0.0 for user, at in connection.execute(latest).all()}
        return sorted(
            rows,
            key=lambda row: (
                row["state"] == "queued",
                running.get(row["user"], 0),
                served.get(row["user"], 0.0),
                row["queued"],
                row["id"],
            ),
        )

    def _stop(self, connection: sql.Connection, number: str) -> bool:
        """Have a job end; say whether it had not ended."""
        now = self._database.now(connection)
        mine = JOBS.update().where(JOBS.c.id == number)
        waiting = mine.where(JOBS.c.state == "queued").values(
            state="stopped", reason="stopped before it began", ended=now
        )
        running = mine.where(JOBS.c.state == "running").values(stopping=True)
        return bool(connection.execute(waiting).rowcount or connection.execute(running).rowcount)

    def _check_quota(self, connection: sql.Connection, user: str, but: str | None = None) -> None:
        """Refuse one more job of a user who has as many as may be, one of them not counted."""
        waiting = sql.select(sql.func.count()).where(
            JOBS.c.user == user, JOBS.c.state.in_(("queued", "running")), JOBS.c.id != (but or "")
        )
        if connection.execute(waiting).scalar_one() >= self._quota:
            raise RefusedError(
                HTTPStatus.TOO_MANY_REQUESTS,
                "quota",
                f"a user may have {self._quota} jobs that wait or run: stop one, or wait for one to end.",
                Retry_After="60",
            )

    def _alone(self, connection: sql.Connection, what: str) -> None:
        """Let one transaction wait for another of that name, where the database runs them side by side."""
        if not self._database.is_sqlite:
            key = int.from_bytes(hashlib.sha256(f"autopeft {what}".encode()).digest()[:8], "big", signed=True)
            connection.execute(sql.select(sql.func.pg_advisory_xact_lock(key)))


def _not_ended(number: str) -> RefusedError:
    return RefusedError(HTTPStatus.CONFLICT, "conflict", f"the job {number} has not ended yet.")


def _longer(job: Job, seconds: float, trials: int | None) -> str:
    """Return a job's request with so many seconds more, where it holds them, and this limit of trials."""
    if job.kind in OF_A_STUDY:
        if trials is not None:
            raise InputError(f"a job of kind {job.kind} tries nothing: leave out trials.")
        return job.order.model_dump_json(exclude_unset=True)
    budget = job.wish.budget.model_copy(update={"time": job.spent + seconds, "trials": trials})
    return job.wish.model_copy(update={"budget": budget}).model_dump_json(exclude_unset=True)


def _end_of(row: dict[str, Any]) -> tuple[State, str] | None:
    """Return as what, and why, a job that could be claimed ends instead; None where it does not."""
    if row["stopping"]:
        return "stopped", _STOPPED
    if row["attempts"] >= MOST_ATTEMPTS:
        return "failed", f"given up: {MOST_ATTEMPTS} service processes died while it ran"
    return None


def _is_ours(row: dict[str, Any]) -> bool:
    """Say whether this version can do something about a job: end it, or read it."""
    with contextlib.suppress(RefusedError):
        return _end_of(row) is not None or bool(_job(row))
    return False


def _study_of(row: Any) -> str:
    """Return the study of a row, which is its own also where nobody can read of which other it is."""
    if row["kind"] in OF_A_STUDY:
        with contextlib.suppress(ValueError, TypeError, KeyError):
            return str(json.loads(row["request"])["study"])
    return str(row["id"])


def _job(row: Any) -> Job:
    names = [name for name in Job.model_fields if name != "request"]
    try:
        request = json.loads(row["request"])
        return Job.model_validate({name: row[name] for name in names} | {"request": request})
    except ValueError:  # of pydantic, too
        raise RefusedError(
            HTTPStatus.CONFLICT,
            "conflict",
            f"the job {row['id']}, of kind {row['kind']!r}, cannot be read by this version of autopeft: "
            "use the version that it was submitted to.",
        ) from None

"""Work of a service: data files, jobs, and what a job does while it runs."""

from __future__ import annotations

import json
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

import pydantic

from autopeft.client.asking import Asking, fields_of, name_of
from autopeft.errors import DataError, InputError, ServiceError
from autopeft.job import ENDED, Job, State, Upload
from autopeft.plan.budget import Budget
from autopeft.search.study import Study
from autopeft.workload.dataset import Task

if TYPE_CHECKING:
    from autopeft.api import Options

Event = Callable[[dict[str, Any]], None]
_JOB = pydantic.TypeAdapter(Job)


class Work(Asking):
    """The jobs of a user, and the files that they train on."""

    def upload(
        self,
        file: str | Path,
        *,
        task: Task | None = None,
        columns: dict[str, str] | None = None,
    ) -> Upload:
        """Send a file of rows, to be named by as many requests as you like.

        Args:
            task, columns: as of a search, where they are not to be guessed.

        Raises:
            DataError: it cannot be read, here or there.
        """
        place = Path(file)
        try:
            content = place.read_bytes()
        except OSError as error:
            raise DataError(f"{place} cannot be read: {error.strerror}.") from None
        said = {"name": place.name} | ({} if task is None else {"task": task})
        if columns is not None:
            said["columns"] = json.dumps(columns)
        answer = self._service.post(f"data?{urllib.parse.urlencode(said)}", content)
        return Upload.model_validate_json(answer)

    def uploads(self) -> tuple[Upload, ...]:
        """List your data files there."""
        return self._ask("data", pydantic.TypeAdapter(tuple[Upload, ...]))

    def delete(self, upload: Upload | str) -> None:
        """Delete a data file of yours there."""
        self._service.delete(f"data/{upload if isinstance(upload, str) else upload.id}")

    def submit(
        self,
        kind: Literal["run", "search"] = "run",
        model: str | None = None,
        *,
        data: str | Upload | None = None,
        budget: Budget | None = None,
        **options: Unpack[Options],
    ) -> str:
        """Submit a run or a search and return its id, which is its study's name; do not wait."""
        body = fields_of(model=model, budget=budget, **options) | self._files(data, options) | {"kind": kind}
        return self._submitted("jobs", body)

    def jobs(self, *, state: State | None = None) -> tuple[Job, ...]:
        """List your jobs, the latest first; an administrator's are all."""
        chosen = "" if state is None else f"&state={state}"
        return tuple(self._pages(f"jobs?limit=500{chosen}", Job))

    def job(self, job: str) -> Job:
        """Return a job."""
        return self._ask(f"jobs/{job}", _JOB)

    def stop(self, job: str) -> Job:
        """Stop a job; what it has trained to the end is kept."""
        return _JOB.validate_json(self._service.post(f"jobs/{job}/stop"))

    def resume(self, job: str, *, time: float | str, trials: int | None = None) -> Job:
        """Let a job that has ended go on.

        Args:
            time: how much longer, such as "30min".   trials: limit of all its trials; None leaves them to
                the time.
        """
        body = {"time": time} | ({} if trials is None else {"trials": trials})
        return self._ask(f"jobs/{job}/resume", _JOB, body)

    def events(self, job: str, *, after: int = 0) -> Iterator[dict[str, Any]]:
        """Follow a job until it has ended: what happened so far, then what happens, as the service tells it.

        After an interruption of the connection it goes on with the next event.

        Args:
            after: leave out the first events, so many.
        """
        last = after
        while True:
            for number, event in self._service.events(f"jobs/{job}/events", last):
                last = number or last
                yield event
            if json.loads(self._service.get_patiently(f"jobs/{job}"))["state"] in ENDED:
                return
            time.sleep(1.0)

    def wait(self, job: str, on_event: Event | None = None) -> None:
        """Follow a job to its end, also over interruptions of the connection.

        Raises:
            ServiceError: it failed, or was stopped.
        """
        for event in self.events(job):
            if on_event is not None:
                on_event(event)
        told = json.loads(self._service.get_patiently(f"jobs/{job}"))
        if told["state"] != "done":
            raise ServiceError(f"the job {job} {told['state']}: {told['reason']}")

    def conclude(self, study: Study | str, *, on_event: Event | None = None) -> None:
        """End a search now, where it still runs, and have its winner exported and its report written.

        Raises:
            InputError: no trial was trained to the end; nothing was stopped.
            ServiceError: it failed, or was stopped.
        """
        self.wait(self._submitted(f"jobs/{name_of(study)}/conclude", None), on_event)

    def _submitted(self, path: str, body: dict[str, Any] | None) -> str:
        """Submit a job once, and return its id."""
        return str(json.loads(self._service.post_with_key(path, body, uuid.uuid4().hex))["id"])

    def _train(
        self,
        kind: Literal["run", "search"],
        model: str | None,
        data: str | Upload | None,
        budget: Budget | None,
        study: str | None,
        on_event: Event | None,
        options: Options,
    ) -> str:
        """Have something searched, or gone on with, to its end; return the id of its job."""
        if study is None:
            job = self.submit(kind, model, data=data, budget=budget, **options)
        elif options.get("resume"):
            job = self._go_on(kind, study, model, data, budget, options)
        else:
            raise InputError(f"the service names its studies: leave out study={study!r}, or say resume=True.")
        self.wait(job, on_event)
        return job

    def _go_on(
        self,
        kind: str,
        study: str,
        model: str | None,
        data: str | Upload | None,
        budget: Budget | None,
        options: Options,
    ) -> str:
        said = [
            name for name, value in {"model": model, "data": data, **options}.items() if value is not None
        ]
        if more := sorted(set(said) - {"resume"}):
            raise InputError(f"a study that goes on keeps what it began with: leave out {', '.join(more)}.")
        given = {} if budget is None else plain_limits(budget)
        if "time" not in given or given.keys() - {"time", "trials"}:
            raise InputError(
                "a study goes on there by budget.time, and no other limit but trials, but got "
                f"{', '.join(given) or 'neither'}: give budget=Budget(time=...)."
            )
        if (before := self.job(study).kind) != kind:
            raise InputError(f"the study {study!r} was made by a {before}: go on with it by that verb.")
        return self.resume(study, time=given["time"], trials=given.get("trials")).id

    def _files(self, data: str | Upload | None, options: Options) -> dict[str, str]:
        """Send the files that a request names, but for those that are there, and return their ids."""
        named = {"data": data, "test_data": options.get("test_data")}
        said = {"task": options.get("task"), "columns": options.get("columns")}
        return {
            role: place.id if isinstance(place, Upload) else self.upload(place, **said).id  # type: ignore[arg-type]
            for role, place in named.items()
            if place is not None
        }


def plain_limits(budget: Budget) -> dict[str, Any]:
    """Return the limits that a budget sets."""
    return {name: value for name, value in budget if value is not None}

"""Client: the verbs of the Python face, answered by a service somewhere else.

    import autopeft as ap

    client = ap.Client("https://peft.example.org", token="autopeft_...")
    answer = client.answer(ap.Question.build(model="Llama-3.1-8B", method="qlora", gpu="l4"))
    study = client.search(model="all-MiniLM-L6-v2", data="train.csv", budget=ap.Budget(time="30min"))
    bundle = client.export(study)

What the service refuses is raised as the error that the same mistake raises here.
"""

from __future__ import annotations

import contextlib
import io
import json
import ssl
import time
import urllib.parse
import uuid
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

import pydantic

from autopeft.connection import Connection, NotThereError
from autopeft.errors import AutopeftError, DataError, InputError, ServiceError, UnsupportedError
from autopeft.export.bundle import Bundle, Export
from autopeft.export.opening import open_bundle
from autopeft.export.recipes.subject import Format, Recipe
from autopeft.export.swap import replacing
from autopeft.files import write_atomically
from autopeft.hardware.profile import HardwareProfile
from autopeft.message import Message
from autopeft.methods.spec import MethodSpec
from autopeft.plan.answer import Answer, Explanation
from autopeft.plan.budget import Budget
from autopeft.plan.capacity import Capacity, Demand
from autopeft.plan.overview import ModelRow
from autopeft.plan.plan import Plan, Verdict
from autopeft.plan.question import Question
from autopeft.plan.serving import Serving
from autopeft.report.comparison import Comparison
from autopeft.report.facts import StudyFacts
from autopeft.search.study import Study
from autopeft.space.candidate import Candidate
from autopeft.space.counting import SpaceFacts
from autopeft.workload.base_model import BaseModel

if TYPE_CHECKING:
    from autopeft.api import ExportWish, Options

Read = TypeVar("Read")
Event = Callable[[dict[str, Any]], None]
_TOGETHER = 64
_ENDED = ("done", "failed", "stopped")


class Client:
    """A service, asked as the library is.

    Args:
        url: where it is.   token: who asks; None takes `AUTOPEFT_TOKEN`, and nothing where that is not set.
        seconds: how long to wait for an answer.
        context: of TLS, for certificates of your own.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        seconds: float = 600.0,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._service = Connection(url, token, seconds, context)

    def estimate(
        self, model: str, candidate: Candidate, *, budget: Budget | None = None, **options: Unpack[Options]
    ) -> Verdict:
        """Predict what one configuration takes: `Fits` or `Rejected`, with the estimate and its band."""
        body = _fields(model=model, budget=budget, **options) | {"candidate": _plain(candidate)}
        return self._ask("verdict", pydantic.TypeAdapter(Verdict), body)

    def answer(self, question: Question, *, batches: bool = True) -> Answer:
        """Say what one configuration takes and whether it fits; `batches` looks for the largest batch too."""
        if batches:
            return self._ask("estimate", pydantic.TypeAdapter(Answer), _plain(question))
        (answer,) = self.answer_many([question], batches=False)
        if answer.status != "ok":
            raise (UnsupportedError if answer.status == "unsupported" else InputError)(str(answer.reason))
        return answer

    def answer_many(
        self, questions: Iterable[Question | AutopeftError], *, batches: bool = True
    ) -> Iterator[Answer]:
        """Answer questions in their order; none of them stops the others."""
        rows = list(questions)
        for first in range(0, len(rows), _TOGETHER):
            some = rows[first : first + _TOGETHER]
            asked = [_plain(row) for row in some if isinstance(row, Question)]
            found = iter(self._answers(asked, batches=batches) if asked else ())
            for row in some:
                yield next(found) if isinstance(row, Question) else Answer(status="error", reason=str(row))

    def explain(self, question: Question) -> Explanation:
        """Answer one question, and say what each switch of it would save or cost."""
        return self._ask("explain", pydantic.TypeAdapter(Explanation), _plain(question))

    def serving(self, question: Question) -> Serving:
        """Say what a server of one configuration holds: merged, and with adapters beside the base."""
        return self._ask("serving", pydantic.TypeAdapter(Serving), _plain(question))

    def capacity(self, demand: Demand) -> Capacity:
        """Say which devices train the demanded models in which ways, how fast and at what cost."""
        return self._ask("capacity", pydantic.TypeAdapter(Capacity), _plain(demand))

    def plan(
        self,
        model: str | None = None,
        *,
        data: str | None = None,
        budget: Budget | None = None,
        **options: Unpack[Options],
    ) -> Plan:
        """Hold every configuration of a search space against a budget."""
        body = _fields(model=model, budget=budget, **options) | self._files(data, options)
        return self._ask("plan", pydantic.TypeAdapter(Plan), body)

    def overview(
        self, *, budget: Budget | None = None, all_models: bool = False, **options: Unpack[Options]
    ) -> tuple[ModelRow, ...]:
        """Say of usual models, or all of the catalogue, how they train within a budget, and how far."""
        body = _fields(budget=budget, **options) | {"all_models": all_models}
        return self._ask("overview", pydantic.TypeAdapter(tuple[ModelRow, ...]), body)

    def models(self) -> tuple[BaseModel, ...]:
        """List the base models known by name."""
        return tuple(self._pages("models", BaseModel))

    def methods(self) -> tuple[MethodSpec, ...]:
        """List the methods."""
        return tuple(self._pages("methods", MethodSpec))

    def gpus(self) -> tuple[HardwareProfile, ...]:
        """List the devices that can be planned for."""
        return tuple(self._pages("gpus", HardwareProfile))

    def spaces(self) -> tuple[SpaceFacts, ...]:
        """List the search spaces."""
        return tuple(self._pages("spaces", SpaceFacts))

    def search(
        self,
        model: str | None = None,
        *,
        data: str | None = None,
        budget: Budget | None = None,
        on_event: Event | None = None,
        **options: Unpack[Options],
    ) -> Study:
        """Search for the best configuration within a budget, where the service trains; wait for its end.

        Args:
            data: a file of rows here, which is sent.
            on_event: told what happens, see the service's events.
        """
        job = self._train("search", model, data, budget, on_event, options)
        return self.study(job)

    def run(
        self,
        model: str | None = None,
        *,
        data: str | None = None,
        budget: Budget | None = None,
        on_event: Event | None = None,
        **options: Unpack[Options],
    ) -> StudyFacts:
        """Go the whole way where the service trains: plan, search, export, report; wait for its end."""
        job = self._train("run", model, data, budget, on_event, options)
        return self._ask(f"studies/{job}/facts", pydantic.TypeAdapter(StudyFacts))

    def submit(
        self,
        kind: str = "run",
        model: str | None = None,
        *,
        data: str | None = None,
        budget: Budget | None = None,
        **options: Unpack[Options],
    ) -> str:
        """Submit a run or a search and return its id, which is its study's name; do not wait."""
        body = _fields(model=model, budget=budget, **options) | self._files(data, options) | {"kind": kind}
        return str(json.loads(self._service.post_with_key("jobs", body, uuid.uuid4().hex))["id"])

    def stop(self, job: str) -> None:
        """Stop a job; what it has trained to the end is kept."""
        self._service.post(f"jobs/{job}/stop")

    def wait(self, job: str, on_event: Event | None = None) -> None:
        """Follow a job to its end, also over interruptions of the connection.

        Raises:
            ServiceError: it failed, or was stopped.
        """
        last = 0
        while True:
            for number, event in self._service.events(f"jobs/{job}/events", last):
                last = number or last
                if on_event is not None:
                    on_event(event)
            told = json.loads(self._service.get_patiently(f"jobs/{job}"))
            if told["state"] in _ENDED:
                if told["state"] != "done":
                    raise ServiceError(f"the job {job} {told['state']}: {told['reason']}")
                return
            time.sleep(1.0)

    def study(self, name: str) -> Study:
        """Return a study with its trials so far."""
        return self._ask(f"studies/{name}", pydantic.TypeAdapter(Study))

    def compare(self, one: Study | str, other: Study | str) -> Comparison:
        """Hold two studies there side by side, row by row where they were tested on the same rows."""
        path = f"studies/{_name_of(one)}/compare/{_name_of(other)}"
        return self._ask(path, pydantic.TypeAdapter(Comparison))

    def recipe(
        self,
        of: Study | str | Question | Candidate,
        wanted: Format = "script",
        *,
        trial: int | None = None,
        model: str | None = None,
        data: str | None = None,
        **options: Unpack[Options],
    ) -> Recipe:
        """Write a configuration as the files that another tool trains it from.

        Args:
            of: a study, whose winner or `trial` is taken; a question; or a candidate of `model`.
            data: a file of rows here, which is sent: its rows and classes are counted.
        """
        read = pydantic.TypeAdapter(Recipe)
        if isinstance(of, Question | Candidate):
            body = _fields(model=model, **options) | self._files(data, options)
            what = "question" if isinstance(of, Question) else "candidate"
            return self._ask("recipe", read, body | {"format": wanted, what: _plain(of)})
        asked = {"format": wanted} if trial is None else {"format": wanted, "trial": str(trial)}
        return self._ask(f"studies/{_name_of(of)}/recipe?{urllib.parse.urlencode(asked)}", read)

    def export(
        self,
        study: Study | str,
        *,
        out: str | None = None,
        force: bool = False,
        on_event: Event | None = None,
        **wanted: Unpack[ExportWish],
    ) -> Bundle:
        """Download a study's winner, or a trial, as a directory that transformers and peft load.

        What is not the winner's adapter that a run has made already is made first, by a job there.

        Args:
            wanted: `trial`, `form`, `dtype`, `lora_rank` and `license`, see `Export`.
            on_event: told what happens to that job, see the service's events.

        Raises:
            InputError: the directory exists, and `force` was not said; or that trial cannot be exported.
            BundleError: what came is not whole; what was there before stays.
        """
        name = _name_of(study)
        asked = Export.build(**wanted)
        place = Path(out or name)
        if place.exists() and not force:
            raise InputError(f"{place} exists already: name another directory, or say force=True.")
        content = self._bundle(name, asked, on_event)
        with replacing(place, force=force) as staging, zipfile.ZipFile(io.BytesIO(content)) as archive:
            for entry in archive.infolist():
                inner = Path(*Path(entry.filename).parts[1:])
                if inner.is_absolute() or ".." in inner.parts:
                    raise ServiceError(
                        f"the bundle of {name} holds a file outside of it: {entry.filename!r}."
                    )
                target = staging / inner
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(entry))
            bundle = open_bundle(staging)
        return bundle.model_copy(update={"path": str(place)})

    def report(self, study: Study | str, *, out: str | None = None) -> Path:
        """Download a study's report page, and return where it is."""
        name = _name_of(study)
        place = Path(out or f"{name}.html")
        return write_atomically(place, self._service.get(f"studies/{name}/report"))

    def _bundle(self, name: str, asked: Export, on_event: Event | None) -> bytes:
        """Return a bundle as a zip, made first where it is not there as it is asked for."""
        said = {"form": asked.form} | ({} if asked.trial is None else {"trial": str(asked.trial)})
        path = f"studies/{name}/bundle?{urllib.parse.urlencode(said)}"
        if not asked.model_fields_set:
            with contextlib.suppress(NotThereError):
                return self._service.get(path)
        answer = self._service.post_with_key(f"studies/{name}/exports", _plain(asked), uuid.uuid4().hex)
        self.wait(str(json.loads(answer)["id"]), on_event)
        return self._service.get(path)

    def _train(
        self,
        kind: str,
        model: str | None,
        data: str | None,
        budget: Budget | None,
        on_event: Event | None,
        options: Options,
    ) -> str:
        job = self.submit(kind, model, data=data, budget=budget, **options)
        self.wait(job, on_event)
        return job

    def _files(self, data: str | None, options: Options) -> dict[str, Any]:
        """Send the files that a request names, and return their ids."""
        named = {"data": data, "test_data": options.get("test_data")}
        return {
            role: self._upload(Path(place), options) for role, place in named.items() if place is not None
        }

    def _upload(self, file: Path, options: Options) -> str:
        try:
            content = file.read_bytes()
        except OSError as error:
            raise DataError(f"{file} cannot be read: {error.strerror}.") from None
        said: dict[str, str] = {"name": file.name}
        if "task" in options:
            said["task"] = options["task"]
        if "columns" in options:
            said["columns"] = json.dumps(options["columns"])
        answer = self._service.post(f"data?{urllib.parse.urlencode(said)}", content)
        return str(json.loads(answer)["id"])

    def _answers(self, asked: Sequence[dict[str, Any]], *, batches: bool) -> list[Answer]:
        body = {"questions": asked, "batches": batches}
        answers = json.loads(self._service.post("estimates", body))["answers"]
        return [Answer.model_validate(each) for each in answers]

    def _pages(self, kind: str, item: type[Message]) -> Iterator[Any]:
        place: str | None = f"{kind}?limit=1000"
        while place is not None:
            page = json.loads(self._service.get(place))
            yield from (item.model_validate(each) for each in page["items"])
            place = page["next"] and page["next"].removeprefix("/api/v1/")

    def _ask(self, path: str, read: pydantic.TypeAdapter[Read], body: dict[str, Any] | None = None) -> Read:
        content = self._service.get(path) if body is None else self._service.post(path, body)
        return read.validate_json(content)


def _name_of(study: Study | str) -> str:
    return study if isinstance(study, str) else study.name


def _plain(message: Message) -> dict[str, Any]:
    return message.model_dump(mode="json", exclude_unset=True)


def _fields(*, budget: Budget | None = None, **options: Any) -> dict[str, Any]:
    given = {name: value for name, value in options.items() if value is not None and name != "test_data"}
    return given if budget is None else given | {"budget": _plain(budget)}

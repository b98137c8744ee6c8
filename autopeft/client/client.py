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
import json
import shutil
import tempfile
import urllib.parse
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Unpack

import pydantic

from autopeft.client.asking import fields_of, name_of, plain
from autopeft.client.lists import Lists
from autopeft.client.work import Event, Work
from autopeft.connection import NotThereError
from autopeft.errors import AutopeftError, BundleError, InputError, UnsupportedError
from autopeft.export.bundle import Bundle, Export
from autopeft.export.opening import open_bundle
from autopeft.export.recipes.subject import Format, Recipe
from autopeft.export.swap import replacing
from autopeft.files import write_atomically
from autopeft.job import ENDED, Upload
from autopeft.plan.answer import Answer, Explanation
from autopeft.plan.budget import Budget
from autopeft.plan.capacity import Capacity, Demand
from autopeft.plan.overview import ModelRow
from autopeft.plan.plan import Plan, Verdict
from autopeft.plan.question import Question
from autopeft.plan.serving import Serving
from autopeft.report.comparison import Comparison
from autopeft.report.facts import Kept, StudyFacts
from autopeft.search.study import Study
from autopeft.space.candidate import Candidate

if TYPE_CHECKING:
    from autopeft.api import ExportWish, Options

_TOGETHER = 64


class Client(Lists, Work):
    """A service, asked as the library is.

    Args:
        url: where it is.   token: who asks; None takes `AUTOPEFT_TOKEN`, and nothing where that is not set.
        seconds: how long to wait for an answer.
        context: of TLS, for certificates of your own.
    """

    def estimate(
        self, model: str, candidate: Candidate, *, budget: Budget | None = None, **options: Unpack[Options]
    ) -> Verdict:
        """Predict what one configuration takes: `Fits` or `Rejected`, with the estimate and its band."""
        body = fields_of(model=model, budget=budget, **options) | {"candidate": plain(candidate)}
        return self._ask("verdict", pydantic.TypeAdapter(Verdict), body)

    def answer(self, question: Question, *, batches: bool = True) -> Answer:
        """Say what one configuration takes and whether it fits; `batches` looks for the largest batch too."""
        if batches:
            return self._ask("estimate", pydantic.TypeAdapter(Answer), plain(question))
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
            asked = [plain(row) for row in some if isinstance(row, Question)]
            found = iter(self._answers(asked, batches=batches) if asked else ())
            for row in some:
                yield next(found) if isinstance(row, Question) else Answer(status="error", reason=str(row))

    def explain(self, question: Question) -> Explanation:
        """Answer one question, and say what each switch of it would save or cost."""
        return self._ask("explain", pydantic.TypeAdapter(Explanation), plain(question))

    def serving(self, question: Question) -> Serving:
        """Say what a server of one configuration holds: merged, and with adapters beside the base."""
        return self._ask("serving", pydantic.TypeAdapter(Serving), plain(question))

    def capacity(self, demand: Demand) -> Capacity:
        """Say which devices train the demanded models in which ways, how fast and at what cost."""
        return self._ask("capacity", pydantic.TypeAdapter(Capacity), plain(demand))

    def plan(
        self,
        model: str | None = None,
        *,
        data: str | Upload | None = None,
        budget: Budget | None = None,
        **options: Unpack[Options],
    ) -> Plan:
        """Hold every configuration of a search space against a budget."""
        body = fields_of(model=model, budget=budget, **options) | self._files(data, options)
        return self._ask("plan", pydantic.TypeAdapter(Plan), body)

    def overview(
        self, *, budget: Budget | None = None, all_models: bool = False, **options: Unpack[Options]
    ) -> tuple[ModelRow, ...]:
        """Say of usual models, or all of the catalogue, how they train within a budget, and how far."""
        body = fields_of(budget=budget, **options) | {"all_models": all_models}
        return self._ask("overview", pydantic.TypeAdapter(tuple[ModelRow, ...]), body)

    def search(
        self,
        model: str | None = None,
        *,
        data: str | Upload | None = None,
        budget: Budget | None = None,
        study: str | None = None,
        on_event: Event | None = None,
        **options: Unpack[Options],
    ) -> Study:
        """Search for the best configuration within a budget, where the service trains; wait for its end.

        Args:
            data: a file of rows here, which is sent; or one that was uploaded.
            study: with `resume`, what to go on with, for the time of the budget.
            on_event: told what happens, see the service's events.
        """
        return self.study(self._train("search", model, data, budget, study, on_event, options))

    def run(
        self,
        model: str | None = None,
        *,
        data: str | Upload | None = None,
        budget: Budget | None = None,
        study: str | None = None,
        on_event: Event | None = None,
        **options: Unpack[Options],
    ) -> StudyFacts:
        """Go the whole way where the service trains: plan, search, export, report; wait for its end."""
        return self.facts(self._train("run", model, data, budget, study, on_event, options))

    def studies(self) -> tuple[Kept, ...]:
        """List your studies, and whether they have a report and a bundle; an administrator's are all."""
        return self._ask("studies", pydantic.TypeAdapter(tuple[Kept, ...]))

    def study(self, name: str) -> Study:
        """Return a study with its trials so far."""
        return self._ask(f"studies/{name}", pydantic.TypeAdapter(Study))

    def facts(self, study: Study | str) -> StudyFacts:
        """Return everything that the report of a study shows."""
        return self._ask(f"studies/{name_of(study)}/facts", pydantic.TypeAdapter(StudyFacts))

    def compare(self, one: Study | str, other: Study | str) -> Comparison:
        """Hold two studies there side by side, row by row where they were tested on the same rows."""
        path = f"studies/{name_of(one)}/compare/{name_of(other)}"
        return self._ask(path, pydantic.TypeAdapter(Comparison))

    def recipe(
        self,
        of: Study | str | Question | Candidate,
        wanted: Format = "script",
        *,
        trial: int | None = None,
        model: str | None = None,
        data: str | Upload | None = None,
        **options: Unpack[Options],
    ) -> Recipe:
        """Write a configuration as the files that another tool trains it from.

        Args:
            of: a study, whose winner or `trial` is taken; a question; or a candidate of `model`.
            data: a file of rows here, which is sent: its rows and classes are counted.
        """
        read = pydantic.TypeAdapter(Recipe)
        if isinstance(of, Question | Candidate):
            body = fields_of(model=model, **options) | self._files(data, options)
            what = "question" if isinstance(of, Question) else "candidate"
            return self._ask("recipe", read, body | {"format": wanted, what: plain(of)})
        asked = {"format": wanted} if trial is None else {"format": wanted, "trial": str(trial)}
        return self._ask(f"studies/{name_of(of)}/recipe?{urllib.parse.urlencode(asked)}", read)

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
        name = name_of(study)
        asked = Export.build(**wanted)
        place = Path(out or name)
        if place.exists() and not force:
            raise InputError(f"{place} exists already: name another directory, or say force=True.")
        with (
            replacing(place, force=force) as staging,
            tempfile.TemporaryFile(dir=staging.parent) as packed,
        ):
            self._bundle(name, asked, packed, on_event)
            _unpack(packed, staging, name)
            bundle = open_bundle(staging)
        return bundle.model_copy(update={"path": str(place)})

    def report(self, study: Study | str, *, out: str | None = None) -> StudyFacts:
        """Download a study's report page; `.places["report"]` names it.

        A search that has no report yet is concluded first, by a job there.
        """
        name = name_of(study)
        try:
            page = self._service.get(f"studies/{name}/report")
        except NotThereError:
            self.study(name)  # whether there is one at all
            if not self._has_ended(name):
                raise
            self.conclude(name)
            page = self._service.get(f"studies/{name}/report")
        place = write_atomically(Path(out or f"{name}.html"), page)
        return self.facts(name).model_copy(update={"places": {"report": str(place)}})

    def _has_ended(self, name: str) -> bool:
        """Return whether a study is a job's that has ended; one made on the command line there has none."""
        try:
            return self.job(name).state in ENDED
        except NotThereError:
            return False

    def _bundle(self, name: str, asked: Export, packed: IO[bytes], on_event: Event | None) -> None:
        """Download a bundle as a zip, made first where it is not there as it is asked for."""
        said = {"form": asked.form} | ({} if asked.trial is None else {"trial": str(asked.trial)})
        path = f"studies/{name}/bundle?{urllib.parse.urlencode(said)}"
        if not asked.model_fields_set:
            with contextlib.suppress(NotThereError):
                self._service.save(path, packed)
                return
        self.wait(self._submitted(f"studies/{name}/exports", plain(asked)), on_event)
        self._service.save(path, packed)

    def _answers(self, asked: Sequence[dict[str, Any]], *, batches: bool) -> list[Answer]:
        body = {"questions": asked, "batches": batches}
        answers = json.loads(self._service.post("estimates", body))["answers"]
        return [Answer.model_validate(each) for each in answers]


def _unpack(packed: IO[bytes], folder: Path, name: str) -> None:
    """Write the files of a bundle's zip into a folder.

    Raises:
        BundleError: it is no zip, holds a file outside of the bundle, or one that would grow.
    """
    try:
        with zipfile.ZipFile(packed) as archive:
            for entry in archive.infolist():
                inner = Path(*Path(entry.filename).parts[1:])
                if inner.is_absolute() or ".." in inner.parts:
                    raise BundleError(f"the bundle of {name} holds a file outside of it: {entry.filename!r}.")
                if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
                    raise BundleError(
                        f"the files of a bundle come as they are, but {entry.filename!r} is compressed."
                    )
                target = folder / inner
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as source, target.open("wb") as sink:
                    shutil.copyfileobj(source, sink)
    except (zipfile.BadZipFile, EOFError):
        raise BundleError(f"the bundle of {name} did not come whole: download it again.") from None

"""Routes of what needs no training: estimates, plans, capacity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field
from pydantic_core import from_json

from autopeft.errors import AutopeftError, InputError, UnsupportedError
from autopeft.message import Message
from autopeft.plan.answer import Answer, Explanation
from autopeft.plan.capacity import Capacity, Demand
from autopeft.plan.overview import ModelRow
from autopeft.plan.plan import Plan, Verdict
from autopeft.plan.question import Question
from autopeft.plan.serving import Serving
from autopeft.request import Request as Wish
from autopeft.service import apart, flags
from autopeft.service.access import Reader, office_of
from autopeft.service.contract import takes
from autopeft.service.replies import read_json, read_message, reply, strictly
from autopeft.service.wishes import NOT_TO_PLAN, request_of
from autopeft.space.candidate import Candidate

if TYPE_CHECKING:
    from autopeft.service.office import Office

router = APIRouter(prefix="/api/v1", tags=["planning"])
MOST_QUESTIONS, MOST_CELLS = 256, 1000


class Questions(Message):
    """Questions to be answered together.

    Attributes:
        questions: each as of `/estimate`; one that is malformed gets an answer that says so.
        batches: whether the largest batch is looked for, too.
    """

    questions: tuple[dict[str, Any], ...] = Field(min_length=1, max_length=MOST_QUESTIONS)
    batches: bool = True


class Answers(Message):
    """Answers in the order of their questions."""

    answers: tuple[Answer, ...]


@router.post("/estimate", response_model=Answer, openapi_extra=takes(Question))
async def estimate(request: Request, who: Reader) -> Response:
    """Say what one configuration takes, whether it fits, and what would make it fit."""
    office = office_of(request)
    question = office.names.question(Question.build(**await read_json(request)))
    key = f"estimate {question.model_dump_json()} {sorted(question.model_fields_set)}"
    return reply(_told(await office.desk.ask(who, key, lambda consultant: consultant.answer(question))))


@router.post("/estimates", response_model=Answers, openapi_extra=takes(Questions))
async def estimates(request: Request, who: Reader) -> Response:
    """Answer many questions together; one that cannot be answered does not stop the others."""
    office = office_of(request)
    asked = await read_message(request, Questions)
    rows = [_question(office, fields) for fields in asked.questions]
    answers = await office.desk.answers(who, rows, batches=asked.batches)
    return reply(b'{"answers":[' + b",".join(answers) + b"]}")


@router.post("/explain", response_model=Explanation, openapi_extra=takes(Question))
async def explain(request: Request, who: Reader) -> Response:
    """Answer one question, and say what each switch of it would save or cost."""
    office = office_of(request)
    question = office.names.question(Question.build(**await read_json(request)))
    key = f"explain {question.model_dump_json()} {sorted(question.model_fields_set)}"
    return reply(await office.desk.ask(who, key, lambda consultant: consultant.explain(question)))


@router.post("/serving", response_model=Serving, openapi_extra=takes(Question))
async def serving(request: Request, who: Reader) -> Response:
    """Say what a server of one configuration holds: merged, and with adapters beside the base."""
    office = office_of(request)
    question = office.names.question(Question.build(**await read_json(request)))
    key = f"serving {question.model_dump_json()} {sorted(question.model_fields_set)}"
    place = office.settings.workspace
    return reply(
        await office.desk.ask(who, key, lambda _: apart.ask("serving", Serving, place, question=question))
    )


@router.post(
    "/verdict",
    response_model=Verdict,
    openapi_extra=takes(
        Wish,
        name="VerdictRequest",
        without=NOT_TO_PLAN,
        also={**flags.BUDGET, "candidate": {"type": "object"}},
    ),
)
async def verdict(request: Request, who: Reader) -> Response:
    """Hold one `candidate` against a budget."""
    office = office_of(request)
    fields = await read_json(request)
    given = fields.pop("candidate", None)
    if not isinstance(given, dict):
        raise InputError("candidate must be an object: the fields of one configuration.")
    candidate = office.names.candidate(strictly(Candidate, given))
    wish = request_of(fields, office, who)
    key = f"verdict {wish.model_dump_json()} {candidate.model_dump_json()}"
    return reply(await office.desk.ask(who, key, lambda consultant: consultant.judge(wish, candidate)))


@router.post(
    "/plan",
    response_model=Plan,
    openapi_extra=takes(Wish, name="PlanRequest", without=NOT_TO_PLAN, also=flags.BUDGET),
)
async def plan(request: Request, who: Reader) -> Response:
    """Hold every configuration of a search space against a budget."""
    office = office_of(request)
    wish = request_of(await read_json(request), office, who)
    if wish.model is None and wish.demo is None:
        raise InputError(
            "a plan needs a model, or a demo; /overview holds the usual models against a budget."
        )
    return reply(await office.desk.ask(who, f"plan {wish.model_dump_json()}", lambda one: one.plan(wish)))


@router.post(
    "/overview",
    response_model=list[ModelRow],
    openapi_extra=takes(
        Wish,
        name="OverviewRequest",
        without=(*NOT_TO_PLAN, "model", "data", "demo"),
        also={**flags.BUDGET, "all_models": {"type": "boolean"}},
    ),
)
async def overview(request: Request, who: Reader) -> Response:
    """Say of usual models, or with `all_models` of the whole catalogue, how they train within a budget."""
    office = office_of(request)
    fields = await read_json(request)
    whole = fields.pop("all_models", None) or False
    if not isinstance(whole, bool):
        raise InputError(f"all_models must be true or false, but got {whole!r}.")
    wish = request_of(fields, office, who)
    if wish.model is not None or wish.demo is not None or wish.data is not None:
        raise InputError("an overview is of many models: leave out model, data and demo, or ask /plan.")
    key = f"overview {whole} {wish.model_dump_json()}"
    return reply(await office.desk.ask(who, key, lambda one: one.overview(wish, all_models=whole)))


@router.post("/capacity", response_model=Capacity, openapi_extra=takes(Demand, also=flags.DEMAND))
async def capacity(request: Request, who: Reader) -> Response:
    """Say which devices train the demanded models in which ways, how fast and at what cost."""
    office = office_of(request)
    demand = strictly(Demand, flags.demand_fields(await read_json(request)))
    cells = len(demand.models) * len(demand.ways) * len(demand.gpus) * len(demand.counts)
    if cells > MOST_CELLS:
        raise InputError(f"a demand may have {MOST_CELLS:,} cells at most here, but has {cells:,}.")
    demand = office.names.demand(demand)
    return reply(
        await office.desk.ask(who, f"capacity {demand.model_dump_json()}", lambda one: one.capacity(demand))
    )


def _question(office: Office, fields: dict[str, Any]) -> Question | AutopeftError:
    try:
        return office.names.question(Question.build(**fields))
    except AutopeftError as error:
        return error


def _told(content: bytes) -> bytes:
    """Return an answer.

    Raises:
        InputError, UnsupportedError: it says that there is none.
    """
    if content.startswith(b'{"status":"ok"'):
        return content
    answer = from_json(content)
    kind = UnsupportedError if answer["status"] == "unsupported" else InputError
    raise kind(str(answer["reason"]))

"""Routes of recipes: a configuration as the files that another tool trains it from."""

from __future__ import annotations

from typing import Annotated, Any, get_args

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from autopeft.errors import InputError
from autopeft.export.recipes.subject import Format, Recipe
from autopeft.message import Message
from autopeft.plan.question import Question
from autopeft.request import Request as Wish
from autopeft.service import apart, flags
from autopeft.service.access import Reader, office_of
from autopeft.service.contract import takes
from autopeft.service.replies import read_json, reply, strictly
from autopeft.service.results import StudyName, own_study, winner_of
from autopeft.service.wishes import request_of
from autopeft.space.candidate import Candidate

router = APIRouter(prefix="/api/v1", tags=["results"])
_TAKEN = ("model", "data", "test_data", "task", "columns", "seed", "train_rows")
_NOT_TAKEN = tuple(name for name in Wish.model_fields if name not in _TAKEN)


class Recited(Message):
    """What of a recipe's request is no field of other requests.

    Attributes:
        format: the tool.   candidate: one configuration, such as a line of a plan has.
        question: instead, one configuration as `/estimate` takes it, with its model.
    """

    format: Format = "script"
    candidate: Candidate | None = None
    question: dict[str, Any] | None = None


@router.post(
    "/recipe",
    response_model=Recipe,
    openapi_extra=takes(
        Wish,
        name="RecipeRequest",
        without=_NOT_TAKEN,
        also={
            "format": {"enum": list(get_args(Format)), "type": "string", "default": "script"},
            "candidate": {"type": "object"},
            "question": {"$ref": "#/components/schemas/Question"},
            **flags.QUESTION,
        },
    ),
)
async def post_recipe(request: Request, who: Reader) -> Response:
    """Write a `candidate` of a model, or what a `question` asks of, as the files of another tool.

    What a question says may stand beside `model`, too: `method`, `rank` and so on, as the flags are called.
    """
    office = office_of(request)
    fields = flags.recipe_fields(await read_json(request))
    given = strictly(Recited, {name: fields.pop(name, None) for name in Recited.model_fields})
    wish = await run_in_threadpool(request_of, fields, office, who, _NOT_TAKEN)
    asked: dict[str, Candidate | Question] = {}
    if given.question is not None:
        if given.candidate is not None or wish.model is not None:
            raise InputError("a question brings its model and configuration: leave out model and candidate.")
        question = office.names.question(Question.build(**given.question))
        wish = wish.model_copy(update={"model": question.model, "task": question.task or wish.task})
        asked["question"] = question
    elif given.candidate is not None:
        asked["candidate"] = office.names.candidate(given.candidate)
    else:
        raise InputError("a recipe needs a candidate (the fields of one configuration), or a question.")
    if wish.model is None:
        raise InputError("a candidate needs a base model: give model, too.")
    key = f"recipe {given.format} {wish.model_dump_json()} {asked}"
    place = office.settings.workspace
    return reply(
        await office.desk.ask(
            who,
            key,
            lambda _: apart.ask("recipe", Recipe, place, request=wish, wanted=given.format, **asked),
        )
    )


@router.get("/studies/{name}/recipe", response_model=Recipe)
async def study_recipe(
    request: Request,
    who: Reader,
    name: StudyName,
    wanted: Annotated[Format, Query(alias="format", description="The tool.")] = "script",
    trial: Annotated[int | None, Query(ge=0, le=10**6, description="Default: the winner.")] = None,
) -> Response:
    """Write the winner of a study, or a trial of it, as the files of another tool."""
    office = office_of(request)
    wish = await run_in_threadpool(own_study, request, who, name)
    winner = await run_in_threadpool(winner_of, wish)
    key = f"recipe of {name} {wanted} {trial} {winner}"
    place = office.settings.workspace
    return reply(
        await office.desk.ask(
            who,
            key,
            lambda _: apart.ask("recipe", Recipe, place, request=wish, wanted=wanted, trial=trial),
        )
    )

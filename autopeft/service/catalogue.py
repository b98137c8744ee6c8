"""Routes of what there is: models, methods, devices, search spaces, and the state of the installation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi import Path as InPath
from fastapi.responses import Response
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from autopeft import inventory
from autopeft.doctor import Check, examine
from autopeft.errors import AutopeftError, InputError
from autopeft.hardware.profile import HardwareProfile
from autopeft.message import Message
from autopeft.methods.spec import MethodSpec
from autopeft.request import Request as Asked
from autopeft.service.access import Admin, Reader, office_of
from autopeft.service.contract import takes
from autopeft.service.replies import LARGEST_PAGE, PAGE, Page, paged, read_message, reply, tagged
from autopeft.space.counting import SpaceFacts
from autopeft.workload.base_model import BaseModel

router = APIRouter(prefix="/api/v1", tags=["catalogue"])

Offset = Annotated[int, Query(ge=0, le=10**6, description="Items to skip.")]
Limit = Annotated[int, Query(ge=1, le=LARGEST_PAGE, description="Items to return at most.")]
Words = Annotated[str, Query(max_length=100, description="Words that the name must hold, in any case.")]
Named = Annotated[str, InPath(min_length=1, max_length=200)]


@router.get("/models", response_model=Page[BaseModel])
def models(request: Request, who: Reader, q: Words = "", offset: Offset = 0, limit: Limit = PAGE) -> Response:
    """List the base models known by name, the service's own first."""
    del who
    found = [*_own_models(request, q), *_holding(q, _models())]
    return tagged(request, paged(request, found, offset, limit))


@router.get("/models/{name}", response_model=BaseModel)
def model(request: Request, who: Reader, name: Named) -> Response:
    """Return one base model."""
    del who
    names = office_of(request).names
    if (place := names.own(name)) is not None:
        return tagged(request, _own_model(name, place, _age(place)))
    wanted = names.model(name)
    found = next((one for one in _models() if one.name == wanted), None)
    if found is None:
        raise inventory.unknown_model(name)
    return tagged(request, found)


class Filters(Message):
    """Which methods: None and false take all.

    Attributes:
        q: words that the name must hold.   family: of methods.   works_on: a family of models.
        quantization: of the base.   served_by: who loads the adapter as it is saved.
        merges: those whose update folds into the base weights.
    """

    q: str = Field(default="", max_length=100)
    family: str | None = None
    works_on: str | None = None
    quantization: str | None = None
    served_by: str | None = None
    merges: bool = False
    offset: int = Field(default=0, ge=0, le=10**6)
    limit: int = Field(default=PAGE, ge=1, le=LARGEST_PAGE)


@router.get("/methods", response_model=Page[MethodSpec])
def methods(request: Request, who: Reader, wanted: Annotated[Filters, Query()]) -> Response:
    """List the methods, all or those that pass every filter."""
    del who
    chosen = wanted.model_dump(exclude={"q", "merges", "offset", "limit"})
    found = inventory.methods(**chosen, mergeable=wanted.merges)
    return tagged(request, paged(request, _holding(wanted.q, found), wanted.offset, wanted.limit))


@router.get("/methods/{name}", response_model=MethodSpec)
def method(request: Request, who: Reader, name: Named) -> Response:
    """Return what is known of a method."""
    del who
    return tagged(request, inventory.method(name))


@router.get("/gpus", response_model=Page[HardwareProfile])
def gpus(request: Request, who: Reader, q: Words = "", offset: Offset = 0, limit: Limit = PAGE) -> Response:
    """List the devices that can be planned for."""
    del who
    return tagged(request, paged(request, _holding(q, _devices(request)), offset, limit))


@router.get("/gpus/{name}", response_model=HardwareProfile)
def gpu(request: Request, who: Reader, name: Named) -> Response:
    """Return one device."""
    del who
    office = office_of(request)
    wanted = office.names.device(name) or name
    return tagged(request, inventory.gpu(wanted, str(office.settings.workspace)))


@router.put("/gpus/{name}", response_model=HardwareProfile, openapi_extra=takes(HardwareProfile))
async def put_gpu(request: Request, who: Admin, name: Named) -> Response:
    """Add a device to the workspace, or replace it: its profile, as `autopeft profile` measures one."""
    office = office_of(request)
    profile = await read_message(request, HardwareProfile)
    if profile.name != name:
        raise InputError(
            f"the profile's name must be that of its address, {name!r}, but is {profile.name!r}."
        )
    await run_in_threadpool(inventory.keep_profile, profile, str(office.settings.workspace))
    office.desk.renew()
    await run_in_threadpool(office.note, who, "put-gpu", name, request.state.request_id)
    return reply(profile)


@router.get("/spaces", response_model=Page[SpaceFacts])
def spaces(request: Request, who: Reader, q: Words = "", offset: Offset = 0, limit: Limit = PAGE) -> Response:
    """List the search spaces, counted."""
    del who
    return tagged(request, paged(request, _holding(q, _spaces()), offset, limit))


@router.get("/spaces/{name}", response_model=SpaceFacts)
def space(request: Request, who: Reader, name: Named) -> Response:
    """Return all about one search space."""
    del who
    return tagged(request, inventory.space(office_of(request).names.space(name)))


@router.get("/doctor", response_model=list[Check])
def doctor(request: Request, who: Admin) -> Response:
    """Say whether everything autopeft needs is there, and how to mend what is not."""
    del who
    return reply(examine(Path(office_of(request).settings.workspace)))


def _own_models(request: Request, words: str) -> Iterator[BaseModel]:
    """Yield the models below the service's folders whose name holds every word."""
    for name, place in office_of(request).names.own_models.items():
        if _holds(words, name):
            with suppress(AutopeftError):  # one that cannot be read says so to who asks for it
                yield _own_model(name, place, _age(place))


@lru_cache(maxsize=256)
def _own_model(name: str, place: str, age: int) -> BaseModel:
    """Return a model below the service's folders, read once; where it lies it does not say."""
    del age
    hidden = {"name": name, "path": None, "source": "a directory of this service"}
    return inventory.model(place).model_copy(update=hidden)


def _age(place: str) -> int:
    """Return what is another number once a model's configuration is another one."""
    try:
        return (Path(place) / "config.json").stat().st_mtime_ns
    except OSError:  # gone since it was found
        return 0


@cache
def _models() -> tuple[BaseModel, ...]:
    """Return the models that ship, read once: the page asks for some of them with every key."""
    return inventory.models()


@cache
def _spaces() -> tuple[SpaceFacts, ...]:
    """Return the search spaces that ship, counted once."""
    return inventory.spaces()


def _devices(request: Request) -> tuple[HardwareProfile, ...]:
    return inventory.gpus(Asked(workspace=str(office_of(request).settings.workspace)))


def _holding(words: str, items: tuple[object, ...]) -> list[object]:
    """Return the items whose name holds every word."""
    return [one for one in items if _holds(words, str(getattr(one, "name", "")))]


def _holds(words: str, name: str) -> bool:
    return all(word in name.lower() for word in words.lower().split())

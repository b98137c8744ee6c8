"""The application: routes, problems and the gate, put together."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from fastapi import FastAPI

from autopeft.service import (
    catalogue,
    contract,
    exports,
    health,
    pages,
    planning,
    problems,
    recipes,
    results,
    training,
)
from autopeft.service.gate import Gate, known_names

if TYPE_CHECKING:
    from autopeft.service.office import Office


def create_app(office: Office) -> FastAPI:
    """Make the application that works with an office."""

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        office.ready = False

    app = FastAPI(
        title="autopeft",
        openapi_url="/api/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.office = office
    app.openapi = lambda: contract.document(app)  # type: ignore[method-assign]
    for module in (pages, health, catalogue, planning, training, results, exports, recipes):
        app.include_router(module.router)
    problems.install(app)
    return app


def make_service(office: Office) -> Gate:
    """Make the application with the gate around it, which even its own failures pass."""
    settings = office.settings
    return Gate(
        create_app(office),
        metrics=office.metrics,
        names=known_names(settings.host, settings.names),
        secure=settings.cert is not None,
    )

"""autopeft token: who may use a service."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from autopeft.cli.exits import Exit
from autopeft.cli.flags import Json, takes_request

if TYPE_CHECKING:
    from rich.table import Table

    from autopeft.request import Request
    from autopeft.service.tokens import TokenFacts

Action = Annotated[
    Literal["create", "list", "revoke"], typer.Argument(help="What to do.", show_default=False)
]
What = Annotated[
    str | None,
    typer.Argument(
        metavar="[NAME|ID]", help="create: the user's name. revoke: the token's id.", show_default=False
    ),
]
GivenScope = Annotated[
    Literal["read", "submit", "admin"],
    typer.Option(help="read: ask and plan. submit: searches too. admin: everything, of all users."),
]
Expires = Annotated[
    str | None, typer.Option(metavar="TIME", help="Good for so long, such as 90d. Default: until revoked.")
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(metavar="URL", help="The service's database. Default: a file in the workspace."),
]


@takes_request("workspace")
def token(
    request: Request,
    action: Action,
    what: What = None,
    scope: GivenScope = "submit",
    expires: Expires = None,
    database: DatabaseUrl = None,
    as_json: Json = False,
) -> int:
    """Create, list or revoke the tokens of a service.

    A new token is printed once; only its digest is kept.
    """
    from autopeft.cli import screen
    from autopeft.errors import InputError
    from autopeft.service.database import Database
    from autopeft.service.settings import Settings
    from autopeft.service.tokens import Tokens
    from autopeft.units import parse_seconds

    settings = Settings.build(workspace=request.workspace, database=database)
    if action != "list" and what is None:
        raise InputError("create needs a user's name, revoke a token's id (`autopeft token list`).")
    kept = Database(settings.place)
    try:
        tokens = Tokens(kept)
        answer: Any
        if action == "create":
            made, text = tokens.create(
                what or "", scope, seconds=None if expires is None else parse_seconds(expires)
            )
            kept.note("console", "create-token", f"{made.id} {made.user} {made.scope}")
            answer = {**made.model_dump(mode="json"), "token": text} if as_json else text
        elif action == "revoke":
            answer = tokens.revoke(what or "")
            kept.note("console", "revoke-token", answer.id)
        else:
            answer = tokens.list()
    finally:
        kept.close()
    screen.show(answer, lambda given: given if isinstance(given, str) else _table(given), as_json=as_json)
    return Exit.DONE


def _table(given: TokenFacts | tuple[TokenFacts, ...]) -> Table:
    from autopeft.cli import tables

    made = tables.table("id", "user", "scope", "created", "good until")
    for each in given if isinstance(given, tuple) else (given,):
        ends = each.expires is not None and each.expires < datetime.max.replace(tzinfo=UTC).timestamp()
        until = "revoked" if each.revoked else _day(each.expires or 0.0) if ends else "no end"
        made.add_row(each.id, each.user, each.scope, _day(each.created), until)
    return made


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")

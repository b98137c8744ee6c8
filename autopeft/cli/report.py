"""autopeft report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autopeft.cli.exits import Exit
from autopeft.cli.flags import Json, takes_request
from autopeft.cli.studies import StudyOrFile, named_by
from autopeft.errors import InputError

if TYPE_CHECKING:
    from autopeft.request import Request

_FORMATS = ("html", "md", "json")
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="NAME",
        show_default=False,
        help="What to print: where the page is (html, the default), a summary in Markdown (md), or all "
        "facts (json, as --json).",
    ),
]


@named_by(StudyOrFile)
@takes_request("study", "workspace", "storage")
def report(request: Request, wanted: Format = None, as_json: Json = False) -> int:
    """Write the report page of a study.

    It prints where the page is, or what --format says.
    The page of a kept plan or capacity plan is written beside its file.
    """
    from autopeft import pipeline
    from autopeft.cli import screen
    from autopeft.report.text import facts_to_markdown

    if wanted is not None and wanted not in _FORMATS:
        raise InputError(f"--format must be one of {', '.join(_FORMATS)}, but got {wanted!r}.")
    if as_json and wanted not in (None, "json"):
        raise InputError(f"--json and --format {wanted} are two formats: leave one out.")
    as_json = as_json or wanted == "json"
    place = Path(request.study or "")
    if place.suffix == ".json" and place.is_file():
        return _of_file(place, markdown=wanted == "md", as_json=as_json)
    with screen.clean_stdout(when=as_json or wanted == "md"):
        facts = pipeline.report(request)
    if wanted == "md":
        typer.echo(facts_to_markdown(facts), nl=False)  # as it is: a console would wrap long lines
    else:
        screen.show(facts, lambda answer: answer.places.get("report", ""), as_json=as_json)
    return Exit.DONE


def _of_file(place: Path, *, markdown: bool, as_json: bool) -> int:
    from autopeft import handover
    from autopeft.cli import screen
    from autopeft.plan.plan import Plan
    from autopeft.report.text import capacity_to_markdown, plan_to_markdown

    answer = handover.kept_answer(place)
    if markdown:
        text = plan_to_markdown(answer) if isinstance(answer, Plan) else capacity_to_markdown(answer)
        typer.echo(text, nl=False)
    elif as_json:
        screen.show(answer, str, as_json=True)
    else:
        screen.show(handover.answer_page(answer, place.with_suffix(".html")), str, as_json=False)
    return Exit.DONE

"""autopeft run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autopeft.cli.exits import Exit
from autopeft.cli.flags import Json, takes_request
from autopeft.cli.search_flags import Refit
from autopeft.cli.studies import resumes_by_word

if TYPE_CHECKING:
    from autopeft.request import Request


@resumes_by_word
@takes_request(without=("gpus", "sharding", "offload", "examples", "grid_factor"))
def run(request: Request, refit: Refit = False, as_json: Json = False) -> int:
    """Go the whole way: profile, plan, search, export, report.

    Exit status: 0 an adapter was exported, 1 nothing fits, or no trial came to its end within the budget.
    """
    from autopeft import pipeline
    from autopeft.cli import screen, summary
    from autopeft.tracking.console import ConsoleObserver

    request = request.model_copy(update={"refit": refit or request.refit})
    console = screen.stderr() if as_json else screen.stdout()
    with screen.clean_stdout(when=as_json), screen.counting(console) as progress:
        facts = pipeline.run(request, [ConsoleObserver(console)], progress)
    wide = console.width >= screen.WIDEST
    screen.show(facts, lambda answer: summary.summary(answer, wide=wide), as_json=as_json)
    return Exit.DONE if "adapter" in facts.places else Exit.DOES_NOT_FIT

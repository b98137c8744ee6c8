"""Write a study's facts as one HTML file that needs no network, now or in ten years."""

from __future__ import annotations

import base64
import gzip
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from autopeft.files import write_atomically
from autopeft.report.facts import StudyFacts
from autopeft.report.rows import bars_legend, budget_rows, refused, score_rows, score_scale, trial_rows

if TYPE_CHECKING:
    import jinja2
    import markupsafe

_HERE = Path(__file__).parent


def write_report(facts: StudyFacts, path: Path) -> Path:
    """Write the page with everything it needs inside (some 2 MB, most of it the plotting library).

    Raises:
        StorageError: the disk is full or the place cannot be written.
    """
    return write_atomically(path, render(facts))


def render(facts: StudyFacts) -> str:
    """Return the page as text."""
    from autopeft.report.charts import charts
    from autopeft.report.explain_charts import explain_charts

    budget = budget_rows(facts)
    drawn = (*charts(facts), *explain_charts(facts))
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            facts=facts,
            scores=score_rows(facts),
            scale=score_scale(facts),
            budget=budget,
            legend=bars_legend(budget),
            trials=trial_rows(facts),
            refused=refused(facts),
            charts=[(chart, script_of(chart.figure.to_json())) for chart in drawn],
            style=inside("report.css"),
            script=inside("charts.js") + inside("report.js"),
            plotly=packed_plotly() if drawn else "",
        )
    )


def environment() -> jinja2.Environment:
    """Return the environment of the pages' templates."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def inside(name: str) -> markupsafe.Markup:
    """Return a file of this folder, to stand in a page as it is."""
    import markupsafe

    return markupsafe.Markup((_HERE / name).read_text(encoding="utf-8"))  # noqa: S704 - a file of ours


@cache
def packed_plotly() -> markupsafe.Markup:
    """Return the plotting library gzipped, in base64, a third of its size; charts.js unpacks it."""
    import markupsafe
    import plotly.offline

    packed = gzip.compress(plotly.offline.get_plotlyjs().encode(), mtime=0)
    return markupsafe.Markup(base64.b64encode(packed).decode())  # noqa: S704 - base64 holds no markup


def script_of(figure: str) -> str:
    """Keep JSON from closing the script element it stands in."""
    import markupsafe

    text = json.dumps(json.loads(figure)).replace("<", "\\u003c").replace(">", "\\u003e")
    return markupsafe.Markup(text.replace("&", "\\u0026"))  # noqa: S704 - holds no markup any more

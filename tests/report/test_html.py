from __future__ import annotations

import base64
import gzip
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from autopeft.errors import StorageError
from autopeft.report.facts import StudyFacts
from autopeft.report.html import render, write_report
from autopeft.report.rows import bars_legend, budget_rows, score_rows, trial_rows

LOADING = {
    "src",
    "href",
    "srcset",
    "data",
    "poster",
    "action",
    "formaction",
    "background",
    "cite",
    "xlink:href",
}


class Page(HTMLParser):
    """What a browser would see of a page: elements, what they load, texts and ids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.loads: list[str] = []
        self.ids: Counter[str] = Counter()
        self.refers: list[str] = []
        self.handlers: list[str] = []
        self.texts: list[str] = []
        self.styles: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self._inside = tag
        for name, value in attrs:
            if name in LOADING:
                self.loads.append(value or "")
            if name == "id":
                self.ids[value or ""] += 1
            if name in ("aria-labelledby", "for", "data-chart"):
                self.refers.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)
            if name == "style":
                self.styles.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "style":
            self.styles.append(data)
        elif self._inside != "script":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def page(facts: StudyFacts) -> Page:
    return Page(render(facts))


def test_page_loads_nothing_from_outside(page: Page) -> None:
    assert all(target.startswith(("#", "data:")) for target in page.loads)
    assert page.tags["iframe"] + page.tags["object"] + page.tags["embed"] + page.tags["img"] == 0
    assert not any(re.search(r"url\(|@import", style) for style in page.styles)


def test_page_forbids_the_browser_to_load_anything(facts: StudyFacts) -> None:
    assert "default-src 'none'" in render(facts)


def test_page_begins_with_the_decision(facts: StudyFacts, page: Page) -> None:
    assert facts.decision in page.text
    assert page.text.index(facts.decision) < page.text.index("Test accuracy")


def test_page_shows_every_contender_with_its_interval_and_lead(facts: StudyFacts, page: Page) -> None:
    for row in score_rows(facts):
        assert row.contender in page.text
        assert row.interval in page.text
    assert [row.judgement for row in score_rows(facts)] == ["", "within noise", "beyond noise"]


def test_page_lists_every_trial_with_state_and_reason(facts: StudyFacts, page: Page) -> None:
    for row in trial_rows(facts):
        assert row.label in page.text
        assert row.reason in page.text
    assert Counter(row.state for row in trial_rows(facts)) == {
        "complete": 5,
        "stopped": 3,
        "failed": 1,
        "rejected": 1,
    }
    assert "nf4 needs a CUDA device" in page.text


def test_page_tells_how_to_go_on(facts: StudyFacts, page: Page) -> None:
    for text in (*facts.next_steps, *facts.places.values(), *facts.data.notes, facts.data.fingerprint):
        assert " ".join(text.split()) in page.text


def test_page_inlines_the_plotting_library_once(facts: StudyFacts) -> None:
    page = render(facts)
    [packed] = re.findall(r'id="plotly">([^<]+)<', page)
    assert gzip.decompress(base64.b64decode(packed)).count(b"plotly.js v") == 1
    assert "plotly.js v" not in page


def test_labels_point_at_elements_that_are_there_once(page: Page) -> None:
    assert set(page.refers) <= set(page.ids)
    assert max(page.ids.values()) == 1


def test_hostile_names_stay_text(facts: StudyFacts) -> None:
    hostile = "</script><script>alert(1)</script><img src=http://evil.example/x onerror=alert(1)>"
    candidate = facts.study.trials[3].candidate.model_copy(update={"targets": hostile})
    trials = tuple(
        one.model_copy(update={"candidate": candidate, "reason": hostile}) for one in facts.study.trials
    )
    changed = facts.model_copy(
        update={
            "study": facts.study.model_copy(update={"name": hostile, "trials": trials}),
            "data": facts.data.model_copy(update={"labels": (hostile,), "columns": {hostile: hostile}}),
            "decision": hostile,
            "next_steps": (hostile,),
            "places": {hostile: hostile},
            "environment": {hostile: hostile},
            "seconds": {hostile: 1.0},
        }
    )
    tame, wild = Page(render(facts)), Page(render(changed))
    assert wild.tags["script"] == tame.tags["script"]
    assert wild.tags["img"] == 0
    assert wild.handlers == []
    assert hostile in wild.text


def test_a_study_without_a_complete_trial_has_its_page(fruitless: StudyFacts) -> None:
    page = Page(render(fruitless))
    assert fruitless.decision in page.text
    assert "winner" not in page.text
    assert "rejected" in page.text


def test_a_study_without_any_trial_has_its_page(facts: StudyFacts) -> None:
    study = facts.study.model_copy(update={"trials": ()})
    bare = facts.model_copy(update={"study": study, "scores": (), "comparisons": (), "seconds": {}})
    page = Page(render(bare))
    assert "No trial was started." in page.text
    assert page.tags["figure"] == 0


def test_a_thousand_trials_add_little_more_than_their_rows(facts: StudyFacts, thousand: StudyFacts) -> None:
    few, many = render(facts), render(thousand)
    assert Page(many).tags["tr"] > 1000
    assert len(many) - len(few) < 1_500_000
    assert len(many) < 5_000_000


def test_rows_that_nothing_limits_have_no_limit_mark(facts: StudyFacts) -> None:
    rows = {row.quantity: row for row in budget_rows(facts)}
    assert rows["peak memory of the process"].limit is not None
    assert rows["peak memory of the process"].budget == "4 GB (3.73 GiB)"
    assert rows["time of a training step"].limit is None
    assert rows["candidates tried"].measured == "8"
    assert not any(row.over for row in rows.values())


def test_the_legend_of_the_bars_names_what_is_drawn(facts: StudyFacts) -> None:
    rows = budget_rows(facts)
    assert bars_legend(rows) == "Blue: measured. Tick: predicted, on its band. Red line: budget."
    over = rows[0]._replace(over=True)
    assert "Red: measured, over budget." in bars_legend([*rows[1:], over])
    assert "Blue" not in bars_legend([over])
    assert bars_legend([row for row in rows if row.seen is None]) == ""


def test_the_notes_on_the_data_stand_together(facts: StudyFacts) -> None:
    text = Page(render(facts)).text
    assert f"notes {' '.join(facts.data.notes)}" in text


def test_on_a_gpu_the_context_takes_its_share_of_the_budget(facts: StudyFacts) -> None:
    profile = facts.plan.profile.model_copy(update={"device": "cuda", "context_bytes": 500 * 2**20})
    there = facts.model_copy(update={"plan": facts.plan.model_copy(update={"profile": profile})})
    assert budget_rows(there)[0].budget == "4 GB (3.73 GiB), 500 MiB of it context"


def test_the_report_is_one_file(facts: StudyFacts, tmp_path: Path) -> None:
    path = write_report(facts, tmp_path / "reports" / "report.html")
    assert path.read_text().startswith("<!doctype html>")
    assert list(path.parent.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_one_clear_error(facts: StudyFacts, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be"):
        write_report(facts, tmp_path / "file" / "report.html")

"""When the charts of a report are drawn: near the screen, for print, and in browsers that lack something."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autopeft.report.facts import StudyFacts
from autopeft.report.html import render, write_report
from autopeft.service.results import REPORT_CSP

pytestmark = pytest.mark.timeout(120)
DRAWN = """() => [...document.querySelectorAll(".chart")]
  .filter((chart) => chart.querySelector(".main-svg")).map((chart) => chart.id.replace("chart-", ""))"""
WIDTHS = """() => [...document.querySelectorAll(".chart .main-svg:first-of-type")]
  .map((drawing) => drawing.getBoundingClientRect().width)"""
ALL = ["learning", "trade-off", "memory", "parts", "stages"]
ALL_DRAWN = f"() => ({DRAWN})().length === {len(ALL)}"
PATIENCE = 60_000  # ms


@pytest.fixture(scope="module")
def address(facts: StudyFacts, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(facts, tmp_path_factory.mktemp("drawing") / "report.html").as_uri()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page as wide as a phone, on which no chart is near the first screen."""
    context = browser.new_context(viewport={"width": 400, "height": 600})
    opened = context.new_page()
    said: list[str] = []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    yield opened
    context.close()
    assert said == []


def unpacked(page: Any, address: str) -> None:
    """Open the page and wait until it could draw."""
    page.goto(address)
    page.wait_for_function("() => 'Plotly' in window", timeout=PATIENCE)


def test_the_charts_of_a_small_study_are_drawn_while_nobody_scrolls(page: Any, address: str) -> None:
    page.goto(address)
    page.wait_for_function(ALL_DRAWN, timeout=PATIENCE)
    assert page.evaluate("window.scrollY") == 0


def test_a_chart_of_many_trials_is_drawn_when_it_comes_near_and_no_other(
    page: Any, thousand: StudyFacts, tmp_path: Path
) -> None:
    unpacked(page, write_report(thousand, tmp_path / "report.html").as_uri())
    page.wait_for_timeout(500)
    assert page.evaluate(DRAWN) == []
    page.locator("#chart-stages").scroll_into_view_if_needed()
    page.wait_for_selector("#chart-stages .main-svg", timeout=PATIENCE)
    assert "learning" not in page.evaluate(DRAWN)
    for name in ALL:
        page.locator(f"#chart-{name}").scroll_into_view_if_needed()
        page.wait_for_selector(f"#chart-{name} .main-svg", timeout=PATIENCE)
    assert page.evaluate(DRAWN) == ALL


def test_no_legend_is_cut_off_on_a_phone(
    page: Any, facts: StudyFacts, many_parts: StudyFacts, tmp_path: Path
) -> None:
    for each in (facts, many_parts):
        page.goto(write_report(each, tmp_path / "report.html").as_uri())
        page.wait_for_function(ALL_DRAWN, timeout=PATIENCE)
        bars = page.locator(".chart .scrollbar").evaluate_all(
            "(bars) => bars.map((bar) => Number(bar.getAttribute('height')))"
        )
        assert not any(bars)


def test_a_desk_shows_every_column_of_the_trials(page: Any, facts: StudyFacts, tmp_path: Path) -> None:
    long = facts.study.trials[2].candidate.model_copy(update={"targets": "query+key+value+dense+output"})
    reason = "set aside after 80 rows: the time was spent"
    trials = tuple(one.model_copy(update={"candidate": long, "reason": reason}) for one in facts.study.trials)
    study = facts.study.model_copy(update={"trials": trials})
    page.set_viewport_size({"width": 1280, "height": 900})
    page.goto(write_report(facts.model_copy(update={"study": study}), tmp_path / "report.html").as_uri())
    table = page.locator("#trials").locator("..")
    assert table.evaluate("(around) => around.scrollWidth <= around.clientWidth")


def test_nothing_moves_when_a_chart_is_drawn(page: Any, address: str) -> None:
    unpacked(page, address)
    before = page.evaluate("document.documentElement.scrollHeight")
    page.emulate_media(media="print")
    page.wait_for_function(ALL_DRAWN, timeout=PATIENCE)
    page.emulate_media(media="screen")
    assert page.evaluate("document.documentElement.scrollHeight") == before


def test_a_page_that_is_shown_as_on_paper_draws_all(page: Any, address: str) -> None:
    page.goto(address)
    page.emulate_media(media="print")
    page.wait_for_function(ALL_DRAWN, timeout=PATIENCE)


def test_before_printing_all_are_drawn_as_wide_as_paper_and_then_fit_the_screen_again(
    page: Any, address: str
) -> None:
    unpacked(page, address)
    before = "() => { window.dispatchEvent(new Event('beforeprint')); return [(%s)(), (%s)()]; }"
    drawn, widths = page.evaluate(before % (DRAWN, WIDTHS))
    assert drawn == ALL
    assert set(widths) == {640}
    page.evaluate("() => window.dispatchEvent(new Event('afterprint'))")
    screen = page.evaluate("document.querySelector('.chart').clientWidth")
    assert set(page.evaluate(WIDTHS)) == {screen}


def test_a_printed_page_has_its_charts(page: Any, address: str) -> None:
    unpacked(page, address)
    page.pdf()
    assert page.evaluate(DRAWN) == ALL


def test_a_service_shows_it_locked_up_and_it_draws(page: Any, facts: StudyFacts) -> None:
    headers = {"content-type": "text/html; charset=utf-8", "content-security-policy": REPORT_CSP}
    page.route("http://service.test/", lambda route: route.fulfill(body=render(facts), headers=headers))
    unpacked(page, "http://service.test/")
    page.locator("#chart-learning").scroll_into_view_if_needed()
    page.wait_for_selector("#chart-learning .main-svg", timeout=PATIENCE)


def test_a_browser_that_does_not_watch_the_screen_draws_all(page: Any, address: str) -> None:
    page.add_init_script("delete window.IntersectionObserver")
    page.goto(address)
    page.wait_for_function(ALL_DRAWN, timeout=PATIENCE)


def test_a_browser_that_cannot_unpack_says_so(page: Any, address: str) -> None:
    page.add_init_script("delete window.DecompressionStream")
    page.goto(address)
    assert all("too old" in words for words in page.locator(".chart").all_inner_texts())


def test_a_library_that_cannot_be_unpacked_leaves_no_chart_waiting(page: Any, facts: StudyFacts) -> None:
    whole = render(facts)
    start = whole.index(">", whole.index('id="plotly"')) + 1
    broken = whole[:start] + "AAAA" + whole[whole.index("</script>", start) :]
    page.route("http://broken.test/", lambda route: route.fulfill(body=broken, content_type="text/html"))
    page.goto("http://broken.test/")
    page.wait_for_selector(".chart:has-text('cannot be drawn')", state="attached", timeout=PATIENCE)
    assert all("cannot be drawn" in words for words in page.locator(".chart").all_inner_texts())


def test_without_javascript_the_findings_stand_alone(browser: Any, address: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    assert page.locator("figcaption").first.is_visible()
    assert page.locator(".chart").first.bounding_box()["height"] == 0
    context.close()

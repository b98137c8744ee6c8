"""The page in a real browser: it plans as sliders move, searches, and hands over report and adapter."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.live import Service, running, write_rows

sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium here"),
]
PLANNED = "#fits-table[data-explained]"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, encoder_with_weights) -> Iterator[Service]:
    place = tmp_path_factory.mktemp("page")
    with running(place / "ws", "--models", str(Path(encoder_with_weights.path).parent)) as service:
        yield service


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser, service) -> Iterator[object]:
    context = browser.new_context(viewport={"width": 1280, "height": 1200}, accept_downloads=True)
    page = context.new_page()
    page.said = []
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.goto(service.url)
    page.wait_for_selector(PLANNED, timeout=180_000)
    yield page
    assert page.said == []
    context.close()


def way(page, name: str) -> object:
    return page.locator(f"#fits-table tr[data-way={name}]")


def slide(page, name: str, value: int) -> None:
    """Move a slider by its keys, as without a mouse, and wait for what then fits."""
    table = page.locator("#fits-table")
    before = table.get_attribute("data-shown")
    slider = page.locator(f"#{name}")
    slider.focus()
    now = int(slider.input_value())
    for _ in range(abs(value - now)):
        slider.press("ArrowRight" if value > now else "ArrowLeft")
    # A pattern that nobody has traced yet takes its time.
    sync_api.expect(table).not_to_have_attribute("data-shown", before or "", timeout=60_000)
    page.wait_for_timeout(200)


def faults(page) -> list[str]:
    """Return what axe finds that is serious or critical."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [f"{each['impact']}: {each['id']}" for each in found if each["impact"] in ("serious", "critical")]


def test_longer_rows_take_more_until_it_no_longer_fits_and_the_way_out_is_said(page) -> None:
    slide(page, "length", 2)
    assert way(page, "qlora").get_attribute("data-fits") == "true"
    slide(page, "length", 14)
    sync_api.expect(way(page, "lora")).to_have_attribute("data-fits", "false")
    sync_api.expect(way(page, "lora")).to_contain_text("above the limit of 22 GiB")
    slide(page, "length", 7)
    sync_api.expect(way(page, "lora")).to_contain_text("Would fit with", timeout=60_000)


def test_a_model_is_found_as_it_is_typed(page) -> None:
    page.fill("#model", "qwen2.5-7")
    sync_api.expect(page.locator('#models option[value="Qwen2.5-7B"]')).to_be_attached()
    page.fill("#model", "no-such-model")
    sync_api.expect(page.locator("#fits-status")).to_contain_text("unknown model")


def test_a_comparison_says_what_it_is_of_and_is_marked_once_something_else_is_asked(page) -> None:
    page.fill("#model", "gpt2")
    page.click("#compare button[type=submit]")
    status, table = page.locator("#compare-status"), page.locator("#compare-table")
    sync_api.expect(status).to_contain_text("devices can train gpt2 by", timeout=180_000)
    assert "stale" not in (table.get_attribute("class") or "")
    slide(page, "batch", 3)
    sync_api.expect(status).to_contain_text("compare again")
    assert "stale" in (table.get_attribute("class") or "")


def test_the_command_shown_gives_the_same_answer(page) -> None:
    import shlex

    from typer.testing import CliRunner

    from autopeft.cli.app import app

    words = shlex.split(page.inner_text("#command"))
    assert words[0] == "autopeft"
    done = CliRunner().invoke(app, [*words[1:], "--json"])
    assert done.exit_code in (0, 1), done.output


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_keeps_anybody_out_and_nothing_is_cut_off(browser, service, scheme, width) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.goto(service.url)
    page.wait_for_selector(PLANNED, timeout=180_000)
    assert faults(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()


def test_a_job_says_in_the_list_what_came_of_it_and_whether_it_kept_its_time(page) -> None:
    reason = "peak memory 5.2 GiB exceeds the budget of 4 GB; take a smaller batch"
    job = {"id": "0" * 20, "kind": "run", "request": {"demo": "classification"}, "spent": 3.0, "seconds": 60}
    own = {"model": "/srv/models/MiniLM", "data": "0" * 24}
    jobs = [
        {**job, "state": "failed", "reason": reason},
        {**job, "state": "stopped", "reason": "by its user"},
        {**job, "state": "done", "reason": "Use lora r=8.", "spent": 90.0, "request": own},
    ]
    page.route("**/api/v1/jobs?*", lambda route: route.fulfill(json={"items": jobs}))
    page.reload()
    states = page.locator("#jobs tbody tr td:nth-child(3)")
    sync_api.expect(states).to_have_text([f"failed{reason}", "stopped", "doneUse lora r=8."])
    last = page.locator("#jobs tbody tr:last-child td")
    sync_api.expect(last).to_have_text(
        ["MiniLM on other rows", "doneUse lora r=8.", "1 min 30 s of 1 min 0 s, over"]
    )
    page.wait_for_selector(PLANNED, timeout=180_000)


def start_search(page, file: Path, model: str, trials: int) -> None:
    """Start a search on a file of rows, and wait until it runs."""
    page.check("input[value=file]")
    page.set_input_files("#file", file)
    page.fill("#job-model", model)
    page.fill("#trials", str(trials))
    page.fill("#time", "5min")
    page.click("#job button[type=submit]")
    page.wait_for_selector("#live[data-state=running]", timeout=120_000)


def take_home(page, place: Path) -> Path:
    """Download the adapter that the page offers, and return its directory."""
    with page.expect_download() as downloaded:
        page.click("#live-bundle")
    downloaded.value.save_as(place / "bundle.zip")
    with zipfile.ZipFile(place / "bundle.zip") as archive:
        archive.extractall(place / "bundle")
    (folder,) = (place / "bundle").iterdir()
    return folder


def test_a_search_is_started_watched_and_its_adapter_taken_home(
    page, sentiment, encoder_with_weights, tmp_path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    rows = write_rows(sentiment, tmp_path / "rows.csv")
    start_search(page, rows, str(encoder_with_weights.path), trials=1)
    page.wait_for_selector("#live[data-state=done]", timeout=900_000)
    sync_api.expect(page.locator("#trials-table tbody tr")).not_to_have_count(0)
    sync_api.expect(page.locator("#curves polyline").first).to_be_attached()
    assert faults(page) == []
    folder = take_home(page, tmp_path)
    base = AutoModelForSequenceClassification.from_pretrained(encoder_with_weights.path, num_labels=2)
    assert PeftModel.from_pretrained(base, folder).peft_config
    with page.context.expect_page() as opened:
        page.click("#live-report")
    opened.value.wait_for_load_state()
    assert "autopeft" in opened.value.title().lower() or opened.value.locator("h1").count()


def test_a_search_is_concluded_with_the_best_so_far_while_it_runs(
    page, sentiment, encoder_with_weights, tmp_path
) -> None:
    rows = write_rows(sentiment, tmp_path / "rows.csv")
    start_search(page, rows, str(encoder_with_weights.path), trials=1000)
    search = page.get_attribute("#live", "data-job")
    button = page.get_by_role("button", name="Conclude now with the best so far")
    sync_api.expect(button).to_be_visible(timeout=280_000)
    button.click()
    sync_api.expect(page.locator("#live-title")).to_contain_text("Conclusion", timeout=30_000)
    page.wait_for_selector("#live[data-state=done]", timeout=600_000)
    assert page.get_attribute("#live", "data-job") != search
    assert page.locator("#live-search").is_hidden()
    assert page.locator("#live-resume").is_hidden()
    assert faults(page) == []
    states = page.locator("#jobs tbody tr td:nth-child(3)").all_inner_texts()
    assert states[:2] == ["done", "stopped"]
    assert (take_home(page, tmp_path) / "adapter_model.safetensors").is_file()
    with page.context.expect_page() as opened:
        page.click("#live-report")
    opened.value.wait_for_load_state()
    assert search[:12] in opened.value.content()


def test_without_a_token_the_page_asks_for_one_and_keeps_it_where_no_script_can_read_it(
    browser, tmp_path
) -> None:
    import subprocess
    import sys

    make = [sys.executable, "-m", "autopeft", "token", "create", "ann", "--workspace", str(tmp_path / "ws")]
    token = subprocess.run(make, capture_output=True, text=True, check=True).stdout.strip()
    with running(tmp_path / "ws", "--tokens", "--jobs", "0") as service:
        context = browser.new_context()
        page = context.new_page()
        page.goto(service.url)
        page.wait_for_selector("#login[open]")
        page.fill("#token", "autopeft_wrong")
        page.click("#login-form button")
        sync_api.expect(page.locator("#login-problem")).to_contain_text("unknown")
        page.fill("#token", token)
        page.click("#login-form button")
        page.wait_for_selector(PLANNED, timeout=180_000)
        assert token not in page.evaluate("document.cookie + JSON.stringify(localStorage)")
        context.close()

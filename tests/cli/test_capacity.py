"""`autopeft capacity`: a matrix as table, JSON, CSV and page."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from linear_cost import LinearCost

from autopeft.units import format_usd

ASKED = ("capacity", "SmolLM2-135M,Llama-3.2-1B", "--gpu", "t4,h100-sxm", "--methods", "lora,lora+nf4")


@pytest.fixture(autouse=True)
def linear_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autopeft.cost.model.TracedCostModel", LinearCost)


def test_the_table_names_the_cheapest_and_the_fastest_and_fits_100_columns(
    autopeft: Callable[..., object],
) -> None:
    answer = autopeft(*ASKED, "--gpus", "1,4", "--sharding", "fsdp", "--runs-per-week", "500")
    assert answer.code == 0, answer
    for words in (
        "lora+nf4: lora r=16 query+value nf4",
        "4 x h100-sxm fsdp",
        "Cheapest:",
        "Fastest:",
        "500 such trainings a week",
        "list price",
    ):
        assert words in answer.out, answer.out
    assert max(map(len, answer.out.splitlines())) <= 100


def test_a_narrow_screen_loses_other_columns_but_neither_cost_nor_time(
    autopeft: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = (*ASKED, "--gpus", "1,4", "--sharding", "fsdp", "--price", "2", "--runs-per-week", "500")
    costs = {cell["cost"]["usd"] for cell in json.loads(autopeft(*asked, "--json").out)["cells"]}
    for width, left_out in ((100, set()), (80, {"rows", "tokens/s"}), (60, {"rows", "tokens/s", "memory"})):
        monkeypatch.setenv("COLUMNS", str(width))
        shown = autopeft(*asked).out
        assert max(map(len, shown.splitlines())) <= width
        heads = [line.split() for line in shown.splitlines() if line.startswith("device ")]
        assert {"rows", "memory", "tokens/s"} - set(heads[0]) == left_out
        assert all({"time", "cost"} <= set(head) for head in heads)
        assert all(format_usd(usd) in shown for usd in costs)
        assert "a week" in shown


def test_json_has_a_cell_for_each_combination(autopeft: Callable[..., object]) -> None:
    answer = autopeft(*ASKED, "--json", "--grid-factor", "0.4")
    cells = json.loads(answer.out)["cells"]
    assert len(cells) == 8
    assert all(cell["cost"]["co2_kg"] > 0 for cell in cells)


def test_csv_has_a_row_for_each_combination(autopeft: Callable[..., object]) -> None:
    rows = list(csv.DictReader(io.StringIO(autopeft(*ASKED, "--csv", "--price", "2").out)))
    assert len(rows) == 8
    assert {row["price"] for row in rows} == {"price as given"}
    assert all(float(row["usd"]) > 0 for row in rows)


def test_the_page_loads_nothing_from_outside_and_has_a_plot_of_each_kind(
    autopeft: Callable[..., object], tmp_path: Path
) -> None:
    answer = autopeft(*ASKED, "--html", "page.html")
    assert "page.html" in answer.out
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    for kind in ("fits", "front", "memory", "bounds"):
        assert page.count(f'data-chart="c-{kind}-') == 2
    assert '<link rel="icon" href="data:,">' in page
    assert 'src="http' not in page


def test_a_kept_answer_is_reported_as_page_and_markdown(autopeft: Callable[..., object]) -> None:
    Path("kept.json").write_text(autopeft(*ASKED, "--json").out)
    assert autopeft("report", "kept.json").out.split() == ["kept.html"]
    assert autopeft(*ASKED, "--html", "page.html").code == 0
    assert Path("kept.html").read_text() == Path("page.html").read_text()
    text = autopeft("report", "kept.json", "--format", "md").out
    assert text.startswith("# Capacity for SmolLM2-135M, Llama-3.2-1B\n")
    assert text.count("| h100-sxm |") == 4


def test_names_in_a_page_are_no_markup(autopeft: Callable[..., object]) -> None:
    Path("<b>x").mkdir()
    config = {"model_type": "bert", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 100}
    Path("<b>x", "config.json").write_text(json.dumps(config), encoding="utf-8")
    answer = autopeft("capacity", "./<b>x", "--methods", "lora", "--gpu", "t4", "--html", "page.html")
    page = Path("page.html").read_text(encoding="utf-8")
    assert answer.code == 0, answer
    assert "<b>x" not in page
    assert "&lt;b&gt;x" in page


def test_tokens_are_taken_in_place_of_examples(autopeft: Callable[..., object]) -> None:
    answer = autopeft(*ASKED, "--tokens", "5.12M", "--seq-len", "512", "--json")
    assert json.loads(answer.out)["demand"]["examples"] == 10_000


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--gpu", "h100x"), "unknown device"),
        (("--gpus", "99"), "gpus must be"),
        (("--gpus", "many"), "a count must be"),
        (("--gpus", "1.5"), "a count must be a whole number"),
        (("--tokens", "5MB", "--seq-len", "512"), "a count must be"),
        (("--methods", "lora+bogus"), "unknown quantization 'bogus'"),
        (("--methods", "lora,lorra"), "unknown method 'lorra'"),
        (("--tokens", "5M"), "--seq-len"),
        (("--csv", "--json"), "leave out one"),
        (("--provider", "nobody"), "unknown provider"),
        (("--sharding", "none", "--gpus", "4"), "need a sharding"),
    ],
)
def test_bad_input_is_one_line_and_status_2(autopeft: Callable[..., object], flags, words) -> None:
    answer = autopeft(*ASKED, *flags)
    assert answer.code == 2, answer
    assert words in answer.err
    assert len(answer.err.splitlines()) == 1


def test_an_unknown_model_is_one_line_and_status_2_before_anything_is_costed(
    autopeft: Callable[..., object],
) -> None:
    answer = autopeft("capacity", "SmolLM2-135M,SmolLM2-136M", "--gpu", "t4")
    assert answer.code == 2, answer
    assert "SmolLM2-136M" in answer.err
    assert len(answer.err.splitlines()) == 1


def test_where_nothing_can_be_told_the_status_is_2(autopeft: Callable[..., object]) -> None:
    unknown = autopeft("capacity", "SmolLM2-135M", "--gpu", "t4", "--methods", "lora+int8")
    assert unknown.code == 2, unknown
    assert "Unknown" in unknown.out
    partly = autopeft("capacity", "SmolLM2-135M", "--gpu", "t4", "--methods", "lora+int8,lora")
    assert partly.code == 0


def test_an_unknown_provider_of_an_estimate_is_one_line_and_status_2(autopeft: Callable[..., object]) -> None:
    answer = autopeft("estimate", "SmolLM2-135M", "--gpu", "l4", "--provider", "nosuch")
    assert answer.code == 2, answer
    assert "unknown provider 'nosuch'" in answer.err
    assert len(answer.err.splitlines()) == 1


def test_estimate_and_capacity_take_one_epoch_and_estimate_says_so(autopeft: Callable[..., object]) -> None:
    asked = ("SmolLM2-135M", "--gpu", "l4", "--examples", "3600", "--batch-size", "1", "--price", "2")
    cell = json.loads(autopeft("capacity", *asked, "--methods", "lora", "--json").out)["cells"][0]
    cost = json.loads(autopeft("estimate", *asked, "--json").out)["cost"]
    assert cell["hours"] == cost["hours"] == 1.0
    assert "1 h 00 min: 1 epoch of 3,600 examples, 3,600 steps" in autopeft("estimate", *asked).out
    assert "2 epochs of 3,600 examples, 7,200 steps" in autopeft("estimate", *asked, "--epochs", "2").out


def test_estimate_says_what_a_run_costs(autopeft: Callable[..., object]) -> None:
    asked = ("estimate", "SmolLM2-135M", "--gpu", "l4", "--examples", "3600", "--epochs", "1", "--price", "2")
    cost = json.loads(autopeft(*asked, "--json").out)["cost"]
    assert (cost["hours"], cost["usd"], cost["usd_per_hour"]) == (1.0, 2.0, 2.0)
    assert "$2.00 a run" in autopeft(*asked).out


def test_estimate_makes_no_price_up(autopeft: Callable[..., object]) -> None:
    answer = json.loads(autopeft("estimate", "SmolLM2-135M", "--gpu", "gaudi2", "--json").out)
    assert answer["cost"] is None
    assert "--price" in answer["cost_reason"]


def test_estimate_for_several_devices_says_what_they_exchange(autopeft: Callable[..., object]) -> None:
    answer = autopeft("estimate", "SmolLM2-135M", "--gpu", "l4", "--gpus", "4", "--sharding", "zero3")
    assert answer.code == 0, answer
    assert "4 x zero3" in answer.out


def test_a_plan_over_two_devices_costs_twice_as_much_an_hour(autopeft: Callable[..., object]) -> None:
    asked = ("plan", "--model", "SmolLM2-135M", "--gpu", "l4", "--examples", "3600", "--price", "2")
    one, two = (json.loads(autopeft(*asked, "--gpus", gpus, "--json").out)["fits"][0] for gpus in ("1", "2"))
    for fit, gpus in ((one, 1), (two, 2)):
        run = fit["estimate"]["run"]
        hours = sum(value for name, value in run.items() if name.endswith("_seconds")) / 3600
        assert fit["usd"] == pytest.approx(2 * gpus * hours)
    shown = autopeft(*asked, "--gpus", "2")
    assert shown.out.startswith("SmolLM2-135M on 2 x NVIDIA L4, ddp")
    assert "cost: of one training, $4.00 an hour (price as given)." in shown.out


def test_hardware_of_ones_own_is_free(autopeft: Callable[..., object], tmp_path: Path) -> None:
    asked = (*ASKED, "--price", "0", "--runs-per-week", "50", "--html", "page.html")
    shown = autopeft(*asked)
    assert shown.code == 0, shown
    assert "$" not in shown.out
    assert re.search(r"Cheapest: lora.* on .*: free in .* \(price as given\)", shown.out)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "h100-sxm: free, price as given" in page
    assert 'data-chart="c-front-' not in page, "there is no cost to draw"
    estimated = ("estimate", "SmolLM2-135M", "--gpu", "l4", "--examples", "3600", "--price", "0")
    assert re.search(r"^cost +free \(price as given\)$", autopeft(*estimated).out, re.MULTILINE)
    assert json.loads(autopeft(*estimated, "--json").out)["cost"]["usd"] == 0


@pytest.mark.parametrize("price", ["-1", "nan", "inf"])
@pytest.mark.parametrize(
    "command",
    [
        ASKED,
        ("estimate", "SmolLM2-135M", "--gpu", "l4"),
        ("plan", "--model", "SmolLM2-135M", "--gpu", "l4"),
        ("search", "--model", "SmolLM2-135M", "--data", "rows.csv"),
    ],
    ids=lambda command: command[0],
)
def test_a_price_that_is_none_is_one_line_and_status_2(
    autopeft: Callable[..., object], command: tuple[str, ...], price: str
) -> None:
    answer = autopeft(*command, "--price", price)
    assert answer.code == 2, answer
    assert answer.err.startswith("autopeft: price: ")
    assert f"but got {float(price)}" in answer.err
    assert len(answer.err.splitlines()) == 1

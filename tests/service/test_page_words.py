"""What the page writes without asking the service: amounts, and the command that does the same."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from autopeft.cli.columns import COLUMNS
from autopeft.units import format_usd
from autopeft.workload.columns import ROLES

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="no Node.js here")


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """The page's modules where Node.js takes them for modules."""
    with resources.as_file(resources.files("autopeft.service") / "page") as folder:
        shutil.copytree(folder, tmp_path / "page")
    (tmp_path / "page" / "package.json").write_text('{"type": "module"}')
    return tmp_path / "page"


def said(page: Path, module: str, name: str, *calls: list[Any]) -> list[str]:
    """Return what a function of a module says to each of several calls."""
    script = (
        f"import {{ {name} }} from {json.dumps((page / module).as_uri())};"
        f"console.log(JSON.stringify({json.dumps(calls)}.map((given) => {name}(...given))));"
    )
    command = ["node", "--input-type=module", "-e", script]
    return list(json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout))


def test_money_is_written_as_the_command_line_writes_it(page) -> None:
    amounts = [0, 0.0031, 0.094, 0.1, 2.489, 15, 999.99, 1234.4, 20_000]
    assert said(page, "service.js", "usd", *([each] for each in amounts)) == [
        format_usd(each) for each in amounts
    ]
    assert said(page, "service.js", "usd", [0], [None]) == ["free", ""]


def test_no_span_of_time_has_sixty_seconds_or_minutes(page) -> None:
    spans = [0, 0.25, 59.4, 59.6, 119.7, 3599.4, 3599.6, 7199, 7300]
    assert said(page, "service.js", "seconds", *([each] for each in spans)) == [
        *("0 s", "0.25 s", "59 s", "1 min 0 s", "2 min 0 s"),
        *("59 min 59 s", "1 h 0 min", "2 h 0 min", "2 h 2 min"),
    ]


def test_the_command_shown_says_what_was_asked(page) -> None:
    asked = {"model": "gpt2", "data": "0" * 24, "refit": True, "prefer": "small", "train_rows": 100}
    budget = {"gpu_mem": 8e9, "time": 600, "cost": 20, "adapter_size": 5_000_000}
    run = {"kind": "run", "request": asked | {"budget": budget}}
    export = {"kind": "export", "request": {"study": "s1", "trial": 3, "form": "merged"}}
    words, exporting = said(page, "training.js", "commandOf", [run, "rows of mine.csv"], [export])
    assert shlex.split(words) == shlex.split(
        "autopeft run --model gpt2 --data 'rows of mine.csv' --prefer small --train-rows 100 "
        "--experience shipped --refit --gpu-mem 8GB --time 600s --cost 20usd --adapter-size 5000000B"
    )
    assert exporting == "autopeft export --study s1 --merged --trial 3"


def test_the_command_shown_says_what_the_service_adds(page) -> None:
    asked = {"model": "gpt2", "data": "0" * 24, "columns": {"text": "the review", "split": "part"}}
    known = ("all", "none", "shipped")
    runs = [{"kind": "search", "request": {**asked, "experience": each}} for each in known]
    lines = said(page, "training.js", "commandOf", *([run] for run in runs))
    words = [shlex.split(line, comments=True) for line in lines]
    assert [each[each.index("--experience") + 1] for each in words] == ["shipped", "none", "shipped"]
    assert all(each[each.index("--text-column") + 1] == "the review" for each in words)
    assert all(line.endswith(' # with columns: {"split":"part"} in autopeft.yaml') for line in lines)


def test_what_full_fine_tuning_trains_are_weights_and_no_adapter(page) -> None:
    memory = {"parts": {"weights": 10, "adapter": 90, "gradients": 90}}
    full, lora = said(page, "planning.js", "partsOf", ["full", memory], ["lora", memory])
    assert dict(full) == {"weights": 100, "gradients": 90}
    assert dict(lora) == memory["parts"]


def test_what_does_not_fit_has_neither_time_nor_cost(page) -> None:
    asked = {"time": {"step_seconds": 2}, "cost": {"usd": 3}}
    does, does_not, unpriced = (
        {**asked, "fits": True}, {**asked, "fits": False}, {"fits": True, "time": None, "cost": None}
    )  # fmt: skip
    assert said(page, "planning.js", "runOf", [does, 100, 4], [does_not, 100, 4], [unpriced, 100, 4]) == [
        {"time": "50 s", "cost": "$3.00"},
        {"time": "\N{EN DASH}", "cost": "\N{EN DASH}"},
        {"time": "", "cost": ""},
    ]


def test_every_role_of_a_column_that_the_command_line_has_no_flag_for_is_known_to_the_page(page) -> None:
    flagged = {name.removesuffix("_column") for name in COLUMNS}
    text = (page / "training.js").read_text()
    assert json.loads(re.search(r"const NO_FLAG = (\[.*?\])", text)[1]) == sorted({*ROLES} - flagged)

"""`import autopeft` is quick, complete and documented."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import autopeft
from autopeft.api import ExportOptions, ExportWish, Options
from autopeft.export.bundle import Export
from autopeft.job import NOT_TO_EXPORT
from autopeft.request import Request

NAMES = sorted(set(autopeft.__all__) - {"__version__"})
HEAVY = {"torch", "transformers", "peft", "ray", "mlflow", "optuna", "plotly", "pandas", "sklearn", "numpy"}


def loaded_after(code: str) -> set[str]:
    """Run code in a fresh process and return the top-level packages it has loaded."""
    program = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in json.loads(done.stdout)}


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_resolves_and_says_what_it_is(name: str) -> None:
    value = getattr(autopeft, name)
    assert value.__name__ == name
    assert (inspect.getdoc(value) or "").strip()


def test_functions_are_typed_and_describe_their_arguments() -> None:
    for name in NAMES:
        value = getattr(autopeft, name)
        if inspect.isfunction(value):
            assert set(inspect.signature(value).parameters) | {"return"} == set(value.__annotations__)


def test_the_stages_take_every_field_of_a_request() -> None:
    main = {"model", "data", "budget", "study"}  # parameters of their own
    of_questions = {"grid_factor"}  # no stage reads it: questions and demands have it as a field
    assert set(Options.__annotations__) == set(Request.model_fields) - main - of_questions
    for stage in (autopeft.plan, autopeft.search, autopeft.run):
        assert set(inspect.signature(stage).parameters) & main >= {"model", "data", "budget"}


def test_an_export_takes_every_field_of_its_message() -> None:
    assert set(ExportOptions.__annotations__) == set(Export.model_fields)
    assert not set(ExportWish.__annotations__) & set(NOT_TO_EXPORT)


def test_dir_lists_the_public_names() -> None:
    assert dir(autopeft) == sorted(autopeft.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'plam'"):
        autopeft.plam  # noqa: B018


def test_functions_keep_their_names_though_folders_are_called_the_same() -> None:
    code = (
        "import autopeft as ap\n"
        "from autopeft.plan.budget import Budget\n"
        "import autopeft.search.study, autopeft.report.facts, autopeft.export.bundle\n"
        "assert ap.Budget is Budget\n"
        "assert not {'plan', 'search', 'report', 'export'} & set(vars(ap))\n"
        "assert callable(ap.plan) and callable(ap.search) and callable(ap.report) and callable(ap.export)"
    )
    loaded_after(code)


def test_importing_loads_nothing_heavy() -> None:
    assert not loaded_after("import autopeft") & {*HEAVY, "pydantic", "rich", "typer"}


def test_using_messages_loads_pydantic_and_no_heavy_library() -> None:
    loaded = loaded_after("import autopeft as ap\nap.Budget(gpu_mem='16GB'), ap.Request, ap.Plan, ap.Study")
    assert "pydantic" in loaded
    assert not loaded & HEAVY


def test_the_version_stands_in_the_changelog() -> None:
    changelog = Path(autopeft.__file__).parents[1] / "CHANGELOG.md"
    assert f"## {autopeft.__version__}" in changelog.read_text(encoding="utf-8")

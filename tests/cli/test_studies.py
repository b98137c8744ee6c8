"""A study is named by a word or by --study, and found in its database."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from autopeft.hardware.catalog import load_profile
from autopeft.journey.contest import Scores
from autopeft.journey.workspace import open_store, study_folder
from autopeft.plan.budget import Budget
from autopeft.plan.plan import Plan
from autopeft.report.facts import DataFacts, StudyFacts
from autopeft.request import Request
from autopeft.workload.dataset import ACCURACY, Lengths, Workload

Autopeft = Callable[..., object]


OWN = Request(model="tiny", data="rows.csv")


def begin(name: str, storage: str | None = None, remembered: str | None = None, asked: Request = OWN) -> None:
    """Make a study in which nothing was trained, in the workspace of this directory."""
    folder = study_folder(".autopeft", name)
    folder.path.mkdir(parents=True)
    store = open_store(folder, storage)
    plan = Plan(
        model="tiny",
        space="quick",
        workload=Workload(task="classification", lengths=Lengths.constant(8), rows=10),
        budget=Budget(),
        profile=load_profile("l4"),
        fits=(),
        rejected=(),
    )
    store.create(name=name, metric=ACCURACY, seed=0, request=asked.model_dump_json(), plan=plan)
    store.close()
    if remembered is not None:
        folder.storage.write_text(remembered)
    DataFacts(
        name="rows",
        task="classification",
        metric=ACCURACY,
        rows={"train": 10},
        labels=("no", "yes"),
        columns={},
        source="rows.csv",
        fingerprint="0",
        notes=(),
    ).keep(folder.data)
    Scores(trial=None, scores=()).keep(folder.scores)


@pytest.mark.parametrize(
    "command",
    [("report",), ("export",), ("recipe",), ("sync",), ("search", "--resume"), ("run", "--resume")],
    ids=" ".join,
)
def test_a_word_names_the_study(autopeft: Autopeft, command: tuple[str, ...]) -> None:
    begin("there")
    answer = autopeft(*command, "elsewhere")
    assert answer.code == 2
    assert "study" in answer.err
    assert "'elsewhere'" in answer.err
    assert "there" in answer.err.replace("elsewhere", "")  # what there is
    assert len(answer.err.splitlines()) == 1


def test_word_and_flag_may_not_name_two_studies(autopeft: Autopeft) -> None:
    for command in (("report",), ("recipe",), ("search", "--resume")):
        answer = autopeft(*command, "one", "--study", "other")
        assert answer.code == 2
        assert "got 'one' and --study 'other': leave one out" in answer.err


@pytest.mark.parametrize("study", [("mine",), ("--study", "mine")])
@pytest.mark.parametrize("other", [("--from", "plan.json"), ("--method", "lora", "--model", "gpt2")])
def test_a_recipe_is_of_a_study_or_of_something_else(
    autopeft: Autopeft, study: tuple[str, ...], other: tuple[str, ...]
) -> None:
    answer = autopeft("recipe", *study, *other)
    assert (answer.code, answer.out) == (2, "")
    assert f"got the study 'mine' and {other[0]}: leave one out" in answer.err
    assert len(answer.err.splitlines()) == 1


def test_a_word_wins_over_the_configuration_file(autopeft: Autopeft) -> None:
    begin("main")
    begin("other")
    Path("autopeft.yaml").write_text("study: main\n")
    for words, name in (((), "main"), (("other",), "other"), (("--study", "other"), "other")):
        place = Path(f".autopeft/studies/{name}/report.html")
        assert autopeft("report", *words).out.split() == [str(place)]
    for command in (("export",), ("sync",), ("search", "--resume")):
        answer = autopeft(*command, "elsewhere")
        assert answer.code == 2
        assert "'elsewhere'" in answer.err
        assert "--study" not in answer.err


def test_a_word_without_a_demo_or_a_resumption_is_refused(autopeft: Autopeft) -> None:
    answer = autopeft("search", "word")
    assert answer.code == 2
    assert "unexpected argument 'word'" in answer.err


def test_a_report_prints_its_place_markdown_or_all_facts(autopeft: Autopeft) -> None:
    begin("mine")
    place = Path(".autopeft/studies/mine/report.html")
    assert autopeft("report", "mine").out.split() == [str(place)]
    assert place.read_text().startswith("<!doctype html>")
    text = autopeft("report", "mine", "--format", "md").out
    assert text.startswith("# mine\n\n**Nothing was trained")
    for way in (("mine", "--format", "json"), ("--study", "mine", "--json")):
        facts = json.loads(autopeft("report", *way).out)
        assert StudyFacts.model_validate(facts).study.name == "mine"


@pytest.mark.parametrize(("asked", "offered"), [(OWN, False), (Request(demo="classification"), True)])
def test_after_a_demo_alone_a_run_on_one_s_own_data_is_offered(
    autopeft: Autopeft, asked: Request, offered: bool
) -> None:
    begin("mine", asked=asked)
    steps = StudyFacts.model_validate_json(autopeft("report", "mine", "--json").out).next_steps
    assert any("--resume --study mine" in step for step in steps)
    assert any("# your own" in step for step in steps) == offered


@pytest.mark.parametrize("flags", [("--format", "pdf"), ("--format", "md", "--json")])
def test_a_format_that_is_none_or_a_second_one_is_refused(autopeft: Autopeft, flags: tuple[str, ...]) -> None:
    begin("mine")
    answer = autopeft("report", "mine", *flags)
    assert (answer.code, answer.out) == (2, "")
    assert "format" in answer.err


def test_the_database_is_where_the_flag_says(autopeft: Autopeft) -> None:
    """As with a server that wants the password, the remembered place alone does not open the study."""
    Path("databases").mkdir()
    storage = "sqlite:///databases/shared.db"
    begin("kept", storage, remembered="sqlite:////nowhere/shared.db")
    refused = autopeft("report", "kept")
    assert refused.code == 2
    assert "nowhere" in refused.err
    assert autopeft("report", "kept", "--storage", storage).code == 0
    assert study_folder(".autopeft", "kept").storage.read_text() == "sqlite:////nowhere/shared.db"
    for command in (("export", "kept"), ("recipe", "kept"), ("recipe", "--study", "kept")):
        nothing = autopeft(*command, "--storage", storage)
        assert "no trial of study 'kept' was trained to the end" in nothing.err
    few = autopeft("calibrate", "--device", "l4", "--study", "kept", "--storage", storage)
    assert few.code == 2
    assert "nowhere" not in few.err


def test_two_exports_of_a_study_do_not_meet(autopeft: Autopeft) -> None:
    begin("mine")
    store = open_store(study_folder(".autopeft", "mine"))
    with store.claimed():
        loser = autopeft("export", "mine", "--force")
    assert (loser.code, len(loser.err.splitlines())) == (2, 1)
    assert "is being searched or exported by another process; wait for it or stop it." in loser.err
    assert "no trial of study 'mine'" in autopeft("export", "mine").err


def test_a_comparison_opens_what_is_in_a_database_and_what_is_in_a_file(autopeft: Autopeft) -> None:
    Path("databases").mkdir()
    storage = "sqlite:///databases/shared.db"
    begin("kept", storage, remembered="sqlite:////nowhere/shared.db")
    begin("alone")
    for names in (("kept", "alone"), ("alone", "kept")):
        answer = autopeft("compare", *names, "--storage", storage)
        assert answer.code == 2
        assert f"no trial of study {names[0]!r} was trained to the end" in answer.err

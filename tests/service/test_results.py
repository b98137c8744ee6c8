"""What was found, over HTTP: studies side by side, and configurations as the files of other tools."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from autopeft import handover
from autopeft.export.recipes.subject import FORMATS, Recipe
from autopeft.files import without_places
from autopeft.journey import keeping
from autopeft.journey.concluding import Finished
from autopeft.journey.conclusion import conclude
from autopeft.journey.contest import Scores
from autopeft.journey.workspace import open_store, study_folder
from autopeft.report import html
from autopeft.report.comparison import Comparison
from autopeft.report.facts import DataFacts, StudyFacts
from autopeft.report.html import write_report
from autopeft.request import Request
from autopeft.search.study import Study
from autopeft.space.candidate import Candidate
from autopeft.workload.tasks import F1
from tests.service.kept import CANDIDATES, ROWS, a_report, keep_study

MODEL = "Llama-3.1-8B"


@pytest.fixture
def service(open_service: Callable[..., TestClient], encoder_with_weights) -> TestClient:
    """A service that takes jobs and runs none."""
    models = (Path(encoder_with_weights.path).parent,)
    return open_service(tokens=True, rate=0, slots=0, models=models)


@pytest.fixture
def ann(service) -> dict[str, str]:
    return {"authorization": f"Bearer {service.office.tokens.create('ann', 'submit')[1]}"}


@pytest.fixture
def bob(service) -> dict[str, str]:
    return {"authorization": f"Bearer {service.office.tokens.create('bob', 'submit')[1]}"}


@pytest.fixture
def made(service, ann, encoder_with_weights) -> Callable[..., str]:
    """Make studies of Ann as her jobs leave them."""
    return partial(keep_study, service, ann, str(encoder_with_weights.path))


def test_a_study_says_nothing_of_the_services_disk(service, ann, made) -> None:
    answer = service.get(f"/api/v1/studies/{made(range(8))}", headers=ann)
    assert answer.status_code == 200
    assert len(answer.json()["trials"]) == len(CANDIDATES)
    assert str(service.office.settings.workspace.resolve()) not in answer.text


def test_the_report_and_the_facts_say_nothing_of_the_services_disk(service, ann, made, tmp_path) -> None:
    name, workspace = made(None), service.office.settings.workspace.resolve()
    folder = study_folder(str(workspace), name)
    done = Finished(Request(workspace=str(workspace), study=name))
    failed = done.study.trials[2].model_copy(
        update={"state": "failed", "reason": f"{folder.path}/x cannot be written"}
    )
    facts = conclude(
        study=done.study.model_copy(update={"trials": (*done.study.trials[:2], failed)}),
        plan=done.plan,
        data=DataFacts.read(folder.data),
        scores=Scores(trial=None, scores=()),
        bundle=None,
        folder=folder,
        seconds={},
        mlflow=f"sqlite:///{workspace}/mlflow.db",
    ).keep(folder.facts)
    write_report(facts, folder.report)
    assert str(tmp_path) in folder.report.read_text(encoding="utf-8")
    for what in ("report", "facts"):
        reply = service.get(f"/api/v1/studies/{name}/{what}", headers=ann)
        assert reply.status_code == 200, reply.text
        assert str(tmp_path) not in reply.text
        assert "rows.csv" in reply.text
        assert "x cannot be written" in reply.text
    assert str(tmp_path) in folder.report.read_text(encoding="utf-8")
    written = folder.served_report.stat().st_mtime_ns
    service.get(f"/api/v1/studies/{name}/report", headers=ann)
    assert folder.served_report.stat().st_mtime_ns == written
    facts.model_copy(update={"decision": "Another."}).keep(folder.facts)
    assert "Another." in service.get(f"/api/v1/studies/{name}/report", headers=ann).text


@pytest.mark.parametrize("text", ["{}", '"{}"'])
def test_a_place_in_the_workspace_is_named_from_there_on(tmp_path, text) -> None:
    said = text.format(f"{tmp_path}/studies/a/log in {tmp_path}.")
    assert without_places(said, tmp_path) == text.format("studies/a/log in the workspace.")


@pytest.mark.parametrize(
    ("workspace", "text", "shown"),
    [
        ("/data", "ask /api/v1/data and /data-2, not ./data or ~/data", None),
        ("/data", "https://x.org/data/1", None),
        ("/data", "/data/a.csv, /data, /data.", "a.csv, the workspace, the workspace."),
        ("/data", "sqlite:////data/a.db file:///data/b", "sqlite:///a.db file://b"),
        ("/data", r'"log:\n/data/a \u003e/data/b"', r'"log:\na \u003eb"'),
        ("/srv/w", "/srv/w2/a /srv/w.old /mnt/srv/w/b", None),
        ("/srv/w", "in '/srv/w/c', (/srv/w)", "in 'c', (the workspace)"),
        ("/srv/\u00e9t\u00e9", "/srv/\u00e9t\u00e9/a", "a"),
        ("/srv/\u00e9t\u00e9", r'"/srv/\u00e9t\u00e9/a"', '"a"'),
        ("/srv/\u00e9t\u00e9", "file:///srv/%C3%A9t%C3%A9/a", "file://a"),
        ("/srv/o'b&c", "<p>/srv/o&#39;b&amp;c/a</p>", "<p>a</p>"),
        ("/srv/b&c", r'"/srv/b\u0026c/a"', '"a"'),
        ("/", "/a//b", None),
    ],
)
def test_only_the_workspace_itself_is_left_out(workspace, text, shown) -> None:
    assert without_places(text, Path(workspace)) == (text if shown is None else shown)


def test_a_report_without_facts_is_one_line(service, ann, made) -> None:
    name = made(None)
    folder = study_folder(str(service.office.settings.workspace), name)
    folder.report.write_text("<html>")
    reply = service.get(f"/api/v1/studies/{name}/report", headers=ann)
    assert reply.status_code == 404
    assert "is not concluded" in reply.json()["detail"]


def test_a_page_of_facts_that_changed_while_it_was_written_is_not_served(service, made, monkeypatch) -> None:
    wish = Request(workspace=str(service.office.settings.workspace), study=made(None))
    folder = study_folder(wish.workspace, str(wish.study))
    for file in (folder.report, folder.facts):
        file.write_text("old")
    rewriting = iter([True, False])

    def facts(_: Request) -> StudyFacts:
        if next(rewriting):
            os.utime(folder.facts, ns=(1, 1))
        return StudyFacts.model_construct()

    monkeypatch.setattr(keeping, "facts", facts)
    monkeypatch.setattr(StudyFacts, "elsewhere", lambda facts: facts)
    monkeypatch.setattr(html, "render", lambda _: "page")
    keeping.write_served_report(wish)
    assert keeping.served_report(wish) is None
    keeping.write_served_report(wish)
    assert keeping.served_report(wish) == folder.served_report


def test_two_studies_are_held_side_by_side_as_the_library_does(service, ann, made, tmp_path) -> None:
    one, other = made(range(150)), made(range(20, 180))
    reply = service.get(f"/api/v1/studies/{one}/compare/{other}", headers=ann)
    assert reply.status_code == 200, reply.text
    assert str(tmp_path) not in reply.text
    found = Comparison.model_validate_json(reply.content)
    here = handover.compare(one, other, workspace=str(service.office.settings.workspace))
    left_out = {"one": {"data"}, "other": {"data"}}
    assert found.model_dump(exclude=left_out) == here.model_dump(exclude=left_out)
    assert (found.paired, found.only_one, found.only_other) == (True, 20, 30)
    assert found.one.data == "rows.csv"


def test_a_study_without_test_scores_is_a_conflict_and_is_not_scored(service, ann, made) -> None:
    scored, searched = made(range(150)), made(None)
    reply = service.get(f"/api/v1/studies/{scored}/compare/{searched}", headers=ann)
    assert reply.status_code == 409
    assert searched in reply.json()["detail"]
    folder = study_folder(str(service.office.settings.workspace), searched)
    assert not folder.scores.exists()


def test_scores_of_different_metrics_are_not_compared(service, ann, made) -> None:
    one, other = made(range(150)), made(range(150), metric=F1)
    reply = service.get(f"/api/v1/studies/{one}/compare/{other}", headers=ann)
    assert reply.status_code == 422
    assert "the same metric" in reply.json()["detail"]


def test_a_study_of_another_is_as_one_that_nobody_has(service, ann, bob, made) -> None:
    hers = made(range(150))
    for what in (f"{hers}/compare/none", f"none/compare/{hers}", f"{hers}/recipe", "none/recipe"):
        assert service.get(f"/api/v1/studies/{what}", headers=bob).status_code == 404
    seen, unseen = (
        service.get(f"/api/v1/studies/{name}/recipe", headers=bob).json()["detail"] for name in (hers, "none")
    )
    assert seen.replace(hers, "none") == unseen
    assert service.get(f"/api/v1/studies/{hers}/compare/none", headers=ann).status_code == 404


@pytest.mark.parametrize(("trial", "rank"), [(None, 32), (0, 4)])
def test_a_trial_as_a_script_is_the_librarys_but_for_the_models_directory(
    service, ann, made, encoder_with_weights, tmp_path, trial, rank
) -> None:
    name, asked = made(None), {} if trial is None else {"trial": trial}
    workspace = str(service.office.settings.workspace.resolve())
    study_folder(workspace, name).checkpoint(0).mkdir(parents=True)
    reply = service.get(f"/api/v1/studies/{name}/recipe", params=asked, headers=ann)
    assert reply.status_code == 200, reply.text
    folder = str(encoder_with_weights.path)
    assert not any(place in reply.text for place in (folder, str(tmp_path)))
    found = Recipe.model_validate_json(reply.content)
    here = handover.recipe(Request(workspace=workspace, study=name), "script", trial=trial)
    assert f"'r': {rank}," in found.files["train.py"]
    assert found.files["train.py"] == here.files["train.py"].replace(folder, Path(folder).name)
    assert found.notes[:-1] == here.notes
    assert "name yours in its place" in found.notes[-1]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("format=keras", "format"),
        ("trial=-1", "trial"),
        ("trial=2", "trained to the end"),
        ("trial=0", "the weights of trial 0 are not in studies/"),
    ],
)
def test_a_recipe_that_cannot_be_says_why_and_no_place(service, ann, made, tmp_path, query, words) -> None:
    reply = service.get(f"/api/v1/studies/{made(None)}/recipe?{query}", headers=ann)
    assert reply.status_code == 422
    assert words in reply.json()["detail"]
    assert str(tmp_path) not in reply.text


def test_a_line_of_a_plan_becomes_the_files_of_another_tool(service, ann) -> None:
    candidate = Candidate.build(method="lora", rank=8, quantization="nf4-dq", training={"precision": "bf16"})
    body = {"model": MODEL, "candidate": candidate.model_dump(mode="json"), "format": "axolotl"}
    reply = service.post("/api/v1/recipe", json=body, headers=ann)
    assert reply.status_code == 200, reply.text
    here = handover.recipe(Request(model=MODEL), "axolotl", candidate=candidate)
    assert Recipe.model_validate_json(reply.content) == here


def test_a_question_becomes_a_recipe_of_what_it_asks_of(service, ann) -> None:
    question = {"model": MODEL, "method": "qlora", "rank": 8, "batch_size": 2, "seq_len": 1024, "gpu": "l4"}
    reply = service.post("/api/v1/recipe", json={"question": question, "format": "trl"}, headers=ann)
    assert reply.status_code == 200, reply.text
    text = reply.json()["files"]["sft.yaml"]
    for line in ("load_in_4bit: true", "lora_r: 8", "per_device_train_batch_size: 2", "max_length: 1024"):
        assert line in text


def test_a_recipe_counts_the_classes_of_an_uploaded_file_of_its_users_own(
    service, ann, bob, encoder_with_weights, tmp_path
) -> None:
    rows = ROWS.replace(b"a good film", b"a fine film") + b"".join(b"so so %d,none\n" % n for n in range(20))
    data = service.post("/api/v1/data?name=rows.csv", content=rows, headers=ann).json()["id"]
    candidate = {"method": "lora", "training": {"max_length": 24}}
    body = {"model": str(encoder_with_weights.path), "data": data, "candidate": candidate, "seed": 3}
    assert service.post("/api/v1/recipe", json=body, headers=bob).status_code == 422
    reply = service.post("/api/v1/recipe", json=body, headers=ann)
    assert reply.status_code == 200, reply.text
    assert "num_labels=3" in reply.json()["files"]["train.py"]
    assert str(tmp_path) not in reply.text


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({}, 422, "candidate"),
        ({"candidate": {"method": "lora"}}, 422, "base model"),
        ({"candidate": {"method": "lora"}, "model": MODEL, "format": "keras"}, 422, "format"),
        ({"candidate": {"method": "lora"}, "question": {"model": MODEL, "method": "lora"}}, 422, "leave out"),
        ({"question": {"model": MODEL, "methode": "lora"}}, 422, "methode"),
        ({"candidate": {"method": "lora"}, "model": "/etc"}, 403, "--models"),
        ({"candidate": {"method": "lora"}, "model": MODEL, "gpu": "l4"}, 422, "gpu"),
        ({"candidate": {"method": "lora"}, "model": MODEL, "data": "/etc/passwd"}, 422, "data"),
        ({"candidate": {"method": "lora", "knobs": {"path": "/etc/x"}}, "model": MODEL}, 422, "no file"),
    ],
)
def test_a_recipe_of_what_cannot_be_named_is_refused(
    service, ann, body: dict[str, Any], status, words
) -> None:
    reply = service.post("/api/v1/recipe", json=body, headers=ann)
    assert reply.status_code == status
    assert words in reply.json()["detail"]


def test_the_page_offers_every_tool_under_a_label() -> None:
    page = (resources.files("autopeft.service") / "page" / "index.html").read_text(encoding="utf-8")
    assert '<label for="recipe-format">' in page
    offered = page.partition('<select id="recipe-format">')[2].partition("</select>")[0]
    assert set(re.findall(r'value="([^"]+)"', offered)) == set(FORMATS)


def test_a_study_with_scores_that_are_no_numbers_is_json_that_every_reader_takes(service, ann, made) -> None:
    name = made()
    store = open_store(study_folder(str(service.office.settings.workspace.resolve()), name))
    store.finish(2, "failed", last=a_report(math.nan))
    store.close()
    answer = service.get(f"/api/v1/studies/{name}", headers=ann)

    def refuse(word: str) -> float:
        raise AssertionError(f"{word} is no JSON")

    trial = json.loads(answer.content, parse_constant=refuse)["trials"][2]
    assert trial["result"]["reports"][-1]["score"] is None
    study = Study.model_validate_json(answer.content)
    assert math.isnan(study.trials[2].result.score)

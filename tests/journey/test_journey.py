"""The whole journey from the command line, on a tiny model: killed in the middle, resumed, concluded."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from autopeft.search.store import StudyStore

# Each journey profiles, plans, trains and exports in several processes, some of them side by side.
pytestmark = pytest.mark.timeout(900)

BIN = [sys.executable, "-m", "autopeft"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, sentiment) -> Path:
    folder = tmp_path_factory.mktemp("journey")
    rows = [*sentiment.train, *sentiment.validation, *sentiment.test]
    with (folder / "rows.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["review", "mood"])
        writer.writerows(
            [f"{row.text} {index}", sentiment.labels[row.label]] for index, row in enumerate(rows)
        )
    return folder


@pytest.fixture(scope="module")
def before(place: Path, encoder_with_weights) -> dict[int, str]:
    """The trials that were finished when the search was killed, by number, with their results."""
    command = [
        *BIN, "run", "--model", str(encoder_with_weights.path), "--data", "rows.csv", "--study", "killed",
        "--gpu-mem", "8GB", "--trials", "4", "--epochs", "5", "--seq-len", "24",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, cwd=place, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    store = place / ".autopeft" / "studies" / "killed" / "study.db"
    try:
        deadline = time.monotonic() + 480
        while not (done := finished(store)) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        _, errors = process.communicate()
    assert done, errors.decode()[-2000:]
    return finished(store)


@pytest.fixture(scope="module")
def facts(place: Path, before: dict[int, str]) -> dict[str, Any]:
    """What the resumed journey printed as JSON."""
    done = autopeft(place, "run", "--resume", "--study", "killed", "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def finished(store: Path) -> dict[int, str]:
    if not store.exists():
        return {}
    opened = StudyStore(store)
    try:
        if not opened.exists():
            return {}
        trials = opened.load().trials
    finally:
        opened.close()
    return {trial.number: trial.model_dump_json() for trial in trials if trial.finished}


def autopeft(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*BIN, *arguments], cwd=place, capture_output=True, text=True, check=False, timeout=600
    )


def test_no_finished_trial_is_lost_or_repeated(before, facts, place) -> None:
    after = finished(place / ".autopeft" / "studies" / "killed" / "study.db")
    assert {number: after[number] for number in before} == before
    trials = facts["study"]["trials"]
    assert [trial["number"] for trial in trials] == list(range(len(trials)))
    labels = [(json.dumps(trial["candidate"], sort_keys=True), trial["repetition"]) for trial in trials]
    assert len(set(labels)) == len(labels)
    first = [trial for trial in trials if trial["role"] == "candidate" and not trial["repetition"]]
    assert sum(trial["state"] != "rejected" for trial in first) == 4


def test_the_winner_is_compared_with_both_baselines(facts) -> None:
    assert [score["contender"] for score in facts["scores"]] == ["winner", "LoRA default", "linear probe"]
    assert all(score["low"] <= score["test_score"] <= score["high"] for score in facts["scores"])


def test_predictions_stand_beside_measurements(facts) -> None:
    compared = {item["quantity"]: item for item in facts["comparisons"]}
    assert {"peak memory of the process", "time of a training step"} <= set(compared)
    assert all(item["predicted"] > 0 and item["measured"] > 0 for item in compared.values())


def test_the_exported_adapter_gave_the_recorded_logits_in_a_fresh_process(facts, place) -> None:
    manifest = json.loads((place / facts["places"]["adapter"] / "autopeft.json").read_text())
    assert manifest["reference_difference"] <= 1e-5
    assert manifest["test_score"] == facts["scores"][0]["test_score"]


def test_mlflow_holds_a_run_a_trial_with_predicted_beside_measured(facts) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=facts["places"]["mlflow"])
    experiment = client.get_experiment_by_name("autopeft")
    runs = client.search_runs([experiment.experiment_id])
    ended = ("complete", "paused", "stopped")
    trained = [trial for trial in facts["study"]["trials"] if trial["state"] in ended]
    measured = [run for run in runs if "measured_peak_bytes" in run.data.metrics]
    assert len(measured) == len(trained)
    assert all("predicted_peak_bytes" in run.data.metrics for run in measured)


def test_the_winner_is_a_model_of_mlflow_that_answers_a_dataframe(facts) -> None:
    import mlflow
    import pandas as pd

    mlflow.set_tracking_uri(facts["places"]["mlflow"])
    mlflow.set_registry_uri(facts["places"]["mlflow"])
    model = mlflow.pyfunc.load_model("models:/killed/1")
    found = model.predict(pd.DataFrame({"text": ["the good film", "a bad plot"]}))
    assert set(found["label"]) <= {"negative", "positive"}


@pytest.mark.slow
def test_any_trial_is_exported_verified_and_compared(facts, place) -> None:
    best = facts["scores"][0]
    complete = [each["number"] for each in facts["study"]["trials"] if each["state"] == "complete"]
    folder = place / ".autopeft" / "studies" / "killed"
    manifest = json.loads((folder / "bundle" / "autopeft.json").read_text())
    assert manifest["chosen"] is True
    assert manifest["mlflow_run"]
    other = next(number for number in complete if number != manifest["trial"])
    made = autopeft(place, "export", "--study", "killed", "--trial", str(other), "--json")
    assert made.returncode == 0, made.stderr[-2000:]
    assert json.loads(made.stdout)["chosen"] is False
    refused = autopeft(place, "export", "--study", "killed", "--trial", "999")
    assert refused.returncode == 2
    assert "only a trial that was trained to the end" in refused.stderr
    verified = autopeft(place, "verify", str(folder / "bundle"), "--json")
    assert verified.returncode == 0, verified.stdout
    assert json.loads(verified.stdout)["score"] == pytest.approx(best["test_score"], abs=1e-9)
    paths = [str(folder / name) for name in ("bundle", f"bundle-{other:04d}")]
    compared = autopeft(place, "compare", *paths, "--json")
    assert json.loads(compared.stdout)["paired"] is True
    recipe = autopeft(place, "recipe", "--study", "killed", "--format", "trl")
    assert recipe.returncode == 2
    assert "take --format script" in recipe.stderr


@pytest.mark.slow
def test_a_refit_trains_on_the_validation_rows_too_and_is_kept(facts, place) -> None:
    rows = facts["data"]["rows"]
    asked = ("export", "--study", "killed", "--refit", "--out", "refit", "--force", "--json")
    made = autopeft(place, *asked)
    assert made.returncode == 0, made.stderr[-2000:]
    bundle = json.loads(made.stdout)
    assert bundle["refit_rows"] == rows["train"] + rows["validation"]
    folder = place / ".autopeft" / "studies" / "killed"
    before = json.loads((folder / "bundle" / "autopeft.json").read_text())
    weights = "adapter_model.safetensors"
    assert bundle["trial"] == before["trial"]
    assert bundle["files"][weights] != before["files"][weights]
    assert "Then trained once more" in (place / "refit" / "README.md").read_text()
    verified = autopeft(place, "verify", "refit", "--json")
    assert verified.returncode == 0, verified.stdout
    assert json.loads(verified.stdout)["score"] == pytest.approx(bundle["test_score"], abs=1e-9)
    kept = folder / "trials" / f"{bundle['trial']:04d}" / "refit" / "checkpoint"
    trained = {path.name: path.stat().st_mtime_ns for path in kept.iterdir()}
    again = autopeft(place, *asked)
    assert json.loads(again.stdout)["files"][weights] == bundle["files"][weights]
    assert {path.name: path.stat().st_mtime_ns for path in kept.iterdir()} == trained


def test_the_report_is_written_again_and_the_export_needs_force(facts, place) -> None:
    report = autopeft(place, "report", "--study", "killed", "--json")
    assert report.returncode == 0, report.stderr
    assert (place / facts["places"]["report"]).stat().st_size > 10_000
    refused = autopeft(place, "export", "--study", "killed")
    assert refused.returncode == 2
    assert "exists already" in refused.stderr


def test_a_taken_name_is_refused_with_the_way_out(facts, place) -> None:
    del facts
    done = autopeft(place, "run", "--demo", "--study", "killed")
    assert done.returncode == 2
    assert "--resume goes on with it" in done.stderr
    assert len(done.stderr.splitlines()) == 1

"""A bundle logged to MLflow loads by pyfunc, answers a DataFrame, and is a version of a registered model."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from autopeft.errors import BundleError
from autopeft.export.bundle import Bundle
from autopeft.export.writer import bundle_format, write_bundle
from autopeft.methods.heads import head_name
from autopeft.plan.budget import Budget
from autopeft.space.candidate import Candidate, Training
from autopeft.tracking.mlflow_model import log_model
from autopeft.tracking.mlflow_store import default_tracking_uri, open_client, open_experiment
from autopeft.train.result import TrialResult
from autopeft.train.trainer import Trainer

TRAINING = Training(learning_rate=1e-2, batch_size=8, epochs=4, max_length=16)
LOAD = """
import sys
import mlflow, pandas as pd
mlflow.set_tracking_uri(sys.argv[1]); mlflow.set_registry_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
column = model.metadata.get_input_schema().input_names()[0]
print(model.predict(pd.DataFrame({column: sys.argv[3:]})).to_json(orient="records"))
assert not [name for name in sys.modules if name.partition(".")[0] == "autopeft"]
"""


def exported(base, dataset, folder: Path) -> Bundle:
    asked = Candidate(method="lora", rank=4, targets="all-linear", training=TRAINING)
    run = Trainer(base, dataset, asked, seed=0)
    measured = TrialResult(state="complete", reports=(run.advance(10**9),))
    draft = Bundle(
        path=str(folder),
        format=bundle_format("lora"),
        model=base.name,
        task=dataset.task,
        head=head_name(base.family, dataset.task) or "",
        labels=dataset.labels,
        candidate=asked,
        budget=Budget(),
        predicted=None,
        measured=measured,
        metric=dataset.metric,
        test_score=0.5,
        low=0.4,
        high=0.6,
        data=dataset.name,
        data_fingerprint=dataset.fingerprint,
        seed=0,
        study="study",
        trial=0,
        versions={},
    )
    return write_bundle(draft, run)


def logged(place: Path, uri: str):
    client = open_client(uri)
    experiment = open_experiment(client, "autopeft", uri)
    run = client.create_run(experiment).info.run_id
    return log_model(uri, experiment, run, place, "sentiment")


def test_a_classifier_answers_a_dataframe_without_autopeft(
    encoder_with_weights, sentiment, tmp_path, capfd
) -> None:
    import json

    exported(encoder_with_weights, sentiment, tmp_path / "bundle")
    uri = default_tracking_uri(tmp_path)
    capfd.readouterr()
    with warnings.catch_warnings(record=True) as advice:
        made = logged(tmp_path / "bundle", uri)
    said = capfd.readouterr()
    assert not [word for word in ("registered", "version", "artifacts") if word in said.out + said.err]
    assert not [each for each in advice if "type hints" in str(each.message)]
    assert (made.name, made.version, made.uri) == ("sentiment", "1", "models:/sentiment/1")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOAD, uri, made.uri, "the film was good", "a bad plot"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    answers = json.loads(done.stdout.splitlines()[-1])
    assert [each["label"] for each in answers] == ["positive", "negative"]
    assert all(each["probability"] > 0.5 for each in answers)
    assert not [*tmp_path.rglob("*.pkl")]


@pytest.mark.slow
def test_a_writer_writes_and_versions_count_up(decoder_with_weights, turns, tmp_path) -> None:
    exported(decoder_with_weights, turns, tmp_path / "bundle")
    uri = default_tracking_uri(tmp_path)
    assert [logged(tmp_path / "bundle", uri).version for _ in range(2)] == ["1", "2"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOAD, uri, "models:/sentiment/2", "question film"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "completion" in done.stdout


@pytest.mark.slow
def test_a_harmed_bundle_is_not_logged(encoder_with_weights, sentiment, tmp_path) -> None:
    exported(encoder_with_weights, sentiment, tmp_path / "bundle")
    (tmp_path / "bundle" / "tokenizer.json").write_text("{")
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        log_model(default_tracking_uri(tmp_path), "0", "0", tmp_path / "bundle", "sentiment")

"""A bundle is verified against what it recorded: the same, different, or not to be told."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import pytest

from autopeft.errors import ConfigError
from autopeft.export.bundle import Bundle
from autopeft.export.loading import load_model
from autopeft.export.writer import bundle_format, write_bundle
from autopeft.journey.contest import evaluated
from autopeft.journey.inputs import load_data
from autopeft.journey.rescoring import score_of
from autopeft.journey.verifying import verify
from autopeft.methods.heads import head_name
from autopeft.plan.budget import Budget
from autopeft.request import Request
from autopeft.space.candidate import Candidate, Training
from autopeft.train.result import TrialResult
from autopeft.train.trainer import Trainer
from autopeft.workload.base_model import BaseModel
from autopeft.workload.dataset import Dataset

TRAINING = Training(learning_rate=1e-2, batch_size=8, epochs=2, max_length=16)


@pytest.fixture(scope="module")
def request_(tmp_path_factory, sentiment, encoder_with_weights) -> Request:
    """Rows on disk, as a user has them."""
    file = tmp_path_factory.mktemp("rows") / "rows.csv"
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        rows = [*sentiment.train, *sentiment.validation, *sentiment.test]
        writer.writerows([f"{row.text} {at}", sentiment.labels[row.label]] for at, row in enumerate(rows))
    return Request(model=str(encoder_with_weights.path), data=str(file))


def write(base: BaseModel, dataset: Dataset, method: str, place: Path, request: Request) -> Bundle:
    """Train a method, score it on the test rows and export it."""
    asked = Candidate(method=method, training=TRAINING)
    run = Trainer(base, dataset, asked, seed=0)
    measured = TrialResult(state="complete", reports=(run.advance(10**9),))
    earned = evaluated(0, run.evaluate("test"), dataset)
    draft = Bundle(
        path=str(place),
        format=bundle_format(method),
        model=base.name,
        task=dataset.task,
        head=head_name(base.family, dataset.task) or "",
        labels=dataset.labels,
        candidate=asked,
        budget=Budget(),
        predicted=None,
        measured=measured,
        metric=dataset.metric,
        test_score=earned.score,
        low=earned.low,
        high=earned.high,
        data=dataset.name,
        data_fingerprint=dataset.fingerprint,
        seed=0,
        study="study",
        trial=0,
        request=request,
        versions={},
    )
    return write_bundle(draft, run, evaluated=earned)


@pytest.fixture(scope="module")
def bundle(request_, tmp_path_factory) -> Path:
    base, dataset = load_data(request_)
    place = tmp_path_factory.mktemp("bundles") / "bundle"
    write(base, dataset, "lora", place, request_)
    return place


@pytest.fixture
def copied(bundle, tmp_path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


def test_a_bundle_as_it_was_exported_is_the_same(copied) -> None:
    found = verify(copied, {})
    assert (found.state, found.reason) == ("same", "")
    assert found.score == pytest.approx(found.recorded, abs=1e-9)
    assert found.logits <= 1e-5


def test_an_adapter_whose_base_lies_elsewhere_is_loaded_on_that(
    copied, tmp_path, encoder_with_weights, monkeypatch
) -> None:
    from autopeft.export.opening import checksums

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config, manifest = copied / "adapter_config.json", copied / "autopeft.json"
    # As who downloads a bundle has it: its base has a name that only the maker's disk, or a hub, knows.
    fields = json.loads(config.read_text()) | {"base_model_name_or_path": "some-org/the-base"}
    config.write_text(json.dumps(fields))
    Bundle.read(manifest).model_copy(update={"files": checksums(copied)}).keep(manifest)
    lost = verify(copied, {})
    assert (lost.state, lost.logits) == ("unknown", None)
    assert "name that with --model DIR" in lost.reason
    there = Path(shutil.copytree(encoder_with_weights.path, tmp_path / "elsewhere"))
    found = verify(copied, {"model": str(there)})
    assert (found.state, found.reason) == ("same", "")
    assert json.loads(config.read_text()) == fields


def test_a_manifest_that_was_cut_off_is_said_to_be(copied) -> None:
    os.truncate(copied / "autopeft.json", 400)
    with pytest.raises(ConfigError, match=r"autopeft\.json: it is not whole JSON .*was it cut off"):
        verify(copied, {})


def test_a_file_that_was_changed_makes_it_differ(copied) -> None:
    with (copied / "adapter_model.safetensors").open("r+b") as stream:
        stream.truncate(100)
    found = verify(copied, {})
    assert (found.state, found.score) == ("differs", None)
    assert "adapter_model.safetensors has another checksum" in found.reason


def test_an_adapter_that_takes_no_labels_once_it_is_loaded_is_scored_alike(
    seq2seq_with_weights, turns, tmp_path
) -> None:
    made = write(seq2seq_with_weights, turns, "adalora", tmp_path / "bundle", Request())
    found = score_of(load_model(made), made, seq2seq_with_weights, turns)
    assert found.score == pytest.approx(made.test_score, abs=1e-6)


@pytest.mark.slow
def test_a_record_that_is_not_true_makes_it_differ(copied) -> None:
    """Who changes the record and its checksum is found out by scoring."""
    from autopeft.export.opening import checksums

    file = copied / "evaluation.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"score": 0.123}))
    manifest = Bundle.read(copied / "autopeft.json")
    manifest.model_copy(update={"files": checksums(copied), "test_score": 0.123}).keep(
        copied / "autopeft.json"
    )
    found = verify(copied, {})
    assert found.state == "differs"
    assert "must be within 0.001 of the recorded 0.1230" in found.reason


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["data", "model"])
def test_without_data_or_model_it_cannot_be_told(copied, tmp_path, request_, lost: str) -> None:
    other = tmp_path / "rows.csv"
    other.write_text("text,label\n" + "".join(f"good {at},positive\nbad {at},negative\n" for at in range(99)))
    moved = {"data": str(other)} if lost == "data" else {"model": str(tmp_path / "gone")}
    found = verify(copied, moved)
    assert (found.state, found.score) == ("unknown", None)
    assert (
        "are not those that the bundle was scored on" if lost == "data" else "there is no directory"
    ) in found.reason


@pytest.mark.slow
def test_data_that_moved_are_named(copied, tmp_path, request_) -> None:
    there = shutil.copy(request_.data, tmp_path / "elsewhere.csv")
    assert verify(copied, {"data": str(there)}).state == "same"


def test_the_command_s_exit_status_is_the_verdict(copied, tmp_path, capfd) -> None:
    from autopeft.cli.app import main

    os.truncate(copied / "tokenizer.json", 10)
    for place, code in ((copied, 1), (tmp_path, 2)):
        with pytest.raises(SystemExit) as left:
            main(["verify", str(place), "--json"])
        assert left.value.code == code
    printed = capfd.readouterr()
    assert json.loads(printed.out)["state"] == "differs"
    assert "has none" in printed.err

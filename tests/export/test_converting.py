"""Other forms of what was trained, folded, unpacked, rounded, as LoRA: what that costs is measured."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from autopeft.errors import UnsupportedError
from autopeft.export.as_lora import fill_lora
from autopeft.export.bundle import Bundle, Evaluated, Fidelity
from autopeft.export.check import differences
from autopeft.export.converting import write_converted
from autopeft.export.gguf import require_gguf
from autopeft.export.merged import fill_merged
from autopeft.export.opening import open_bundle
from autopeft.export.push import public
from autopeft.export.writer import bundle_format
from autopeft.methods.heads import head_name
from autopeft.plan.budget import Budget
from autopeft.space.candidate import Candidate, Training
from autopeft.train.result import TrialResult
from autopeft.train.trainer import Trainer

TRAINING = Training(learning_rate=1e-2, batch_size=8, epochs=1, max_length=16)


def convert(base, dataset, asked: Candidate, folder: Path, filler, judge=None) -> Bundle:
    run = Trainer(base, dataset, asked, seed=0)
    measured = TrialResult(state="complete", reports=(run.advance(48),))
    draft = Bundle(
        path=str(folder),
        format=bundle_format(asked.method),
        model=Path(base.name).name,
        base=base.path,
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
    return write_converted(draft, run, filler, judge or (lambda model, bundle, far: (None, far)))


def lora(**fields) -> Candidate:
    return Candidate(method="lora", training=TRAINING.model_copy(update=fields))


def test_a_folded_model_needs_no_peft_and_gives_the_same_logits(
    encoder_with_weights, sentiment, tmp_path
) -> None:
    made = convert(encoder_with_weights, sentiment, lora(), tmp_path / "bundle", fill_merged)
    assert (made.form, made.format, made.dtype) == ("merged", "model", "float32")
    assert made.fidelity.logits <= 1e-5
    assert made.fidelity.made == "the update folded into the weights"
    assert not (tmp_path / "bundle" / "adapter_config.json").exists()
    config = json.loads((tmp_path / "bundle" / "config.json").read_text())
    assert config["id2label"] == {"0": "negative", "1": "positive"}
    assert (
        "from transformers import AutoModelForSequenceClassification"
        in (tmp_path / "bundle" / "README.md").read_text()
    )
    open_bundle(tmp_path / "bundle")


def test_what_rounding_costs_is_measured_and_stands_in_the_card(
    encoder_with_weights, sentiment, tmp_path
) -> None:
    earned = Evaluated(
        trial=0, metric=sentiment.metric, score=0.75, low=0.7, high=0.8, rows="0", facts=((1.0, 0.1),)
    )

    def judge(model, bundle, far: Fidelity) -> tuple[Evaluated, Fidelity]:
        assert next(model.parameters()).dtype == torch.bfloat16
        change = {"score": 0.75, "change": -0.01, "low": -0.03, "high": 0.02, "moved": 0.015}
        return earned, far.model_copy(update=change)

    made = convert(
        *(encoder_with_weights, sentiment, lora(), tmp_path / "bundle"),
        partial(fill_merged, dtype="bfloat16"),
        judge,
    )
    assert 1e-5 < made.fidelity.logits < 0.05
    assert made.test_score == 0.75
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert "rounded to bfloat16" in card
    assert (
        "Test accuracy 0.7500: -0.0100 against what was trained, on the same rows "
        "(95 % interval -0.0300 to +0.0200)." in card
    )
    assert "1.50% of the test rows are answered otherwise." in card
    assert Evaluated.read(tmp_path / "bundle" / "evaluation.json") == earned


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["nf4-dq", "int8"])
def test_a_packed_base_is_unpacked_and_the_difference_said(
    scheme, encoder_with_weights, sentiment, tmp_path
) -> None:
    pytest.importorskip("bitsandbytes", reason="packed bases need the extra quant")
    asked = lora().model_copy(update={"quantization": scheme})
    made = convert(encoder_with_weights, sentiment, asked, tmp_path / "bundle", fill_merged)
    assert made.fidelity.made == f"the base unpacked from {scheme}, the update folded into the weights"
    # The kernels of int8 round what enters a matrix too; folded weights do not.
    assert made.fidelity.logits <= (1e-4 if scheme == "nf4-dq" else 0.1)
    assert "quantization_config" not in json.loads((tmp_path / "bundle" / "config.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["pissa", "loha", "bitfit"])
def test_methods_that_start_elsewhere_or_train_in_place_fold_too(
    method, encoder_with_weights, sentiment, tmp_path
) -> None:
    asked = Candidate(method=method, training=TRAINING)
    made = convert(encoder_with_weights, sentiment, asked, tmp_path / "bundle", fill_merged)
    assert made.fidelity.logits <= 1e-5


@pytest.mark.slow
def test_a_folded_regression_gives_the_users_numbers(encoder_with_weights, ratings, tmp_path) -> None:
    made = convert(encoder_with_weights, ratings, lora(), tmp_path / "bundle", fill_merged)
    assert made.scale is None
    logits = json.loads((tmp_path / "bundle" / "reference.json").read_text())["logits"]
    assert 50 < np.mean(logits) < 150


def test_a_method_that_does_not_fold_is_refused(encoder_with_weights, sentiment, tmp_path) -> None:
    asked = Candidate(method="bottleneck", training=TRAINING)
    with pytest.raises(UnsupportedError, match="bottleneck does not fold"):
        convert(encoder_with_weights, sentiment, asked, tmp_path / "bundle", fill_merged)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_another_method_becomes_lora_the_closer_the_higher_its_rank(
    encoder_with_weights, sentiment, tmp_path
) -> None:
    asked = Candidate(method="fourierft", training=TRAINING.model_copy(update={"learning_rate": 0.5}),
                      knobs={"n_frequency": 200})  # fmt: skip
    apart = []
    for rank in (1, 8, 32):
        folder = tmp_path / str(rank)
        made = convert(encoder_with_weights, sentiment, asked, folder, partial(fill_lora, rank=rank))
        apart.append(made.fidelity.logits)
        assert (made.form, made.format) == ("lora", "peft")
        assert json.loads((folder / "adapter_config.json").read_text())["peft_type"] == "LORA"
    assert apart[0] > apart[1] > apart[2]
    assert apart[2] <= 1e-4
    (loaded,) = differences([(tmp_path / "8", Bundle.read(tmp_path / "8" / "autopeft.json"))])
    assert loaded <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["seq2seq classification", "tags"])
def test_a_trained_head_of_many_layers_is_kept_whole(
    kind, seq2seq_with_weights, encoder_with_weights, sentiment, entities, tmp_path
) -> None:
    base, dataset = (seq2seq_with_weights, sentiment) if "seq" in kind else (encoder_with_weights, entities)
    asked = Candidate(method="loha", training=TRAINING)
    made = convert(base, dataset, asked, tmp_path / "bundle", partial(fill_lora, rank=32))
    assert made.fidelity.logits <= 1e-4


@pytest.mark.parametrize(
    ("method", "reason"),
    [("lora", "plain LoRA anyway"), ("pissa", "plain LoRA anyway"), ("ia3", "no conversion")],
)
def test_what_is_lora_or_no_update_of_matrices_is_not_converted(
    method, reason, encoder_with_weights, sentiment, tmp_path
) -> None:
    asked = Candidate(method=method, training=TRAINING)
    with pytest.raises(UnsupportedError, match=reason):
        convert(encoder_with_weights, sentiment, asked, tmp_path / "bundle", fill_lora)


def test_a_causal_model_folds_and_says_what_gguf_would_need(
    decoder_with_weights, turns, tmp_path, monkeypatch
) -> None:
    made = convert(decoder_with_weights, turns, lora(), tmp_path / "bundle", fill_merged)
    assert made.fidelity.logits <= 1e-5
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("LLAMA_CPP", raising=False)
    with pytest.raises(
        UnsupportedError, match=r"needs llama.cpp's convert_hf_to_gguf.py, which is not installed"
    ):
        require_gguf(made)
    (tmp_path / "convert_hf_to_gguf.py").touch()
    monkeypatch.setenv("LLAMA_CPP", str(tmp_path))
    assert require_gguf(made) == tmp_path / "convert_hf_to_gguf.py"


def test_what_is_pushed_says_nothing_of_places_on_this_disk(
    encoder_with_weights, sentiment, tmp_path
) -> None:
    convert(encoder_with_weights, sentiment, lora(), tmp_path / "bundle", fill_merged)
    public(tmp_path / "bundle", tmp_path / "public", "me/mine", "org/tiny-bert")
    open_bundle(tmp_path / "public")
    texts = [each.read_text(errors="replace") for each in (tmp_path / "public").iterdir()]
    assert not [text for text in texts if str(tmp_path) in text or encoder_with_weights.path in text]
    assert "base_model: org/tiny-bert" in (tmp_path / "public" / "README.md").read_text()

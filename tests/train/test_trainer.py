"""The trainer learns, stops anywhere, goes on as if it had not stopped, and says when it diverges."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from autopeft.errors import TrialError, UnsupportedError
from autopeft.methods.registry import METHODS
from autopeft.space.candidate import Candidate, Training
from autopeft.train.trainer import Trainer, evaluate_base

TRAINING = Training(learning_rate=1e-2, batch_size=8, epochs=3, max_length=16)


def trainer(base, dataset, method="lora", training=TRAINING, **fields) -> Trainer:
    return Trainer(base, dataset, Candidate(method=method, training=training, **fields), seed=0)


def weights(run: Trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in run.model.parameters() if p.requires_grad])


def test_full_training_learns_what_the_text_says(encoder_with_weights, sentiment) -> None:
    run = trainer(encoder_with_weights, sentiment, "full", TRAINING.model_copy(update={"epochs": 10}))
    assert run.advance(10**9).score > 0.9
    assert run.evaluate("test").score > 0.9


def test_a_supervised_fine_tuning_lowers_the_held_out_loss(decoder_with_weights, turns) -> None:
    run = trainer(decoder_with_weights, turns, "lora", targets="all-linear")
    before = run.evaluate("validation")
    after = run.advance(10**9)
    assert after.score < before.score
    assert after.extra["token_accuracy"] >= before.extra["token_accuracy"]


def test_the_base_model_is_scored_without_what_a_method_does_before_it_trains(
    decoder_with_weights, turns
) -> None:
    fresh = trainer(decoder_with_weights, turns).evaluate("test").score
    prepared = Candidate(method="diff-pruning", training=TRAINING)
    assert evaluate_base(decoder_with_weights, turns, prepared).score == pytest.approx(fresh, abs=1e-6)


def test_a_regression_learns_numbers_in_their_own_unit(encoder_with_weights, ratings) -> None:
    run = trainer(encoder_with_weights, ratings, "full", TRAINING.model_copy(update={"epochs": 10}))
    before = run.evaluate("test")
    run.advance(10**9)
    after = run.evaluate("test")
    assert after.score < 0.5 < before.score
    assert after.extra["r2"] > 0.7
    assert after.extra["spearman"] > 0.8
    assert after.extra["mean_absolute_error"] == pytest.approx(after.score * ratings.scale.spread)
    assert after.facts[:, 2].tolist() == pytest.approx([row.number for row in ratings.test], rel=1e-6)


def test_a_token_classification_learns_to_mark_spans(encoder_with_weights, entities) -> None:
    run = trainer(encoder_with_weights, entities, "full")
    assert run.evaluate("test").score < 0.5
    run.advance(10**9)
    after = run.evaluate("test")
    assert after.score > 0.9
    assert after.extra["token_accuracy"] > 0.9


def test_a_masked_language_model_guesses_hidden_words_better(guesser_with_weights, texts) -> None:
    run = trainer(guesser_with_weights, texts, "lora", targets="all-linear")
    before = run.evaluate("validation")
    assert run.evaluate("validation").score == before.score
    assert run.advance(10**9).score < before.score


def test_a_checkpoint_without_the_head_that_guesses_words_is_refused(encoder_with_weights, texts) -> None:
    with pytest.raises(UnsupportedError, match="masked-lm needs the pretrained head"):
        trainer(encoder_with_weights, texts)


def test_an_encoder_decoder_is_fed_what_to_read_apart_from_what_to_write(seq2seq_with_weights, turns) -> None:
    run = trainer(seq2seq_with_weights, turns, "full", TRAINING.model_copy(update={"epochs": 10}))
    batch = run.feed.collate(run.feed.rows("test")[:2])
    tokenizer = run.feed.tokenizer
    assert tokenizer.decode(batch["input_ids"][0], skip_special_tokens=True) == turns.test[0].text
    assert tokenizer.decode(batch["labels"][0], skip_special_tokens=True) == turns.test[0].completion
    assert batch["labels"][0, -1] == tokenizer.eos_token_id
    before = run.evaluate("validation")
    after = run.advance(10**9)
    assert after.score < before.score
    assert after.extra["token_accuracy"] > 0.6


# At peft's defaults these do not suit a BERT of 32 columns; tests/methods trains them with smaller knobs.
UNSUITED = {"adaption_prompt", "c3a", "llama-adapter", "miss", "road", "shadow", "shira", "vblora", "waveft"}
QUICK = {"lora", "lora-ga", "prompt_tuning"}
TRAINED = [
    pytest.param(method, marks=[pytest.mark.slow] if spec.peft_type and method not in QUICK else [])
    for method, spec in sorted(METHODS.items())
    if method not in UNSUITED
]


@pytest.mark.parametrize("method", TRAINED)
def test_a_run_cut_in_two_ends_as_the_run_in_one(
    method, encoder_with_weights, sentiment, tmp_path: Path
) -> None:
    whole = trainer(encoder_with_weights, sentiment, method)
    whole.advance(120)
    last = whole.advance(10**9)
    first = trainer(encoder_with_weights, sentiment, method)
    first.advance(120)
    first.save(tmp_path)
    second = trainer(encoder_with_weights, sentiment, method)
    second.restore(tmp_path)
    resumed = second.advance(10**9)
    assert (resumed.samples, resumed.step) == (last.samples, last.step)
    assert torch.allclose(weights(second), weights(whole), atol=1e-6)
    assert resumed.score == last.score
    assert second.meter.steps == last.step
    assert resumed.step_seconds > 0


@pytest.mark.parametrize("method", ["fish", "lt-sft", "diff-pruning", "corda", "lora-ga", "eva"])
def test_what_a_preparation_decided_is_put_back_where_it_would_decide_otherwise(
    method, encoder_with_weights, sentiment, tmp_path: Path
) -> None:
    first = trainer(encoder_with_weights, sentiment, method)
    first.advance(120)
    first.save(tmp_path)
    others = sentiment.model_copy(update={"train": sentiment.train[len(sentiment.train) // 2 :]})
    second = trainer(encoder_with_weights, others, method)
    second.restore(tmp_path)
    mine, its = (dict(each.model.named_parameters()) for each in (first, second))
    assert all(torch.allclose(its[name], value, atol=1e-6) for name, value in mine.items())
    assert second.evaluate("test").values == pytest.approx(first.evaluate("test").values)
    first.save(tmp_path / "first")
    second.save(tmp_path / "second")
    adapters = [
        load_file(tmp_path / name / "adapter/adapter_model.safetensors") for name in ("first", "second")
    ]
    assert all(torch.equal(adapters[1][name], value) for name, value in adapters[0].items())


def test_the_batches_of_a_preparation_are_metered(encoder_with_weights, sentiment, monkeypatch) -> None:
    run = trainer(encoder_with_weights, sentiment, "lt-sft", knobs={"steps": 40})
    batches, collate = [], run.feed.collate
    monkeypatch.setattr(run.feed, "collate", lambda rows: batches.append(len(rows)) or collate(rows))
    monkeypatch.setattr("time.perf_counter", lambda: float(len(batches)))  # a clock that a batch moves on
    assert run.advance(0).step == 0
    assert run.meter.seconds == len(batches) > 40


@pytest.mark.parametrize(("scheme", "method"), [("nf4", "lora"), ("nf4", "dora"), ("int8", "dora")])
def test_a_packed_base_is_packed_in_training_and_trains_on_after_an_evaluation(
    scheme, method, encoder_with_weights, sentiment
) -> None:
    pytest.importorskip("bitsandbytes", reason="packed bases need the extra quant")
    fields = {"quantization": scheme, "targets": "all-linear"}
    training = TRAINING.model_copy(update={"epochs": 1})
    whole = trainer(encoder_with_weights, sentiment, method, training, **fields)
    kinds = {type(module).__name__ for module in whole.model.modules()}
    assert kinds & {"Linear4bit", "Linear8bitLt"}
    score = whole.advance(10**9).score
    again = trainer(encoder_with_weights, sentiment, method, training, **fields)
    for samples in (40, 80):
        again.advance(samples)
        again.evaluate("validation")
    assert again.advance(10**9).score == score
    assert torch.allclose(weights(again), weights(whole), atol=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "lion", "adamw-8bit", "lora-plus", "mezo"])
def test_dropout_and_any_optimizer_go_on_as_they_were_after_a_restore(
    optimizer, encoder_with_weights, sentiment, tmp_path: Path
) -> None:
    training = TRAINING.model_copy(update={"dropout": 0.3, "optimizer": optimizer})
    whole = trainer(encoder_with_weights, sentiment, training=training)
    whole.advance(120)
    whole.save(tmp_path)
    whole.advance(10**9)
    other = trainer(encoder_with_weights, sentiment, training=training)
    other.restore(tmp_path)
    other.advance(10**9)
    assert torch.allclose(weights(other), weights(whole), atol=1e-6)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_the_learning_rate_rises_then_follows_its_schedule(schedule, encoder_with_weights, sentiment) -> None:
    run = trainer(
        encoder_with_weights,
        sentiment,
        training=TRAINING.model_copy(update={"schedule": schedule, "warmup_share": 0.2}),
    )
    run.advance(0)
    rates = []
    for samples in range(8, 361, 8):
        rates.append(run.schedule.get_last_lr()[0])
        run.advance(samples)
    peak = rates.index(max(rates))
    assert max(rates) == pytest.approx(1e-2)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    tail = rates[peak:]
    assert tail == sorted(tail, reverse=True)
    assert (tail[-1] == tail[0]) == (schedule == "constant")


def test_a_loss_that_is_no_number_ends_the_trial_with_the_way_out(encoder_with_weights, sentiment) -> None:
    run = trainer(encoder_with_weights, sentiment, "full")
    with torch.no_grad():
        next(run.model.parameters()).fill_(float("nan"))
    with pytest.raises(TrialError, match=r"loss became nan at step 0 .* smaller one may hold"):
        run.advance(100)


def test_every_row_of_an_evaluation_counts_once_in_its_own_place(encoder_with_weights, sentiment) -> None:
    run = trainer(encoder_with_weights, sentiment, "full", TRAINING.model_copy(update={"epochs": 10}))
    run.advance(10**9)
    together = run.evaluate("test").values
    run.training = run.training.model_copy(update={"batch_size": 1})
    assert run.evaluate("test").values == together


def test_measured_memory_and_times_are_reported(encoder_with_weights, sentiment) -> None:
    report = trainer(encoder_with_weights, sentiment).advance(80)
    assert report.samples == 80
    assert report.step == 10
    assert 0 < report.step_seconds < report.seconds
    assert report.peak_bytes > 50 * 2**20

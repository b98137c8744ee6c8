"""Preference tuning: the loss of the paper, against the model without its adapter, and what it teaches."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from autopeft.errors import InputError, UnsupportedError
from autopeft.methods.registry import METHODS, learns, require_support
from autopeft.space.candidate import Candidate, Training
from autopeft.train.losses import preference_loss
from autopeft.train.trainer import Trainer

TRAINING = Training(learning_rate=1e-2, batch_size=8, epochs=3, max_length=16, beta=0.3)


def trainer(base, dataset, **fields) -> Trainer:
    return Trainer(base, dataset, Candidate(method="lora", training=TRAINING, **fields), seed=0)


def by_hand(policy, reference, ids: list[int], labels: list[int]) -> float:
    """Return how much more likely an answer is to the one than to the other, a token at a time."""
    total = 0.0
    for model, sign in ((policy, 1), (reference, -1)):
        whole = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0], dim=-1)
        total += sign * sum(
            float(whole[at - 1, token].detach()) for at, token in enumerate(labels) if token != -100
        )
    return total


def test_the_loss_is_the_paper_s_equation_7(decoder_with_weights, pairs) -> None:
    run = trainer(decoder_with_weights, pairs, targets="all-linear")
    run.advance(40)
    run.model.eval()
    reference = AutoModelForCausalLM.from_pretrained(decoder_with_weights.path).eval()
    rows = run.feed.rows("test")[:4]
    loss = float(preference_loss(run.model, run.feed.collate(rows), run.training).detach())
    losses = []
    for row in rows:
        margin = by_hand(run.model, reference, row.ids, row.target) - by_hand(
            run.model, reference, row.worse.ids, row.worse.target
        )
        losses.append(-math.log(1 / (1 + math.exp(-TRAINING.beta * margin))))
    assert loss == pytest.approx(sum(losses) / len(losses), abs=1e-5)
    assert loss != pytest.approx(math.log(2), abs=1e-3)


def test_without_any_training_nothing_is_preferred_to_what_the_model_was(decoder_with_weights, pairs) -> None:
    run = trainer(decoder_with_weights, pairs)
    evaluation = run.evaluate("validation")
    assert evaluation.extra["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert evaluation.extra["margin"] == pytest.approx(0, abs=1e-6)


def test_training_prefers_the_chosen_answers_of_rows_it_has_not_seen(decoder_with_weights, pairs) -> None:
    run = trainer(decoder_with_weights, pairs, targets="all-linear")
    report = run.advance(10**9)
    assert report.score > 0.9
    assert report.extra["margin"] > 0
    assert report.samples == 3 * len(pairs.train)
    assert run.samples == report.samples


def test_pairs_are_fed_chosen_first_and_their_length_is_the_longer_one_s(decoder_with_weights, pairs) -> None:
    feed = trainer(decoder_with_weights, pairs).feed
    rows = feed.rows("test")[:3]
    batch = feed.collate(rows)
    assert batch["input_ids"].shape[0] == 6
    texts = feed.tokenizer.batch_decode(batch["input_ids"])
    assert ["good" in text for text in texts] == [True] * 3 + [False] * 3
    assert feed.length(rows[0]) == len(rows[0].worse.ids) == len(rows[0].ids) + 1


def test_methods_that_cannot_compare_pairs_say_so_before_anything_is_run(decoder_with_weights) -> None:
    with pytest.raises(UnsupportedError, match="dpo compares with the model without its adapter, and full"):
        require_support(Candidate(method="full"), decoder_with_weights, "dpo")
    with pytest.raises(UnsupportedError, match=r"fish is for .*masked-lm.*, not for dpo"):
        require_support(Candidate(method="fish"), decoder_with_weights, "dpo")
    assert not learns(METHODS["bitfit"], "decoder", "dpo")
    assert learns(METHODS["lora"], "decoder", "dpo")


def test_a_loss_of_text_is_refused(decoder_with_weights, pairs) -> None:
    run = trainer(decoder_with_weights, pairs)
    with pytest.raises(InputError, match="leave it at standard"):
        preference_loss(run.model, {}, TRAINING.model_copy(update={"loss": "chunked"}))

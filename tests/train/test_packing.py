"""Packed rows train as the same rows do one by one: the same loss, the same gradients, every row once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from autopeft.errors import UnsupportedError
from autopeft.methods.registry import require_support
from autopeft.space.candidate import Candidate, Training
from autopeft.train.packing import join_rows
from autopeft.train.step import forward_loss
from autopeft.train.trainer import Trainer

TRAINING = Training(learning_rate=1e-2, batch_size=2, epochs=3, max_length=24, packing=True)


def trainer(base, dataset, **changes) -> Trainer:
    training = TRAINING.model_copy(update=changes)
    return Trainer(base, dataset, Candidate(method="lora", targets="all-linear", training=training), seed=0)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_loss_of_packed_rows_is_that_of_single_rows(decoder_with_weights, turns, attention: str) -> None:
    run = trainer(decoder_with_weights, turns, attention=attention)
    run.advance(30)  # so that the adapter does something
    run.model.train()
    rows = run.feed.rows("test")[:5]
    packed, padded = join_rows(rows), run.feed.collate(rows)
    assert packed["input_ids"].shape == (1, sum(len(row.ids) for row in rows))
    gradients = []
    losses = []
    for batch in (packed, padded):
        run.model.zero_grad()
        loss = forward_loss(run.model, batch, run.training)
        loss.backward()
        losses.append(float(loss.detach()))
        gradients.append(torch.cat([p.grad.flatten() for p in run.model.parameters() if p.grad is not None]))
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert torch.allclose(gradients[0], gradients[1], atol=1e-5)


def test_without_positions_that_begin_again_rows_would_see_each_other(decoder_with_weights, turns) -> None:
    run = trainer(decoder_with_weights, turns)
    run.advance(60)
    rows = run.feed.rows("test")[:5]
    packed = join_rows(rows)
    blurred = {**packed, "position_ids": torch.arange(packed["input_ids"].shape[1])[None]}
    right, wrong = (float(forward_loss(run.model, each, run.training)) for each in (packed, blurred))
    assert abs(right - wrong) > 1e-4


def test_every_row_is_seen_once_an_epoch_in_fewer_steps(decoder_with_weights, turns) -> None:
    run = trainer(decoder_with_weights, turns, epochs=1)
    seen = []
    for rows, batch in run._stream:
        assert batch["input_ids"].shape[1] <= TRAINING.batch_size * TRAINING.max_length
        seen.append(rows)
        if len(seen) == run.total_steps:
            break
    assert sum(seen) == len(turns.train)
    assert run.total_steps < len(turns.train) / TRAINING.batch_size / 2
    assert run.advance(10**9).samples == len(turns.train)


def test_a_packed_run_cut_in_two_ends_as_the_run_in_one(decoder_with_weights, turns, tmp_path: Path) -> None:
    whole = trainer(decoder_with_weights, turns)
    whole.advance(70)
    whole.save(tmp_path)
    whole.advance(10**9)
    other = trainer(decoder_with_weights, turns)
    other.restore(tmp_path)
    other.advance(10**9)
    ends = [
        torch.cat([p.detach().flatten() for p in run.model.parameters() if p.requires_grad])
        for run in (whole, other)
    ]
    assert (other.samples, other.step) == (whole.samples, whole.step)
    assert torch.allclose(*ends, atol=1e-6)


def test_what_cannot_be_packed_says_so(encoder_with_weights, sentiment, tiny_llama) -> None:
    with pytest.raises(UnsupportedError, match="leave packing out"):
        trainer(encoder_with_weights, sentiment)
    with pytest.raises(UnsupportedError, match="leave packing out"):
        require_support(Candidate(method="prompt_tuning", training=TRAINING), tiny_llama, "sft")

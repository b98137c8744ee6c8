"""Tests of autopeft/train/scoring.py: what rows contribute, and the scores made of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import r2_score

from autopeft.space.candidate import Candidate, Training
from autopeft.train.probe import linear_probe
from autopeft.train.scoring import make_scoring, token_losses
from autopeft.train.trainer import Trainer
from autopeft.workload.tokens import IGNORED


def answering(logits: Any) -> Any:
    return lambda **inputs: SimpleNamespace(logits=torch.as_tensor(logits))


def test_numbers_are_scored_in_the_users_unit_against_the_training_median(tiny_bert, ratings) -> None:
    scoring, scale = make_scoring(tiny_bert, ratings, Training()), ratings.scale
    right = np.array([100.0, 114.0, 86.0, 107.0])
    said = np.array([100.0, 107.0, 100.0, 114.0])
    logits = (said - scale.mean) / scale.deviation
    labels = torch.tensor((right - scale.mean) / scale.deviation)
    facts = scoring.facts(answering(logits[:, None]), {"labels": labels}).numpy()
    assert scoring.score(facts) == pytest.approx(7 / scale.spread)
    found = scoring.further(facts)
    assert found["mean_absolute_error"] == pytest.approx(7)
    assert found["r2"] == pytest.approx(r2_score(right, said))
    assert found["pearson"] == pytest.approx(pearsonr(right, said).statistic)
    assert found["spearman"] == pytest.approx(spearmanr(right, said).statistic)


def test_a_model_that_always_says_the_same_has_no_correlation(tiny_bert, ratings) -> None:
    scoring = make_scoring(tiny_bert, ratings, Training())
    facts = scoring.facts(answering(torch.zeros(3, 1)), {"labels": torch.tensor([0.0, 1.0, 2.0])}).numpy()
    assert set(scoring.further(facts)) == {"mean_absolute_error", "r2"}


@pytest.mark.parametrize("rows", [100, 250, 1000])
def test_the_same_answer_everywhere_is_a_number_however_it_is_rounded(tiny_bert, ratings, rows: int) -> None:
    scoring = make_scoring(tiny_bert, ratings, Training())
    answers, labels = torch.full((rows, 1), 0.1234567), torch.linspace(-1, 1, rows)
    facts = scoring.facts(answering(answers), {"labels": labels}).numpy()
    assert set(scoring.further(facts)) == {"mean_absolute_error", "r2"}


def test_always_saying_the_median_scores_one(ratings) -> None:
    numbers = [row.number for row in ratings.train]
    errors = np.abs(np.array(numbers) - np.median(numbers))
    assert errors.mean() / ratings.scale.spread == pytest.approx(1)


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_token_s_loss_is_that_of_the_place_which_predicts_it(ahead: int) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 5, 7), torch.randint(7, (2, 5))
    labels[0, :2] = IGNORED
    losses, hits, counts = token_losses(logits, labels, ahead=ahead)
    whole = torch.log_softmax(logits, dim=-1)
    for row in range(2):
        wanted = [at for at in range(ahead, 5) if labels[row, at] != IGNORED]
        expected = -sum(whole[row, at - ahead, labels[row, at]] for at in wanted)
        assert losses[row].item() == pytest.approx(float(expected), abs=1e-5)
        assert counts[row] == len(wanted)
        assert hits[row] == sum(int(logits[row, at - ahead].argmax() == labels[row, at]) for at in wanted)


def test_tags_are_scored_over_all_rows_at_the_first_token_of_each_word(tiny_bert, entities) -> None:
    scoring = make_scoring(tiny_bert, entities, Training())
    right = torch.tensor([[IGNORED, 1, 2, IGNORED, 0], [IGNORED, 3, 0, 0, IGNORED]])
    said = torch.tensor([[4, 1, 2, 4, 0], [4, 3, 4, 0, 4]])
    logits = torch.nn.functional.one_hot(said, 5).float()
    facts = scoring.facts(answering(logits), {"labels": right}).numpy()
    assert facts.tolist() == [[1, 1, 1, 3, 3], [0, 1, 1, 2, 3]]
    assert scoring.score(facts) == 0.5
    assert scoring.further(facts) == {"precision": 0.5, "recall": 0.5, "token_accuracy": 5 / 6}


def test_spans_that_end_or_begin_beyond_the_length_limit_are_missed(tiny_bert, entities) -> None:
    scoring = make_scoring(tiny_bert, entities, Training())
    row = SimpleNamespace(tags=(0, 1, 2, 2, 0, 3))
    seen = torch.tensor([[0, 1, 2]])
    logits = torch.nn.functional.one_hot(seen, 5).float()
    whole = scoring.facts(answering(logits), {"labels": seen}).numpy()
    cut_off = scoring.facts(answering(logits), {"labels": seen}, [row]).numpy()
    assert whole.tolist() == [[1, 1, 1, 3, 3]]
    assert cut_off.tolist() == [[0, 1, 2, 3, 6]]


@pytest.mark.parametrize("probed", [False, True])
def test_a_shorter_limit_leaves_as_much_to_find(encoder_with_weights, entities, probed: bool) -> None:
    to_find = []
    for limit in (6, 32):
        training = Training(max_length=limit, batch_size=8)
        if probed:
            _, found = linear_probe(encoder_with_weights, entities, training, device="cpu")
        else:
            candidate = Candidate(method="lora", rank=2, training=training)
            found = Trainer(encoder_with_weights, entities, candidate, seed=0).evaluate("test")
        to_find.append(found.facts[:, [2, 4]].tolist())
    assert to_find[0] == to_find[1]

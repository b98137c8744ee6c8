"""Proteins are text of one letter an amino acid; an ESM with no more than a vocab.txt learns from them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from transformers import EsmConfig, EsmModel

from autopeft.space.candidate import Candidate, Training
from autopeft.train.trainer import Trainer
from autopeft.workload.base_model import BaseModel
from autopeft.workload.dataset import Dataset
from autopeft.workload.measuring import measure
from autopeft.workload.models import find_model
from autopeft.workload.readers import read_dataset
from autopeft.workload.tokens import load_tokenizer

ACIDS = "ARNDCQEGHILKMFPSTWYV"
TRAINING = Training(learning_rate=1e-2, batch_size=8, epochs=6, max_length=32)


@pytest.fixture
def esm(tmp_path: Path) -> BaseModel:
    """A tiny ESM of random weights, whose tokenizer is a list of tokens."""
    torch.manual_seed(0)
    words = ["<cls>", "<pad>", "<eos>", "<unk>", *ACIDS, "<mask>"]
    config = EsmConfig(
        vocab_size=len(words),
        pad_token_id=1,
        mask_token_id=len(words) - 1,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        position_embedding_type="rotary",
        token_dropout=False,
    )
    EsmModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "esm")
    (tmp_path / "esm" / "vocab.txt").write_text("\n".join(words))
    return find_model(str(tmp_path / "esm"))


@pytest.fixture
def proteins(tmp_path: Path) -> Dataset:
    """Sequences rich in acidic or in basic residues."""
    dice, lines = random.Random(0), ["sequence,label"]
    for index in range(100):
        acids = dice.choices(ACIDS + ("DE", "KR")[index % 2] * 5, k=dice.randint(10, 40))
        lines.append(f"{''.join(acids)},{('acidic', 'basic')[index % 2]}")
    (tmp_path / "proteins.csv").write_text("\n".join(lines))
    return read_dataset(str(tmp_path / "proteins.csv"))


def test_a_column_of_sequences_is_a_text_of_one_token_an_amino_acid(
    esm: BaseModel, proteins: Dataset
) -> None:
    assert proteins.columns == {"text": "sequence", "label": "label"}
    assert load_tokenizer(esm)("MKV")["input_ids"] == [0, 16, 15, 23, 2]
    assert measure(proteins, esm, 32).longest == 32


def test_an_esm_learns_the_classes_of_proteins(esm: BaseModel, proteins: Dataset) -> None:
    run = Trainer(esm, proteins, Candidate(method="lora", targets="all-linear", training=TRAINING), seed=0)
    assert run.advance(10**9).score > 0.8

"""A recipe says what its tool does otherwise than autopeft, and which rows it reads."""

from __future__ import annotations

import re

import pytest
import yaml

from autopeft.export.recipes.subject import FORMATS, Format, Subject
from autopeft.export.recipes.writing import WRITERS
from autopeft.journey.reciting import recipe_of_candidate, subject_of
from autopeft.request import Request
from autopeft.space.candidate import Candidate, Training
from autopeft.workload.base_model import BaseModel
from tests.conftest import TINY_LLAMA

TRAINING = Training(batch_size=4, grad_accum=2, epochs=3, max_length=48, precision="bf16")
LORA = Candidate(method="lora", rank=8, training=TRAINING)
KNOWN = TINY_LLAMA.model_copy(update={"name": "Llama-3.2-1B"})


def subject(base: BaseModel, **fields: object) -> Subject:
    training = TRAINING.model_copy(update=fields)
    return subject_of(LORA.model_copy(update={"training": training}), base, None, "sft", 7)


@pytest.mark.parametrize(
    ("epochs", "rows", "counted", "steps", "said"),
    [
        (2, 100, 2, None, ""),
        (0.5, 100, 1, 6, "0.5 epochs are 1 of 6 steps"),
        (2.5, 100, 3, 10, "2.5 epochs are 3 of 10 steps"),
        (2.5, 0, 2, None, "it trains for 2, not 2.5 epochs"),
        (0.5, 0, 1, None, "it trains for 1, not 0.5 epochs"),
    ],
)
def test_torchtune_trains_part_of_an_epoch_by_its_steps_or_says_that_it_does_not(
    epochs: float, rows: int, counted: int, steps: int | None, said: str
) -> None:
    made = WRITERS["torchtune"](subject(KNOWN, epochs=epochs).model_copy(update={"rows": rows}))
    fields = yaml.safe_load(made.files["torchtune.yaml"])
    assert (fields["epochs"], fields["max_steps_per_epoch"]) == (counted, steps)
    notes = " ".join(made.notes)
    assert said in notes
    assert ("epochs" in notes) == bool(said)


def test_llama_factory_says_that_it_has_no_fp32_of_weights_in_bf16() -> None:
    full = WRITERS["llama-factory"](subject(TINY_LLAMA, precision="fp32"))
    assert "no switch for fp32" in " ".join(full.notes)
    assert WRITERS["llama-factory"](subject(TINY_LLAMA)).notes == ()


READ = {"script": {"train.jsonl", "test.jsonl"}, "torchtune": {"train.jsonl"}}


@pytest.mark.parametrize("wanted", FORMATS)
def test_a_recipe_without_rows_names_those_that_it_reads(wanted: Format) -> None:
    made = recipe_of_candidate(Request(model="Llama-3.2-1B"), LORA, wanted, None, force=False)
    (note,) = [each for each in made.notes if "to lie beside this" in each]
    named = set(re.findall(r"\w+\.jsonl", note))
    assert named == READ.get(wanted, {"train.jsonl", "validation.jsonl"})
    text = "".join(made.files.values())
    read = {name for name in ("train.jsonl", "validation.jsonl", "test.jsonl") if name in text}
    assert read == named or wanted == "trl"  # which is told their directory


@pytest.mark.parametrize("wanted", [each for each in FORMATS if each != "torchtune"])
def test_tools_that_leave_the_base_its_dropout_say_so(wanted: Format) -> None:
    made = recipe_of_candidate(Request(model="gpt2"), LORA, wanted, None, force=False)
    notes = [each for each in made.notes if "dropout" in each]
    if wanted == "script":
        assert not notes
        assert "attn_pdrop=0.0" in made.files["train.py"]
    else:
        (note,) = notes
        dropped = {"attn_pdrop=0.1", "embd_pdrop=0.1", "resid_pdrop=0.1"}
        assert dropped <= set(re.findall(r"\w+=[\d.]*\d", note))
        assert "where autopeft has 0:" in note
    plain = recipe_of_candidate(Request(model="Llama-3.2-1B"), LORA, wanted, None, force=False)
    assert not [each for each in plain.notes if "dropout" in each]

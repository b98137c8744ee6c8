"""Tests of autopeft/cost/tracing/record.py: what is recorded on fake tensors is what real ones do."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
import torch
from recordings import LASTING, SMALL, UNLIKE, faked, peak_of, real, totals

from autopeft.cost.loops import LOOPS
from autopeft.cost.tape import Category, Phase
from autopeft.cost.tracing.take import Job, Take
from autopeft.methods.registry import METHODS, complete
from autopeft.space.candidate import Candidate, Training
from autopeft.workload.base_model import BaseModel

pytestmark = pytest.mark.usefixtures("spared")

SHAPES = ((2, 8), (2, 16))
# Methods whose code reads a value; the guess is told to the user and widens the band.
GUESSING: dict[str, str] = {
    "cpt": "how many targets a row holds",
    "poly": "the number of the task",
    "vblora": "whether a vector of logits holds an infinity",
    "monteclora": "whether its distributions have the parameters that torch checks",
    "velora": "whether its first batch averages to nothing",
    "waveft": "which of its frequencies are in use",
}
ABSENT = {("llama", "bitfit"): "a Llama has no biases"}
# Of the methods that both models have, these are quick to show on a BERT: they add in place to views.
ON_BERT = ("lora", "full", "adalora", "c3a")


def has(family: str, method: str) -> bool:
    kind, task = ("encoder", "classification") if family == "bert" else ("decoder", "sft")
    spec = METHODS[method]
    return task in spec.tasks and kind in spec.families and (family, method) not in ABSENT


def cases(*, unlike: bool) -> list[Any]:
    """Return families and methods; on a BERT, those that a Llama has too are mostly slow tests."""
    return [
        pytest.param(
            family,
            method,
            marks=[pytest.mark.slow]
            if family == "bert" and has("llama", method) and method not in ON_BERT
            else [],
        )
        for family in ("llama", "bert")
        for method in METHODS
        if has(family, method) and (method in UNLIKE) == unlike
    ]


@pytest.fixture
def bases(tiny_bert: BaseModel, tiny_llama: BaseModel) -> dict[str, BaseModel]:
    small = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128}
    return {
        base.config["model_type"]: base.model_copy(update={"config": base.config | small})
        for base in (tiny_bert, tiny_llama)
    }


def job_for(base: BaseModel, method: str = "lora", *, loop: str = "autopeft", **training: object) -> Job:
    asked = Candidate(
        method=method, knobs=SMALL.get(method, {}), training=Training(max_length=16, **training)
    )
    task = "sft" if base.family == "decoder" else "classification"
    return Job(base, complete(asked), task, 2, "cpu", True, LOOPS[loop], SHAPES)


def assert_same(fake: Take, true: Take) -> None:
    assert totals(fake) == totals(true)
    assert peak_of(fake) == peak_of(true)
    assert [span[:3] for span in fake.spans] == [span[:3] for span in true.spans]
    assert fake.parameters == true.parameters


@pytest.mark.parametrize(("family", "method"), cases(unlike=False))
def test_a_method_does_on_fake_tensors_what_it_does_on_real_ones(
    family: str, method: str, bases: dict[str, BaseModel]
):
    job = job_for(bases[family], method)
    fake = faked(job)
    assert_same(fake, real(job))
    assert bool(fake.guesses) == (method in GUESSING or bool(METHODS[method].preparation))


@pytest.mark.parametrize(("family", "method"), cases(unlike=True))
def test_a_method_that_differs_in_details_has_as_many_parameters_and_nearly_the_same_peak(
    family: str, method: str, bases: dict[str, BaseModel]
):
    job = job_for(bases[family], method)
    fake, true = faked(job), real(job)
    for name in LASTING:
        assert totals(fake)[name] == totals(true)[name]
    assert peak_of(fake) == pytest.approx(peak_of(true), rel=UNLIKE[method][1])
    for field in ("elements", "trained", "exported"):
        mine, its = (sum(getattr(each, field) for each in take.parameters) for take in (fake, true))
        assert mine == its


@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_does_on_fake_tensors_what_it_does_on_real_ones(loop: str, bases: dict[str, BaseModel]):
    job = job_for(bases["llama"], loop=loop, precision="bf16", grad_accum=2)
    assert_same(faked(job), real(job))


@pytest.mark.parametrize(
    "training",
    [
        {"gradient_checkpointing": True},
        {"attention": "eager"},
        {"dropout": 0.1},
        {"grad_accum": 3},
        {"loss": "chunked"},
        {"optimizer": "sgd"},
    ],
    ids=str,
)
def test_a_setting_does_on_fake_tensors_what_it_does_on_real_ones(
    training: dict[str, object], bases: dict[str, BaseModel]
):
    job = job_for(bases["llama"], **training)
    assert_same(faked(job), real(job))


def held(bases: dict[str, BaseModel], loop: str) -> dict[str, int]:
    """Return the bytes by category that a LoRA on four bits leaves behind after building, in a loop."""
    job = job_for(bases["llama"], loop=loop, precision="bf16")
    packed = job.candidate.model_copy(update={"quantization": "nf4"})
    take = faked(job._replace(candidate=packed, target="cuda"))
    first = take.spans[1].event
    born, gone = take.events[:first], np.invert(take.events[:first])
    alive = np.setdiff1d(born[born >= 0], gone[gone >= 0])
    return {
        category.name: int(take.sizes[alive][take.categories[alive] == category].sum())
        for category in Category
    }


def test_loops_treat_a_quantised_base_as_their_library_does(bases: dict[str, BaseModel]):
    plain, trainer, trl = (held(bases, loop) for loop in ("autopeft", "trainer", "trl"))
    # transformers' Trainer is used with peft's prepare_model_for_kbit_training, TRL halves the adapter.
    assert trainer["WEIGHTS"] > plain["WEIGHTS"] == trl["WEIGHTS"]
    assert trainer["ADAPTER"] == plain["ADAPTER"] == 2 * trl["ADAPTER"]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_recorded_for_cuda_too(method: str, bases: dict[str, BaseModel]):
    take = faked(job_for(bases["llama" if has("llama", method) else "bert"], method)._replace(target="cuda"))
    assert bool(take.guesses) == (method in GUESSING)
    assert {span.phase for span in take.spans} == set(Phase)


def test_the_tables_name_methods_that_there_are():
    assert {*UNLIKE, *GUESSING, *SMALL} <= set(METHODS)


def test_nothing_but_weights_and_optimizer_state_outlives_a_step_of_autopeft(bases: dict[str, BaseModel]):
    take = faked(job_for(bases["llama"], "full"))
    left = np.setdiff1d(take.events[take.events >= 0], np.invert(take.events[take.events < 0]))
    passing = (Category.SAVED, Category.TEMPORARY, Category.LOGITS, Category.GRADIENTS)
    assert not np.isin(take.categories[left], passing).any()


def test_the_outputs_of_a_loop_that_keeps_them_outlive_its_step(bases: dict[str, BaseModel]):
    take = faked(job_for(bases["llama"], loop="plain"))
    left = np.setdiff1d(take.events[take.events >= 0], np.invert(take.events[take.events < 0]))
    assert Category.LOGITS in take.categories[left]


def test_every_block_dies_once_and_after_its_birth(bases: dict[str, BaseModel]):
    take = faked(job_for(bases["bert"]))
    alive: set[int] = set()
    for event in take.events.tolist():
        if event >= 0:
            assert event not in alive
            alive.add(event)
        else:
            alive.remove(~event)


def test_a_layer_is_known_for_what_is_saved_in_it(bases: dict[str, BaseModel]):
    take = faked(job_for(bases["llama"]))
    counts = [
        int(((take.block_layer == layer) & (take.categories == Category.SAVED)).sum()) for layer in (0, 1)
    ]
    assert min(counts) > 0
    assert set(take.block_layer.tolist()) == {-1, 0, 1}


def test_recording_again_gives_the_same_after_any_garbage(bases: dict[str, BaseModel]):
    first = faked(job_for(bases["bert"]))
    garbage = [[torch.ones(3)] for _ in range(50)]
    garbage[0].append(garbage)  # type: ignore[arg-type]
    del garbage
    gc.collect()
    again = faked(job_for(bases["bert"]))
    assert np.array_equal(again.events, first.events)
    assert np.array_equal(again.sizes, first.sizes)
    assert again.operators == first.operators


def test_shims_are_undone_after_a_recording(bases: dict[str, BaseModel]):
    before = torch.nn.Module._apply, torch.nn.functional.scaled_dot_product_attention
    faked(job_for(bases["bert"])._replace(target="cuda", padded=False))
    assert before == (torch.nn.Module._apply, torch.nn.functional.scaled_dot_product_attention)

"""The overview: which known models fit, how to train them, and how far that goes."""

from __future__ import annotations

import time

import pytest
from linear_cost import LinearCost

from autopeft.journey.inputs import any_gpu
from autopeft.journey.overviewing import USUAL, judge_catalogue
from autopeft.plan.budget import Budget
from autopeft.plan.overview import ModelRow
from autopeft.plan.plan import Fits, Rejected
from autopeft.request import Request
from autopeft.workload.models import find_model, list_models


def overview(
    memory: str, *, all_models: bool = False, **fields: object
) -> tuple[dict[str, ModelRow], LinearCost]:
    cost = LinearCost()
    request = Request(budget=Budget(gpu_mem=memory), **fields)
    profile = any_gpu(request.budget.gpu_mem or 0)
    rows = judge_catalogue(request, profile, cost, lambda *_: None, all_models=all_models)
    return {row.model: row for row in rows}, cost


@pytest.fixture(scope="module")
def rows() -> dict[str, ModelRow]:
    return overview("8GB")[0]


def test_usual_models_are_in_the_catalogue_from_a_few_million_to_hundreds_of_billions() -> None:
    known = {base.name: base.parameters or 0 for base in list_models()}
    assert set(USUAL) <= set(known)
    sizes = sorted(known[name] for name in USUAL)
    assert sizes[0] < 30e6
    assert sizes[-1] > 400e9


def test_each_model_is_held_against_the_budget_in_full_with_lora_and_in_four_bits(rows) -> None:
    assert set(rows) == set(USUAL)
    assert [option.name for option in rows["Qwen3-0.6B"].options] == ["full", "lora", "lora nf4-dq"]
    assert rows["Qwen3-0.6B"].fits


def test_the_largest_batch_and_the_longest_row_fit_and_more_does_not(rows) -> None:
    # The linear model: 1 GiB, 100 MiB a row of 512 tokens, and the context.
    option = rows["Llama-3.2-1B"].options[1]
    assert isinstance(option.verdict, Fits)
    assert option.largest_batch
    assert option.longest_row
    assert option.verdict.candidate.training.batch_size <= option.largest_batch
    assert option.longest_row % 128 == 0
    assert abs(option.longest_row - min(131072, 512 * option.largest_batch)) <= 1024


def test_a_short_model_ends_at_its_own_length(rows) -> None:
    assert {option.longest_row for option in rows["bert-base-uncased"].options} == {512}


def test_what_its_weights_make_too_large_is_refused_without_costing_it() -> None:
    rows, cost = overview("8GB")
    assert "Llama-3.1-405B" not in {name for name, _ in cost.asked}
    refusal = rows["Llama-3.1-405B"].refusal
    assert isinstance(refusal, Rejected)
    assert "packed weights (nf4-dq) alone take 189 GiB, the limit is 8 GB (7.45 GiB)" in refusal.reason
    seven = rows["Mistral-7B-v0.3"]
    assert [option.largest_batch == 0 for option in seven.options] == [True, True, False]


def test_weights_that_leave_too_little_for_the_context_are_told_with_it() -> None:
    packed = (find_model("Qwen3-0.6B").parameters or 0) // 2
    rows, _ = overview(f"{packed + 10**6}B")
    refusal = rows["Qwen3-0.6B"].refusal
    assert refusal is not None
    assert refusal.reason.startswith("its packed weights (nf4-dq) and a context of ")


def test_a_batch_that_was_asked_for_is_judged_as_it_is() -> None:
    rows, _ = overview("8GB", batch_size=500)
    assert not rows["Llama-3.2-1B"].fits
    assert rows["Llama-3.2-1B"].options[1].largest_batch


@pytest.mark.parametrize(
    ("memory", "fields", "what"),
    [("10MB", {}, "one row at a time"), ("8GB", {"batch_size": 500}, "a batch of 500")],
)
def test_where_nothing_fits_the_smallest_model_says_with_how_much_memory_it_would(
    memory: str, fields: dict[str, int], what: str
) -> None:
    smallest, *others = overview(memory, **fields)[0].values()
    assert not any(row.fits for row in (smallest, *others))
    assert smallest.refusal is not None
    said, _, enough = smallest.refusal.way_out.partition(" fits with ")
    assert said == what
    assert overview(enough, **fields)[0][smallest.model].fits


def test_where_memory_is_not_what_is_short_no_amount_of_it_is_named() -> None:
    request = Request(budget=Budget(gpu_mem="10MB", params=0.0001))
    smallest, *_ = judge_catalogue(request, any_gpu(10**7), LinearCost(), lambda *_: None)
    assert smallest.refusal is not None
    assert smallest.refusal.way_out == ""


def test_all_models_means_the_catalogue() -> None:
    rows, _ = overview("1GB", all_models=True)
    assert len(rows) > 2 * len(USUAL)


def test_after_an_interrupt_nobody_asks_for_more() -> None:
    class SlowCost(LinearCost):
        def estimate_many(self, *args, **kwargs):
            time.sleep(0.05)
            return super().estimate_many(*args, **kwargs)

    def interrupt(what: str, done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    request = Request(budget=Budget(gpu_mem="8GB"))
    cost = SlowCost()
    with pytest.raises(KeyboardInterrupt):
        judge_catalogue(request, any_gpu(8 * 10**9), cost, interrupt)
    time.sleep(0.5)
    asked = len(cost.asked)
    time.sleep(0.5)
    assert len(cost.asked) == asked
    assert len({name for name, _ in cost.asked}) < len(USUAL)


def test_where_not_even_one_row_fits_the_reason_is_that_of_one_row() -> None:
    rows, _ = overview("700MB")
    refusal = rows["SmolLM2-135M"].refusal
    assert refusal is not None
    assert refusal.candidate.training.batch_size == 1

"""Questions become answers, many at once, in their order, and a bad one never stops the others."""

from __future__ import annotations

import dataclasses
import json
import queue
from collections.abc import Iterator
from pathlib import Path

import pytest
from linear_cost import LinearCost

from autopeft.errors import InputError
from autopeft.hardware.catalog import load_profile
from autopeft.hardware.profile import HardwareProfile
from autopeft.journey.answering import Answering
from autopeft.journey.explaining import explain
from autopeft.journey.posing import Poser
from autopeft.plan.question import Question
from autopeft.units import GIB, MIB

KEYS = {
    *("question", "way_out"),
    *("status", "reason", "fits", "memory", "trainable_params", "adapter_file_bytes"),
    *("max_batch_size", "provenance", "spread", "cost", "cost_reason", "time"),
}
MEMORY_KEYS = {
    *("allocated_peak_bytes", "reserved_peak_bytes", "device_peak_bytes", "low_bytes", "high_bytes"),
    *("parts", "peak_phase"),
}


@pytest.fixture
def cost() -> LinearCost:
    return LinearCost()


@pytest.fixture
def answering(cost: LinearCost, tmp_path: Path) -> Answering:
    def measured() -> HardwareProfile:
        raise InputError("this machine is not measured in tests")

    return Answering(poser=Poser(tmp_path, measured), cost_model=cost)


def question(**fields: object) -> Question:
    return Question.build(**{"model": "SmolLM2-135M"} | fields)


def test_an_answer_has_the_published_keys_and_its_parts_sum_to_the_allocated_peak(answering) -> None:
    (answer,) = answering.answers([question(gpu="l40s")])
    shown = json.loads(answer.model_dump_json())
    assert set(shown) == KEYS
    assert set(shown["memory"]) == MEMORY_KEYS
    memory = shown["memory"]
    assert sum(memory["parts"].values()) == memory["allocated_peak_bytes"]
    assert memory["low_bytes"] <= memory["reserved_peak_bytes"] <= memory["high_bytes"]
    assert memory["high_bytes"] - memory["reserved_peak_bytes"] == 10 * MIB
    assert memory["device_peak_bytes"] - memory["reserved_peak_bytes"] == 512 * MIB
    assert {"kind", "versions", "guesses"} <= set(shown["provenance"])
    assert (shown["status"], shown["reason"], shown["fits"]) == ("ok", None, True)


def test_a_refusal_has_the_same_keys(answering) -> None:
    (answer,) = answering.answers([InputError("no question at all")])
    shown = json.loads(answer.model_dump_json())
    assert set(shown) == KEYS
    assert (shown["status"], shown["reason"], shown["fits"]) == ("error", "no question at all", None)


# One row takes 1 GiB of weights, 100 MiB, 1 MiB of cache and 512 MiB of context, 10 MiB more or less.
EXPECTED = GIB + (100 + 1 + 512) * MIB + 8 * 16


@pytest.mark.parametrize(
    ("limit", "fits", "words", "largest"),
    [
        (EXPECTED + 10 * MIB, True, None, 1),
        (EXPECTED + 10 * MIB - 1, False, "may reach", 0),
        (EXPECTED - 1, False, "is above the limit", 0),
        (EXPECTED + 110 * MIB, True, None, 2),
        (16 * 10**9, True, None, 137),
    ],
)
def test_the_upper_end_of_the_band_with_context_decides(
    answering: Answering, limit: int, fits: bool, words: str | None, largest: int
) -> None:
    (answer,) = answering.answers([question(gpu_mem=limit)])
    assert answer.fits is fits
    assert answer.max_batch_size == largest
    assert (words is None and answer.reason is None) or words in str(answer.reason)


def test_without_a_limit_nothing_is_said_to_fit(answering: Answering) -> None:
    (answer,) = answering.answers([question()])
    assert (answer.status, answer.fits, answer.max_batch_size) == ("ok", None, None)


def test_the_lower_of_two_limits_counts(answering: Answering) -> None:
    small, large = answering.answers([question(gpu="t4", gpu_mem="2GB"), question(gpu="t4", gpu_mem="99GB")])
    assert small.limit_bytes == 2 * 10**9
    assert large.limit_bytes is not None
    assert large.limit_bytes < 16 * GIB


def test_the_length_is_512_or_the_models_limit_or_that_of_the_longest_row(answering: Answering) -> None:
    pose = answering.poser.pose
    assert pose(question()).workload.lengths.longest == 512
    assert pose(question(model="all-MiniLM-L6-v2")).workload.lengths.longest <= 512
    described = pose(question(lengths={"50": 20, "100": 100}))
    assert described.candidate.training.max_length == 100
    assert pose(question(lengths=[20, 100], seq_len=64)).candidate.training.max_length == 64
    with pytest.raises(InputError, match="at most 8192"):
        pose(question(seq_len=100_000))


def test_padding_is_made_or_taken_away_where_it_is_given(answering: Answering) -> None:
    pose = answering.poser.pose
    assert len(set(pose(question(padding=True)).workload.lengths.percentiles)) == 2
    assert set(pose(question(padding=False, lengths=[3, 9])).workload.lengths.percentiles) == {9}


@pytest.mark.parametrize(
    "details", [{"above": -1}, {"below": 2}, {"logits_chunk": -5}, {"empties_cache_every": -1}]
)
def test_a_detail_out_of_range_is_refused(answering: Answering, details: dict[str, float]) -> None:
    (answer,) = answering.answers([question(details=details)])
    assert answer.status == "error"
    assert next(iter(details)) in (answer.reason or "")


def test_devices_of_one_name_are_told_apart(answering: Answering, cost: LinearCost, tmp_path: Path) -> None:
    faster = load_profile("l4").model_dump(mode="json") | {"bandwidth_bytes_per_second": 1e14}
    file = tmp_path / "fast.yaml"
    file.write_text(json.dumps(faster))
    once = dataclasses.replace(answering, batches=False)
    once.answers([question(gpu="l4"), question(gpu=str(file))])
    assert cost.asked == [("SmolLM2-135M", 1)] * 2


def test_what_is_assumed_of_libraries_widens_the_band(answering: Answering) -> None:
    sure, unsure = answering.answers([question(), question(versions={"torch": "0.1", "peft": "0.1"})])
    assert sure.memory is not None
    assert unsure.memory is not None
    assert unsure.memory.high_bytes > sure.memory.high_bytes
    assert unsure.memory.low_bytes < sure.memory.low_bytes


def test_names_are_known_in_any_usual_spelling(answering: Answering) -> None:
    candidate = answering.poser.pose(
        question(model="smollm2-135m", method="Prompt-Tuning", optimizer="AdamW_8bit", gpu="RTX 4090")
    ).candidate
    assert (candidate.method, candidate.training.optimizer) == ("prompt_tuning", "adamw-8bit")


def test_other_versions_than_those_installed_are_a_guess(answering: Answering) -> None:
    (answer,) = answering.answers([question(versions={"torch": "0.1", "no-such-library": "9"})])
    assert answer.provenance is not None
    assert [guess.split()[0] for guess in answer.provenance.guesses] == ["torch", "no-such-library"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model": "SmolLM2-136M"}, "SmolLM2-135M"),
        ({"model": "."}, "config.json"),
        ({"method": "lorra"}, "lora"),
        ({"quantization": "nf5"}, "nf5"),
        ({"optimizer": "adamv"}, "adamw"),
        ({"loop": "trianer"}, "trainer"),
        ({"details": {"clip": True}}, "clips"),
        ({"gpu": "l40z"}, "l40s"),
        ({"gpu": "this-machine"}, "not measured"),
        ({"seq_len": 9000}, "8192"),
        ({"layers": "0-30"}, "0 to 29"),
        ({"layers": [40]}, "0 to 29"),
        ({"layers": "20-4"}, "lower end"),
        ({"method": "probe", "rank": 4}, "rank"),
        ({"knobs": {"alpha_ratio": 666}}, "ZeroDivisionError"),
    ],
)
def test_a_bad_row_is_an_error_and_the_others_are_answered(
    answering: Answering, fields: dict[str, object], words: str
) -> None:
    before, bad, after = answering.answers([question(), question(**fields), question(rank=4)])
    assert (before.status, bad.status, after.status) == ("ok", "error", "ok"), bad
    assert words in str(bad.reason)
    assert "\n" not in str(bad.reason)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "llama", "hidden_size": "big"},
        {"model_type": "llama", "num_hidden_layers": 10**9},
        {"model_type": "no-such-model"},
        {"model_type": "llama", "max_position_embeddings": "long"},
        [],
        {},
    ],
    ids=str,
)
def test_a_config_that_lies_is_an_error_of_its_row(
    answering: Answering, tmp_path: Path, config: object
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    bad, good = answering.answers([question(model=str(tmp_path)), question()])
    assert (bad.status, good.status) == ("error", "ok")


def test_what_is_valid_but_cannot_be_told_is_unsupported(answering: Answering) -> None:
    (answer,) = answering.answers([question(quantization="int8", gpu_mem="16GB")])
    assert (answer.status, answer.fits, answer.reason) == ("unsupported", None, "int8 is not for this test")


def test_rows_that_share_a_model_are_costed_together(answering: Answering, cost: LinearCost) -> None:
    rows = [question(rank=rank, model=model) for rank in (4, 8, 16) for model in ("SmolLM2-135M", "gpt2")]
    assert all(answer.status == "ok" for answer in answering.answers(rows))
    assert sorted(cost.asked) == [("SmolLM2-135M", 3), ("gpt2", 3)]


def test_largest_batches_are_sought_side_by_side(answering: Answering, cost: LinearCost) -> None:
    rows = [question(rank=rank, gpu_mem="16GB") for rank in range(1, 21)]
    assert {answer.max_batch_size for answer in answering.answers(rows)} == {137}
    assert len(cost.asked) <= 6


def test_a_stream_answers_what_has_come_before_more_is_there(answering: Answering) -> None:
    source: queue.Queue[Question | None] = queue.Queue()

    def rows() -> Iterator[Question]:
        while (row := source.get(timeout=20)) is not None:
            yield row

    answers = answering.stream(rows())
    for rank in (4, 8):
        source.put(question(rank=rank))
        assert next(answers).trainable_params == rank
    source.put(None)
    assert list(answers) == []


def test_a_long_stream_keeps_its_order(answering: Answering) -> None:
    rows = [question(rank=rank) if rank % 3 else InputError(str(rank)) for rank in range(1, 300)]
    told: list[int] = []
    answers = list(answering.stream(rows, told.append))
    found = [answer.trainable_params or int(str(answer.reason)) for answer in answers]
    assert found == list(range(1, 300))
    assert told[-1] == 299


def test_trouble_with_the_source_is_not_swallowed(answering: Answering) -> None:
    def rows() -> Iterator[Question]:
        yield question()
        raise OSError(5, "the file is gone")

    answers = answering.stream(rows())
    assert next(answers).status == "ok"
    with pytest.raises(OSError, match="gone"):
        next(answers)


def test_an_explanation_says_what_each_switch_saves(answering: Answering) -> None:
    made = explain(question(batch_size=4, gpu_mem="1.9GB"), answering)
    saved = {switch.name: switch.saved_bytes for switch in made.switches}
    assert saved["gradient checkpointing"] == 320 * MIB
    assert saved["weights in nf4"] == 768 * MIB
    assert saved["half the length (256)"] == saved["half the batch (2)"] == 200 * MIB
    assert saved["twice the batch (8)"] == -400 * MIB
    assert saved["loop trainer"] == saved["with converts_outputs"] == -50 * MIB
    unsupported = {switch.name: switch.answer for switch in made.switches}["weights in int8"]
    assert (unsupported.status, saved["weights in int8"]) == ("unsupported", None)
    assert {switch.answer.fits for switch in made.switches} == {True, False, None}


def test_the_loop_and_its_details_reach_the_cost_model(answering: Answering) -> None:
    rows = [question(loop="TRL"), question(loop="trl", details={"converts_outputs": False}), question()]
    other = [answer.memory.parts["other"] for answer in answering.answers(rows) if answer.memory]
    assert other == [50 * MIB, 0, 0]
    pose = answering.poser.pose
    assert pose(question(loop="trl-2026")).candidate.training.loss == "fused"
    for loss in ("standard", "chunked"):
        assert pose(question(loop="trl-2026", loss=loss)).candidate.training.loss == loss
    assert answering.poser.pose(question(loop="hf_trainer")).candidate.training.optimizer == "adamw-fused"


def test_an_explanation_of_a_bad_question_is_its_error(answering: Answering) -> None:
    made = explain(question(method="lorra"), answering)
    assert (made.answer.status, made.switches) == ("error", ())


def test_an_answer_echoes_the_fields_that_were_asked_and_no_others(answering) -> None:
    asked = Question.build(model="Llama-3.2-1B", gpu="l40s", rank=8)
    first, second = answering.answers([asked, InputError("line 2: no question")])
    assert first.question == {"model": "Llama-3.2-1B", "gpu": "l40s", "rank": 8}
    assert second.question is None


def test_what_a_method_does_before_it_trains_is_not_counted_so_nobody_says_that_it_fits(answering) -> None:
    fish, far_too_large, unlimited = answering.answers(
        [
            question(method="fish", gpu="l40s"),
            question(method="fish", gpu="l40s", batch_size=2**12),
            question(method="fish"),
        ]
    )
    assert (fish.status, fish.fits) == ("ok", None)
    assert str(fish.reason).startswith("its preparation is not counted")
    assert far_too_large.fits is False
    assert unlimited.fits is None

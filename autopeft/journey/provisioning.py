"""From a Demand to its Capacity: every cell is a question, answered as any other.

A model and a method are traced once; that trace serves every device, batch and number of devices.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from autopeft.cost.loops import find_loop
from autopeft.errors import AutopeftError
from autopeft.hardware.catalog import load_profile, profile_folders
from autopeft.hardware.prices import price_of
from autopeft.journey.answering import Answering
from autopeft.plan.answer import Answer
from autopeft.plan.capacity import Capacity, Cell, Demand, Way, fleet_of, with_front
from autopeft.plan.question import Question
from autopeft.units import SECONDS_AN_HOUR

Progress = Callable[[str, int, int], None]


class _Asked(NamedTuple):
    """A cell's question; its batch is changed where it does not fit."""

    way: Way
    question: Question


def provision(demand: Demand, answering: Answering, progress: Progress) -> Capacity:
    """Answer a demand.

    Raises:
        InputError: a model, method, quantisation, device or provider is unknown.
    """
    price_of("", provider=demand.tariff.provider)
    find_loop(demand.loop)
    for gpu in demand.gpus:
        load_profile(gpu, profile_folders(answering.poser.workspace))
    for way in demand.ways:
        answering.poser.way(way.method, way.quantization)
    for model in demand.models:
        answering.poser.model(model)
    cells: list[Cell] = []
    configurations: dict[str, str] = {}
    kinds = [(model, way) for model in demand.models for way in demand.ways]
    for done, (model, way) in enumerate(kinds):
        progress(f"costing {model} {way.name}", done, len(kinds))
        asked = [
            _Asked(way, _question(demand, model, way, gpu, count))
            for gpu in demand.gpus
            for count in demand.counts
        ]
        cells += _cells(asked, demand, answering)
        with contextlib.suppress(AutopeftError):  # its cells say why
            configurations[way.name] = answering.poser.pose(asked[0].question).candidate.form
    progress("done", len(kinds), len(kinds))
    return Capacity(demand=demand, cells=with_front(tuple(cells)), configurations=configurations)


def _question(demand: Demand, model: str, way: Way, gpu: str, count: int) -> Question:
    spread = demand.spread(count)
    return Question.build(
        model=model,
        method=way.method,
        quantization=way.quantization,
        rank=None if way.method == "full" else demand.rank,
        batch_size=demand.batch_size,
        seq_len=demand.seq_len,
        grad_accum=demand.grad_accum,
        gradient_checkpointing=demand.gradient_checkpointing,
        loop=demand.loop,
        examples=demand.examples,
        epochs=demand.epochs,
        gpu=gpu,
        gpus=count,
        sharding=spread.sharding,
        offload=spread.offload,
        price=demand.tariff.price,
        provider=demand.tariff.provider,
        grid_factor=demand.tariff.grid_factor,
    )


def _cells(asked: Sequence[_Asked], demand: Demand, answering: Answering) -> list[Cell]:
    """Answer questions of one kind: first how many rows fit, then again those whose rows do not."""
    answers = answering.answers([each.question for each in asked])
    smaller = {
        place: each.question.model_copy(update={"batch_size": max(1, answer.max_batch_size)})
        for place, (each, answer) in enumerate(zip(asked, answers, strict=True))
        if answer.max_batch_size is not None and answer.max_batch_size < each.question.batch_size
    }
    fixed = Answering(poser=answering.poser, cost_model=answering.cost_model, batches=False)
    again = dict(zip(smaller, fixed.answers(list(smaller.values())), strict=True))
    return [
        _cell(each.way, smaller.get(place, each.question), again.get(place, answer), answer, demand)
        for place, (each, answer) in enumerate(zip(asked, answers, strict=True))
    ]


def _cell(way: Way, question: Question, answer: Answer, first: Answer, demand: Demand) -> Cell:
    """Turn an answer into a cell; `first` is that for the batch wished for, which knows the largest."""
    spread = demand.spread(question.gpus)
    cell = Cell(
        model=question.model,
        way=way.name,
        gpu=str(question.gpu),
        spread=spread,
        fits=answer.fits if answer.status == "ok" else None,
        reason=answer.reason,
        batch=question.batch_size,
        max_batch=first.max_batch_size,
        memory=answer.memory,
        limit_bytes=answer.limit_bytes,
    )
    time, run = answer.time, answer.run
    if time is None or run is None or not answer.fits:
        return cell
    slow, fast = time.high_seconds / time.step_seconds, time.low_seconds / time.step_seconds
    hours, usd = run.total / SECONDS_AN_HOUR, answer.cost.usd if answer.cost else None
    return cell.model_copy(
        update={
            "step_seconds": time.step_seconds,
            "lower_seconds": time.lower_seconds,
            "upper_seconds": time.upper_seconds,
            "bound": time.bound,
            "tokens": answer.tokens,
            "tokens_per_second": time.tokens_per_second,
            "hours": hours,
            "low_hours": (run.total + (fast - 1) * run.computed_seconds) / SECONDS_AN_HOUR,
            "high_hours": (run.total + (slow - 1) * run.computed_seconds) / SECONDS_AN_HOUR,
            "cost": answer.cost,
            "cost_reason": answer.cost_reason,
            "fleet": fleet_of(hours, usd, demand, spread.gpus),
        }
    )

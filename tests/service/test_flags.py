"""A body may say things as the command line's flags are called."""

from __future__ import annotations

from typing import Any

import pytest

from autopeft.errors import InputError
from autopeft.message import Message
from autopeft.plan.capacity import Demand
from autopeft.service.contract import document
from autopeft.service.flags import demand_fields, recipe_fields
from autopeft.service.replies import strictly
from tests.service.conftest import MODEL


def test_a_demand_by_flags_is_that_of_the_library() -> None:
    said = {"models": [MODEL], "seq_len": 512, "batch_size": 8}
    flags = {
        "methods": ["lora", "dora+nf4"],
        "gpu": ["l4", "h100-sxm"],
        "gpus": [1, 4],
        "tokens": "50M",
        "price": 2.0,
        "grid_factor": 0.3,
    }
    here = Demand.of(
        **said,
        methods=flags["methods"],
        gpus=flags["gpu"],
        counts=(1, 4),
        tokens=50_000_000,
        price=2.0,
        grid_factor=0.3,
    )
    assert strictly(Demand, demand_fields(said | flags)) == here
    assert demand_fields(said | {"gpus": ["l4"], "counts": [2]})["gpus"] == ["l4"]


@pytest.mark.parametrize(
    "twice",
    [
        {"methods": ["lora"], "ways": ["lora"]},
        {"gpu": ["l4"], "gpus": ["l4"]},
        {"gpus": [1], "counts": [1]},
        {"tokens": 1000, "seq_len": 10, "examples": 100},
        {"price": 1.0, "tariff": {"price": 2.0}},
    ],
)
def test_what_is_said_by_both_names_is_refused(service, twice) -> None:
    reply = service.post("/api/v1/capacity", json={"models": [MODEL]} | twice)
    assert reply.status_code == 422
    assert "both say the same" in reply.json()["detail"]


@pytest.mark.parametrize("body", [{"methods": "lora"}, {"gpu": [1]}, {"tokens": True}, {"gpus": ["l4", 4]}])
def test_flags_of_another_type_are_refused(service, body) -> None:
    reply = service.post("/api/v1/capacity", json={"models": [MODEL], "seq_len": 512} | body)
    assert reply.status_code == 422, reply.text


def test_a_budget_may_stand_beside_what_it_limits(open_service) -> None:
    service = open_service(rate=0, slots=0)
    nested, flat, both = (
        service.post("/api/v1/jobs", json={"demo": "classification"} | said).json()["request"]
        for said in (
            {"budget": {"time": "10min", "trials": 2}},
            {"time": "10min", "trials": 2},
            {"time": "10min", "budget": {"trials": 2}},
        )
    )
    assert nested == flat == both
    assert (flat["budget"]["time"], flat["budget"]["trials"]) == (600, 2)
    twice = {"demo": "classification", "time": "10min", "budget": {"time": "1h"}}
    assert "both say" in service.post("/api/v1/jobs", json=twice).json()["detail"]


def test_a_recipe_may_be_asked_for_by_the_flags_of_a_configuration() -> None:
    flags = {"model": MODEL, "format": "trl", "method": "qlora", "rank": 8, "seq_len": 1024}
    assert recipe_fields(flags) == {
        "format": "trl",
        "question": {"model": MODEL, "method": "qlora", "rank": 8, "seq_len": 1024},
    }
    asked = {"model": MODEL, "candidate": {"method": "lora"}, "seed": 3}
    assert recipe_fields(asked) == asked
    for wrong in ({"rank": 8}, {"method": "lora", "question": {"method": "lora"}}):
        with pytest.raises(InputError):
            recipe_fields(wrong)


def test_methods_are_filtered_by_the_flags_name(service) -> None:
    reply = service.get("/api/v1/methods?merges=true&limit=1000").json()
    assert 0 < reply["total"] < service.get("/api/v1/methods").json()["total"]
    assert all(each["mergeable"] for each in reply["items"])


def test_every_example_of_the_document_is_one_that_is_taken(service) -> None:
    schemas = document(service.app.app)["components"]["schemas"]
    examples: dict[str, Any] = {
        name: each["examples"][0] for name, each in schemas.items() if "examples" in each
    }
    assert set(examples) >= {"Question", "Demand", "RecipeRequest"}
    for name, example in examples.items():
        assert set(example) <= set(schemas[name]["properties"]), name
    made: Message = strictly(Demand, demand_fields(examples["Demand"]))
    assert made == Demand.of(**examples["Demand"])

"""What there is: lists in pages, with entity tags."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from autopeft import inventory
from autopeft.workload.base_model import BaseModel


@pytest.mark.parametrize("kind", ["models", "methods", "gpus", "spaces"])
def test_a_list_comes_in_pages_that_add_up_to_all_of_it(service, kind) -> None:
    found, place = [], f"/api/v1/{kind}?limit=3"
    for _ in range(200):
        page = service.get(place).json()
        found += [item["name"] for item in page["items"]]
        if page["next"] is None:
            break
        place = page["next"]
    assert len(found) == page["total"] == len(set(found)) > 3


@pytest.mark.parametrize("kind", ["models", "methods", "gpus", "spaces"])
def test_one_of_a_list_is_what_the_list_says(service, kind) -> None:
    first = service.get(f"/api/v1/{kind}?limit=1").json()["items"][0]
    assert service.get(f"/api/v1/{kind}/{first['name']}").json() == first


def test_models_are_found_as_they_are_typed(service) -> None:
    found = service.get("/api/v1/models?q=LLAMA 8b").json()["items"]
    assert found
    assert all("llama" in one["name"].lower() and "8b" in one["name"].lower() for one in found)


def test_methods_are_filtered(service) -> None:
    names = [one["name"] for one in service.get("/api/v1/methods?served_by=vllm&limit=1000").json()["items"]]
    assert names == [spec.name for spec in inventory.methods(served_by="vllm")]


def test_what_a_client_has_already_is_not_sent_again(service) -> None:
    first = service.get("/api/v1/gpus")
    again = service.get("/api/v1/gpus", headers={"if-none-match": first.headers["etag"]})
    assert again.status_code == 304
    assert again.content == b""
    other = service.get("/api/v1/gpus?limit=1", headers={"if-none-match": first.headers["etag"]})
    assert other.status_code == 200


def test_a_device_that_is_added_can_be_planned_for_and_changes_the_tag(service) -> None:
    before = service.get("/api/v1/gpus").headers["etag"]
    profile = service.get("/api/v1/gpus/l4").json() | {"name": "ours", "usable_bytes": 10**9}
    assert service.put("/api/v1/gpus/ours", json=profile).status_code == 200
    assert service.get("/api/v1/gpus").headers["etag"] != before
    question = {"model": "Llama-3.2-1B", "gpu": "ours", "seq_len": 512, "gradient_checkpointing": True}
    assert service.post("/api/v1/estimate", json=question).json()["fits"] is False


def test_a_device_cannot_be_written_elsewhere(service, tmp_path) -> None:
    profile = service.get("/api/v1/gpus/l4").json()
    for name in ("..%2F..%2Fevil", ".hidden"):
        reply = service.put(f"/api/v1/gpus/{name}", json=profile | {"name": name.replace("%2F", "/")})
        assert reply.status_code in (404, 422)
    assert {file.name for file in tmp_path.rglob("*.yaml")} == set()


def test_the_doctor_says_how_the_installation_is(service) -> None:
    checks = {check["name"]: check for check in service.get("/api/v1/doctor").json()}
    assert checks["torch"]["state"] == "ok"


def test_the_services_own_models_come_first_and_say_nothing_of_where_they_lie(
    open_service: Callable[..., TestClient], tmp_path: Path, encoder_with_weights: BaseModel
) -> None:
    shelf = tmp_path / "shelf"
    shutil.copytree(str(encoder_with_weights.path), shelf / "ours")
    (shelf / "gpt2").mkdir()
    (shelf / "gpt2" / "config.json").write_text("no json")
    service = open_service(rate=0, models=(shelf,))
    first, *others = service.get("/api/v1/models").json()["items"]
    assert first["name"] == "ours"
    assert "ours" not in [each["name"] for each in others]
    assert service.get("/api/v1/models?q=ou rs").json()["items"] == [first]
    assert service.get("/api/v1/models/ours").json() == first
    broken = service.get("/api/v1/models/gpt2")
    assert (broken.status_code, "config.json" in broken.text) == (422, True), broken.text
    assert str(shelf) not in json.dumps(first) + broken.text

"""A bundle whose files were changed or cut short is refused, and what could run code is never read."""

from __future__ import annotations

from pathlib import Path

import pytest

from autopeft.errors import BundleError, ConfigError, InputError
from autopeft.export.bundle import Bundle
from autopeft.export.opening import checksums, open_bundle
from autopeft.plan.budget import Budget
from autopeft.space.candidate import Candidate
from autopeft.train.result import TrialResult
from autopeft.workload.tasks import ACCURACY

FIELDS = {
    "path": "bundle",
    "format": "peft",
    "model": "tiny",
    "task": "classification",
    "head": "AutoModelForSequenceClassification",
    "labels": ("bad", "good"),
    "candidate": Candidate(method="lora"),
    "budget": Budget(),
    "predicted": None,
    "measured": TrialResult(state="complete", reports=()),
    "metric": ACCURACY,
    "test_score": 0.5,
    "low": 0.4,
    "high": 0.6,
    "data": "rows",
    "data_fingerprint": "0",
    "seed": 0,
    "study": "study",
    "trial": 0,
    "versions": {},
}
BNB = "from transformers import BitsAndBytesConfig\n"
CONFIG = ', quantization_config=BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=["head"])'


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "adapter_model.safetensors").write_bytes(bytes(range(200)))
    (tmp_path / "adapter_config.json").write_text("{}")
    Bundle(**FIELDS, files=checksums(tmp_path)).keep(tmp_path / "autopeft.json")
    return tmp_path


def test_a_whole_bundle_is_opened(place: Path) -> None:
    assert open_bundle(place).path == str(place)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda file: file.unlink(), "adapter_model.safetensors is missing"),
        (lambda file: file.write_bytes(b""), "adapter_model.safetensors is empty"),
        (lambda file: file.write_bytes(file.read_bytes()[:-1]), "has another checksum"),
        (lambda file: file.write_bytes(b"\x01" + file.read_bytes()[1:]), "has another checksum"),
        (
            lambda file: (file.parent / "adapter_model.bin").touch(),
            "adapter_model.bin is not listed and could",
        ),
    ],
    ids=["missing", "empty", "cut short", "changed", "joined by code"],
)
def test_a_harmed_bundle_is_refused_with_the_reason(place: Path, harm, reason: str) -> None:
    harm(place / "adapter_model.safetensors")
    with pytest.raises(BundleError, match=reason):
        open_bundle(place)


def test_a_manifest_that_was_cut_short_is_refused(place: Path) -> None:
    manifest = place / "autopeft.json"
    manifest.write_bytes(manifest.read_bytes()[:-40])
    with pytest.raises(ConfigError, match=r"autopeft\.json"):
        open_bundle(place)


def test_what_is_no_bundle_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has none"):
        open_bundle(tmp_path)


@pytest.mark.parametrize(
    "changed",
    [
        {"head": "os.system"},
        {"loading": {"x=print(1), num_labels": 2}},
        {"files": {"../outside": "0"}},
        {"packing": ("import os\n", CONFIG)},
        {"packing": ("from os import system\n", ', quantization_config=system("true")')},
        {"packing": (BNB, ', quantization_config=BitsAndBytesConfig(x=print("hello"))')},
        {"packing": (BNB, f"{CONFIG}).to(print(1)")},
        {"packing": (BNB, f"{CONFIG}, trust_remote_code=True")},
        {"license": "mit\nbase_model: other"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_manifest_cannot_smuggle_code_into_what_loads_a_bundle(changed: dict[str, object]) -> None:
    with pytest.raises(InputError):
        Bundle.build(**FIELDS | changed)


@pytest.mark.parametrize("packing", [("", ""), (BNB, CONFIG)])
def test_the_configuration_of_a_packed_base_is_no_such_code(packing: tuple[str, str]) -> None:
    assert Bundle.build(**FIELDS, packing=packing).packing == packing

"""GGUF files are made by llama.cpp's converter; a script with its arguments stands in for it on the PATH."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from autopeft.errors import ExportError
from autopeft.export.bundle import Bundle
from autopeft.export.gguf import require_gguf, write_gguf
from autopeft.export.opening import open_bundle
from autopeft.export.writer import write_bundle
from autopeft.plan.budget import Budget
from autopeft.space.candidate import Candidate, Training
from autopeft.train.result import Report, TrialResult
from autopeft.train.trainer import Trainer
from autopeft.workload.tasks import HELD_OUT_LOSS

REPORT = Report(
    samples=8, step=1, loss=2.0, score=2.0, seconds=1.0, step_seconds=0.1, peak_bytes=10**6, extra={}
)
# The arguments are those of convert_lora_to_gguf.py in llama.cpp, commit 0b03adaa.
CONVERTER = """
import argparse, json, sys
from pathlib import Path
parser = argparse.ArgumentParser()
parser.add_argument("--outfile", type=Path)
parser.add_argument("--outtype", choices=["f32", "f16", "bf16", "q8_0", "auto"], default="f32")
parser.add_argument("--base", type=Path)
parser.add_argument("--base-model-id")
parser.add_argument("lora_path", type=Path)
given = parser.parse_args()
if given.base is not None and not (given.base / "config.json").is_file():
    sys.exit(f"Failed to load base model config: {given.base}")
weights = (given.lora_path / "adapter_model.safetensors").read_bytes()
given.outfile.write_bytes(b"GGUF" + weights)
(Path(__file__).parent / "given.json").write_text(json.dumps(vars(given), default=str))
"""


@pytest.fixture
def converter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stand-in, found on the PATH."""
    place = tmp_path / "bin"
    place.mkdir()
    script = place / "convert_lora_to_gguf.py"
    script.write_text(CONVERTER)
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("LLAMA_CPP", raising=False)
    return script


def an_adapter(place: Path, base: str = "org/tiny") -> Bundle:
    """What is known of a LoRA of a causal model."""
    return Bundle(
        path=str(place),
        format="peft",
        model="tiny",
        base=base,
        task="sft",
        head="AutoModelForCausalLM",
        labels=(),
        candidate=Candidate(
            method="lora", training=Training(learning_rate=1e-2, batch_size=8, max_length=16)
        ),
        budget=Budget(),
        predicted=None,
        measured=TrialResult(state="complete", reports=(REPORT,)),
        metric=HELD_OUT_LOSS,
        test_score=2.0,
        low=1.9,
        high=2.1,
        data="turns",
        data_fingerprint="0" * 64,
        seed=0,
        study="study",
        trial=0,
        versions={},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files of an adapter whose base is one of the Hub."""
    place = tmp_path / "adapter"
    place.mkdir()
    (place / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/tiny"}))
    (place / "adapter_model.safetensors").write_bytes(b"weights")
    return place


def test_the_converters_file_is_part_of_the_bundle(
    converter: Path, decoder_with_weights, turns, tmp_path: Path
) -> None:
    place = tmp_path / "bundle"
    draft = an_adapter(place, decoder_with_weights.path)
    run = Trainer(decoder_with_weights, turns, draft.candidate, seed=0)
    found = require_gguf(draft)
    assert found == converter
    made = write_bundle(draft, run, after=lambda folder, bundle: write_gguf(folder, bundle, found))
    weights = (place / "adapter_model.safetensors").read_bytes()
    assert (place / "adapter.gguf").read_bytes() == b"GGUF" + weights
    assert "adapter.gguf" in made.files
    open_bundle(place)
    given = json.loads((converter.parent / "given.json").read_text())
    assert given["base"] == decoder_with_weights.path
    assert (given["outtype"], given["base_model_id"]) == ("f16", None)


def test_where_the_converter_fails_no_bundle_is_left(
    converter: Path, decoder_with_weights, turns, tmp_path: Path
) -> None:
    draft = an_adapter(tmp_path / "bundle", decoder_with_weights.path)
    run = Trainer(decoder_with_weights, turns, draft.candidate, seed=0)
    converter.write_text("import sys\nsys.exit('Model TinyForCausalLM is not supported')")
    with pytest.raises(
        ExportError, match=r"^convert_lora_to_gguf.py failed: Model TinyForCausalLM is not supported$"
    ):
        write_bundle(draft, run, after=lambda folder, bundle: write_gguf(folder, bundle, converter))
    assert not (tmp_path / "bundle").exists()


def test_a_converter_that_writes_nothing_failed_too(converter: Path, folder: Path) -> None:
    converter.write_text("")
    with pytest.raises(ExportError, match="it ended without a word"):
        write_gguf(folder, an_adapter(folder), converter)


def test_a_base_of_the_hub_is_named_by_its_id(converter: Path, folder: Path) -> None:
    assert write_gguf(folder, an_adapter(folder), converter).read_bytes() == b"GGUFweights"
    given = json.loads((converter.parent / "given.json").read_text())
    assert (given["base"], given["base_model_id"]) == (None, "org/tiny")

"""autopeft methods: one line each, the choice of filters, all about one, and the whole table as JSON."""

from __future__ import annotations

import json

import pytest

from autopeft.methods.lora_variants import LACKING
from autopeft.methods.registry import METHODS


@pytest.mark.parametrize("columns", ["80", "100"])
def test_every_method_is_one_line_within_the_screen(autopeft, monkeypatch, columns) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    lines = autopeft("methods").out.splitlines()
    assert max(map(len, lines)) <= int(columns)
    starts = [line.split()[0] for line in lines if line and not line.startswith(" ")]
    assert set(METHODS) <= set(starts)


def test_a_line_says_what_a_method_works_on_who_serves_it_and_how_much_trains(autopeft) -> None:
    lines = {line.split()[0]: line.split() for line in autopeft("methods").out.splitlines() if line.split()}
    assert lines["lora"][1:6] == ["reparameterised", "DESVAM", "48TGAH", "yes", "hf"]
    assert lines["lora"][6:] == ["vllm", "gguf", "0.0849", "%"]
    assert lines["dora"][5:6] == ["hf"]
    assert lines["full"][-2:] == ["100", "%"]


@pytest.mark.parametrize(
    ("flags", "there", "away"),
    [
        (("--family", "additive"), {"ia3", "bottleneck"}, {"lora", "bitfit"}),
        (("--works-on", "vision"), {"lora", "lst"}, {"prompt_tuning"}),
        (("--quantization", "nf4-dq"), {"lora", "ia3", "prompt_tuning"}, {"full", "hra", "loha"}),
        (("--quantization", "gptq"), {"lora", "adalora", "prompt_tuning"}, {"ia3", "oft"}),
        (("--quantization", "none"), set(METHODS), set()),
        (("--served-by", "vllm"), {"lora", "rslora", "pissa", "full"}, {"dora", "ia3", "bottleneck"}),
        (("--served-by", "llama.cpp", "--merges"), {"lora"}, {"rslora", "full"}),
        (("--merges",), {"lora", "ia3", "fish"}, {"prompt_tuning", "bottleneck"}),
        (("--family", "additive", "--works-on", "vision", "--quantization", "int8"), {"ia3"}, {"cpt"}),
    ],
)
def test_filters_keep_the_methods_that_do_all_of_it(autopeft, flags, there, away) -> None:
    found = {row["name"] for row in json.loads(autopeft("methods", *flags, "--json").out)}
    assert there <= found
    assert not away & found


def test_a_filter_that_nothing_passes_says_so(autopeft) -> None:
    out = autopeft("methods", "--family", "baseline", "--quantization", "nf4").out
    assert out == "No method does all of that; leave out a filter.\n"


@pytest.mark.parametrize(
    ("flag", "name", "words"),
    [
        ("--family", "addditive", "unknown family of methods 'addditive': did you mean additive?"),
        ("--works-on", "visions", "unknown family of models 'visions': did you mean vision?"),
        ("--quantization", "nf5", "unknown quantization 'nf5'"),
        ("--served-by", "vlm", "unknown server 'vlm': did you mean vllm?"),
    ],
)
def test_an_unknown_filter_is_one_line_with_the_nearest(autopeft, flag, name, words) -> None:
    answer = autopeft("methods", flag, name)
    assert answer.code == 2
    assert words in answer.err
    assert answer.err.count("\n") == 1


@pytest.mark.parametrize("name", sorted(METHODS))
def test_all_about_one_method_fits_the_screen_and_names_its_paper_and_knobs(autopeft, name) -> None:
    spec, out = METHODS[name], autopeft("methods", name).out
    assert max(map(len, out.splitlines())) <= 100
    words = " ".join(out.split())
    assert spec.trains in words
    assert spec.paper in words
    assert all(knob in words for knob in spec.knobs)
    assert spec.unpacked_reason in words


def test_all_about_one_method_is_one_json_object_too(autopeft) -> None:
    found = json.loads(autopeft("methods", "lora", "--json").out)
    assert found["name"] == "lora"
    assert found["knobs"]["alpha_ratio"]["default"] == 2.0
    assert set(found["shares"]) == {"Llama-3.1-8B", "bert-base-uncased"}


def test_a_filter_beside_a_name_is_refused(autopeft) -> None:
    answer = autopeft("methods", "lora", "--works-on", "vision")
    assert answer.code == 2
    assert "but got 'lora' and --works-on: leave one of them out" in answer.err


def test_an_unknown_method_is_one_line_with_the_nearest(autopeft) -> None:
    answer = autopeft("methods", "lorra")
    assert answer.code == 2
    assert "unknown method 'lorra'" in answer.err


@pytest.mark.parametrize("name", sorted(LACKING))
def test_a_variant_that_peft_has_and_autopeft_has_not_says_why(autopeft, name) -> None:
    assert name not in METHODS
    answer = autopeft("methods", name)
    assert answer.code == 2
    assert f"{name} is not among autopeft's methods: " in answer.err
    assert answer.err.count("\n") == 1

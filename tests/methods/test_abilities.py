"""What rows say of who serves them and of the share that trains is known of every method, and counted."""

from __future__ import annotations

import subprocess
import sys

import pytest
from counting import share_of

from autopeft.methods.listing import choose_methods
from autopeft.methods.registry import METHODS

USUAL = {"decoder": "Llama-3.1-8B", "encoder": "bert-base-uncased"}


@pytest.mark.parametrize(
    ("method", "model"),
    [("lora", "bert-base-uncased"), ("houlsby", "bert-base-uncased"), ("bitfit", "bert-base-uncased")],
)
def test_a_share_is_what_is_counted_anew(method: str, model: str) -> None:
    """Where this fails, empty `shares.json` to {} and run `shares.py` of experiment 010."""
    assert METHODS[method].shares[model] == share_of(method, model)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "dora", "ia3", "prefix_tuning", "vera", "lst"])
def test_a_share_of_a_large_model_is_what_is_counted_anew(method: str) -> None:
    assert METHODS[method].shares["Llama-3.1-8B"] == share_of(method, "Llama-3.1-8B")


def test_the_share_of_lora_is_that_of_its_formula() -> None:
    """16 rows and columns beside the query (4096 x 4096) and the value (1024 x 4096) of 32 layers."""
    trained = 32 * 16 * ((4096 + 4096) + (4096 + 1024))
    assert METHODS["lora"].shares["Llama-3.1-8B"] == pytest.approx(
        trained / (8_030_261_248 + trained), rel=2e-3
    )


def test_every_method_has_a_share_of_the_usual_model_of_each_family_where_it_trains_anything() -> None:
    for name, spec in METHODS.items():
        for family, model in USUAL.items():
            if family in spec.families and (name, family) != ("bitfit", "decoder"):  # which has no biases
                assert 0 < spec.shares[model] <= 1, name


def test_who_serves_an_adapter_is_said_of_every_method_that_is_saved() -> None:
    for spec in METHODS.values():
        assert ("transformers" in spec.served) == (spec.exports != "none"), spec.name
    assert {spec.name for spec in METHODS.values() if "vllm" in spec.served and spec.exports == "peft"} == {
        *("lora", "rslora", "pissa", "olora", "corda", "lora-ga", "eva", "mica", "orthogonal-lora")
    }
    assert "llama.cpp" not in METHODS["rslora"].served


def test_the_list_of_methods_is_made_without_torch() -> None:
    code = (
        "import sys\nfrom autopeft.methods.listing import choose_methods\nchoose_methods()\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_without_a_filter_all_methods_are_listed_in_their_order() -> None:
    assert [spec.name for spec in choose_methods()] == list(METHODS)

"""Every method keeps its contract on the packed bases that its row names, and on no other."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from contract import Fact

from autopeft.errors import UnsupportedError
from autopeft.methods.quantization.schemes import QUANTIZATIONS, find_quantization
from autopeft.methods.registry import METHODS, require_support
from autopeft.space.candidate import Candidate

pytest.importorskip("bitsandbytes", reason="packed bases need the extra quant")
quantised = pytest.importorskip("quantised")

RESULTS = Path(__file__).parents[2] / "experiments" / "010-methods" / "quantised.json"
FAMILIES = quantised.FAMILIES
PAIRS = [
    (method, family, scheme)
    for scheme in quantised.SCHEMES
    for family in FAMILIES
    for method, spec in METHODS.items()
    if family in spec.families
]
CLAIMED = [pair for pair in PAIRS if find_quantization(pair[2]).packed in METHODS[pair[0]].quantised]
# Those named by hand with both of the usual schemes, the others with one of them in turn.
QUICK = [(method, scheme) for method in ("lora", "dora", "ia3", "bottleneck") for scheme in ("nf4", "int8")]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Keep bitsandbytes from compiling its CPU kernels and from a line for each matrix product."""
    threads, level = torch.get_num_threads(), logging.root.manager.disable
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    with torch.compiler.set_stance("force_eager"):
        yield
    torch.set_num_threads(threads)
    logging.disable(level)


def broken(facts: dict[str, Any]) -> dict[str, str]:
    return {name: fact.note for name, fact in facts.items() if name in quantised.MUST and not fact.holds}


@pytest.mark.parametrize(("method", "scheme"), QUICK)
def test_a_usual_method_trains_saves_and_means_the_same_on_a_packed_decoder(method: str, scheme: str) -> None:
    assert not broken(quantised.examine_packed(method, "decoder", scheme, tape=False))


@pytest.mark.parametrize("method", ["prompt_tuning", "gralora", "hira", "oft"])
def test_other_methods_do_so_on_a_packed_encoder(method: str) -> None:
    assert not broken(quantised.examine_packed(method, "encoder", "int8", tape=False))


@pytest.mark.slow
@pytest.mark.parametrize(("method", "family", "scheme"), CLAIMED)
def test_a_method_keeps_its_contract_on_every_packed_base_that_it_claims(
    method: str, family: Any, scheme: str
) -> None:
    assert not broken(quantised.examine_packed(method, family, scheme))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "scheme"), sorted({(name, scheme) for name, _, scheme in set(PAIRS) - set(CLAIMED)})
)
def test_a_method_fails_on_a_packed_base_that_it_does_not_claim(method: str, scheme: str) -> None:
    """Where this fails, the row says too little: add the scheme to `methods/abilities.py`."""
    families = [family for family in FAMILIES if family in METHODS[method].families]
    assert any(broken(quantised.examine_packed(method, family, scheme, tape=False)) for family in families)


def test_the_committed_table_says_what_is_claimed_of_packed_bases() -> None:
    """Where this fails, `python experiments/010-methods/run.py` fills in what lacks."""
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    for method, family, scheme in PAIRS:
        facts = {name: Fact(*fact) for name, fact in found[f"{method} on {family} in {scheme}"].items()}
        claims = (method, family, scheme) in CLAIMED
        assert not claims or not broken(facts), (method, family, scheme, broken(facts))


@pytest.mark.parametrize("scheme", [name for name in QUANTIZATIONS if name != "none"])
def test_a_method_that_cannot_use_a_packed_base_says_so_in_one_line_before_anything_is_built(
    scheme: str, tiny_llama: Any
) -> None:
    packed = find_quantization(scheme).packed
    assert packed is not None
    for method, spec in METHODS.items():
        task = spec.tasks[0]
        asked = Candidate(method=method, quantization=scheme)
        if packed in spec.quantised:
            require_support(asked, tiny_llama, task)
            continue
        with pytest.raises(UnsupportedError, match=f"{method} does not work on a base in {scheme}: ") as said:
            require_support(asked, tiny_llama, task)
        assert "\n" not in str(said.value)
        assert f"`autopeft methods --quantization {packed}`" in str(said.value)
        assert len(spec.unpacked_reason) > 10

"""Every method keeps its contract on every family of models that it claims, and says why on the others."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from contract import MUST, Fact, examine
from toys import BASES, REASONS, claimed

from autopeft.methods.registry import METHODS

RESULTS = Path(__file__).parents[2] / "experiments" / "010-methods" / "results.json"
CLAIMED = claimed()
# One family of each method in turn; the others take minutes.
QUICK = {
    (method, families[place % len(families)])
    for place, method in enumerate(METHODS)
    for families in [[family for name, family in CLAIMED if name == method]]
}


@pytest.fixture(scope="module", autouse=True)
def spared() -> Iterator[None]:
    """Spare the collector, which every recorded step runs, what is already there; compute on one core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
    torch.set_num_threads(threads)


def assert_kept(method: str, facts: dict[str, Any]) -> None:
    unsaved = {"save/reload", "size"} if METHODS[method].exports == "none" else set()
    broken = {name: fact.note for name, fact in facts.items() if name in MUST and not fact.holds}
    assert set(broken) <= unsaved, broken
    assert facts["merge"].holds or not METHODS[method].mergeable, facts["merge"].note


@pytest.mark.parametrize(("method", "family"), sorted(QUICK))
def test_a_method_keeps_its_contract_on_one_family(method: str, family: Any) -> None:
    assert_kept(method, examine(method, family, tape=False))


@pytest.mark.slow
@pytest.mark.parametrize(("method", "family"), CLAIMED)
def test_a_method_keeps_its_contract_on_every_family_that_it_claims(method: str, family: Any) -> None:
    assert_kept(method, examine(method, family))


def test_what_a_method_does_not_claim_has_a_reason() -> None:
    silent = {name for name in METHODS for family in BASES if (name, family) not in CLAIMED} - set(REASONS)
    assert not silent
    assert set(REASONS) <= {name for name in METHODS if any((name, each) not in CLAIMED for each in BASES)}


def test_the_committed_table_says_what_is_claimed() -> None:
    """Where this fails, `python experiments/010-methods/run.py` fills in the pairs that lack."""
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert set(found) == {f"{method} on {family}" for method in METHODS for family in BASES}
    for method, family in CLAIMED:
        assert_kept(method, {name: Fact(*fact) for name, fact in found[f"{method} on {family}"].items()})

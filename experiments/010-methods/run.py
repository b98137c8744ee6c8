"""Hold every method to its contract on four tiny models, and write the table of what works.

    python experiments/010-methods/run.py [--minutes 4] [--again METHOD ...]

Facts are written after each pair, so that a run that is cut off goes on where it was. What is asked of a pair
is in `tests/methods/contract.py`, which is the test suite's code.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import itertools
import json
import logging
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from table import write_table

from autopeft.files import write_atomically
from autopeft.methods.registry import METHODS

HERE = Path(__file__).parent
TESTS = HERE.parents[1] / "tests"
RESULTS, PACKED = HERE / "results.json", HERE / "quantised.json"


def main() -> None:
    """Examine the pairs that lack, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="stop after this long")
    parser.add_argument("--again", nargs="*", default=[], metavar="METHOD", help="examine these anew")
    asked = parser.parse_args()
    sys.path[:0] = [str(TESTS / "methods"), str(TESTS / "cost" / "tracing")]
    contract, toys = importlib.import_module("contract"), importlib.import_module("toys")
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()  # every recorded step runs the collector, which need not walk through the libraries
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    found = {pair: facts for pair, facts in found.items() if pair.partition(" on ")[0] not in asked.again}
    began = time.monotonic()
    for family in toys.BASES:
        for method in METHODS:
            pair = f"{method} on {family}"
            if pair in found or time.monotonic() - began > 60 * asked.minutes:
                continue
            found[pair] = {name: list(fact) for name, fact in contract.examine(method, family).items()}
            broken = {name: note for name, (holds, note) in found[pair].items() if not holds}
            print(pair, broken or "", flush=True)
            write_atomically(RESULTS, json.dumps(found, indent=1) + "\n")
    packed = examine_packed(asked.again, began + 60 * asked.minutes)
    write_table(HERE / "README.md", found, packed, tuple(toys.BASES), contract.MUST, toys.REASONS)


def examine_packed(again: list[str], deadline: float) -> dict[str, Any]:
    """Examine the packed bases that lack, and return all facts by "method on family in scheme"."""
    quantised = importlib.import_module("quantised")
    found: dict[str, Any] = json.loads(PACKED.read_text()) if PACKED.exists() else {}
    found = {pair: facts for pair, facts in found.items() if pair.partition(" on ")[0] not in again}
    logging.disable(logging.WARNING)
    with torch.compiler.set_stance("force_eager"):
        for scheme, family, method in itertools.product(quantised.SCHEMES, quantised.FAMILIES, METHODS):
            pair = f"{method} on {family} in {scheme}"
            if family not in METHODS[method].families or pair in found or time.monotonic() > deadline:
                continue
            facts = quantised.examine_packed(method, family, scheme)
            found[pair] = {name: list(fact) for name, fact in facts.items()}
            broken = {name: note for name, (holds, note) in found[pair].items() if not holds}
            print(pair, broken or "", flush=True)
            write_atomically(PACKED, json.dumps(found, indent=1) + "\n")
    return found


if __name__ == "__main__":
    main()

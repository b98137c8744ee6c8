"""Count what each method trains with its defaults on two usual models: `autopeft/methods/shares.json`.

    python experiments/010-methods/shares.py

The models are built at full size on fake tensors, which takes about 5 minutes and no memory. What is
counted already stays; delete the file to count all anew.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from autopeft.files import write_atomically
from autopeft.methods.registry import METHODS

if TYPE_CHECKING:
    from autopeft.workload.base_model import Family

ROOT = Path(__file__).parents[2]
SHARES = ROOT / "autopeft" / "methods" / "shares.json"
USUAL: dict[Family, str] = {"decoder": "Llama-3.1-8B", "encoder": "bert-base-uncased"}


def main() -> None:
    """Count every method on the models that it works on, and write the shares."""
    sys.path.append(str(ROOT / "tests" / "methods"))
    counting = importlib.import_module("counting")
    before = json.loads(SHARES.read_text(encoding="utf-8"))
    shares: dict[str, dict[str, float]] = {name: {} for name in USUAL.values()}
    for method, spec in METHODS.items():
        for family, name in USUAL.items():
            if family not in spec.families:
                continue
            share = before.get(name, {}).get(method) or counting.share_of(method, name)
            if share:
                shares[name][method] = share
            print(name, method, share, flush=True)
            write_atomically(SHARES, json.dumps(before | shares, indent=1) + "\n")
    write_atomically(SHARES, json.dumps(shares, indent=1) + "\n")


if __name__ == "__main__":
    main()

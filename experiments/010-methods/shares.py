"""Count what each method trains with its defaults on two usual models: `autopeft/methods/shares.json`.

    python experiments/010-methods/shares.py

The models are built at full size on fake tensors, which takes about 5 minutes and no memory.
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
USUAL: dict[Family, str] = {"decoder": "Llama-3.1-8B", "encoder": "bert-base-uncased"}


def main() -> None:
    """Count every method on the models that it works on, and write the shares."""
    sys.path.append(str(ROOT / "tests" / "methods"))
    counting = importlib.import_module("counting")
    shares: dict[str, dict[str, float]] = {}
    for method, spec in METHODS.items():
        for family, name in USUAL.items():
            if family in spec.families:
                shares.setdefault(name, {})[method] = counting.share_of(method, name)
                print(name, method, shares[name][method], flush=True)
    text = json.dumps(shares, indent=1)
    write_atomically(ROOT / "autopeft" / "methods" / "shares.json", text + "\n")


if __name__ == "__main__":
    main()

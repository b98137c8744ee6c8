"""Write what a search of autopeft begins with: `python experiments/012-benchmark/ship.py`.

The final validation scores of all that `record.py` has trained from seed 0 become
`autopeft/search/experience.json`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from record import MAIN, candidates
from replay import load

from autopeft.files import write_atomically
from autopeft.search.experience import FILE

_SOURCE = "experiments/012-benchmark/curves.jsonl: 500 training rows of at most 32 tokens, 2 epochs, bf16"


def main() -> None:
    """Write the file."""
    write_atomically(FILE, f"{json.dumps(content(MAIN.datasets), separators=(',', ':'))}\n")


def content(datasets: Sequence[str]) -> dict[str, Any]:
    """Return the trainings on some of the datasets."""
    tables = {name: load(name) for name in datasets}
    whole = [each for each in candidates() if all((each.key, 0) in t.recordings for t in tables.values())]
    return {
        "model": "all-MiniLM-L6-v2",
        "family": "encoder",
        "task": "classification",
        "source": _SOURCE,
        "candidates": [each.model_dump(mode="json") for each in whole],
        "scores": {
            name: [table.recordings[each.key, 0].points[-1].score for each in whole]
            for name, table in tables.items()
        },
    }


if __name__ == "__main__":
    main()

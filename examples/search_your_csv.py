"""Search on a CSV of your own and export the winner.

Run it: python examples/search_your_csv.py MODEL_DIRECTORY train.csv
"""

from __future__ import annotations

import sys

import autopeft as ap


def main(model: str, data: str) -> None:
    """Try three candidates, then export the best and write the report."""
    study = ap.search(model=model, data=data, budget=ap.Budget(gpu_mem="8GB", trials=3), epochs=2)
    for trial in study.trials:
        print(trial.number, trial.state, trial.candidate.label, trial.reason)
    bundle = ap.export(study)
    print(f"test {bundle.metric.name} {bundle.test_score:.3f} in {bundle.path}")
    print(ap.report(study).places["report"])


if __name__ == "__main__":
    main(*sys.argv[1:])

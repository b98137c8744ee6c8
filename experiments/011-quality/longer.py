"""Do the methods behind the probe catch up with more steps? `python experiments/011-quality/longer.py`.

Trains each of them on the movies for `EPOCHS` epochs instead of 2, at two rates of `run.py`, seed 0.
`longer.json` has the validation scores after each quarter (the learning rate falls over the whole) and the
score on the test rows. What is there already is not trained again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from run import BATCH_SIZE, KNOBS, MAX_LENGTH, RATES, TRAIN_ROWS

from autopeft.methods.registry import complete
from autopeft.space.candidate import Candidate, Training
from autopeft.workload.demo import demo_dataset, demo_model

RESULTS = Path(__file__).with_name("longer.json")
METHODS = ("bitfit", "compacter", "prefix_tuning", "lst", "probe", "prompt_tuning")
EPOCHS = 8


def main() -> None:
    """Run what is missing."""
    import torch

    from autopeft.train.trainer import Trainer

    torch.set_num_threads(1)
    base = demo_model("classification")
    dataset = demo_dataset("classification", name="movies", train_rows=TRAIN_ROWS)
    found: dict[str, dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for method in METHODS:
        rates = RATES[method][-2:]
        for rate in rates:
            name = f"{method} {rate:g}"
            if name in found:
                continue
            training = Training(
                learning_rate=rate,
                epochs=EPOCHS,
                batch_size=BATCH_SIZE,
                max_length=MAX_LENGTH,
                precision="fp32",
            )
            candidate = complete(Candidate(method=method, knobs=KNOBS.get(method, {}), training=training))
            trainer = Trainer(base, dataset, candidate, seed=0)
            rows = trainer.total_samples
            curve = [trainer.advance(rows * quarter // 4).score for quarter in (1, 2, 3, 4)]
            test = trainer.evaluate("test").values
            found[name] = {"validation": curve, "test": sum(test) / len(test)}
            RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

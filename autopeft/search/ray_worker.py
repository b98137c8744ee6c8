"""What runs in Ray's worker processes: Tune's view of a desk. Imports no more than it needs."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from ray import tune

from autopeft.errors import StorageError
from autopeft.search.desk import Desk, Failure
from autopeft.search.searcher import RunFactory
from autopeft.search.shelf import Carrier
from autopeft.search.vitals import Vitals
from autopeft.space.candidate import Candidate
from autopeft.train.result import Report

OUTCOME = "outcome"


class Worker(tune.Trainable):
    """A desk at which each `step` trains up to the next evaluation; kept from trial to trial."""

    def setup(  # type: ignore[override]  # `tune.with_parameters` adds arguments
        self, config: dict[str, Any], factory: RunFactory, seed: int, threads: int, shelf: Any = None
    ) -> None:
        """Prepare the process for its first trial; a `shelf` is there where the nodes may share no disk."""
        os.environ["OMP_NUM_THREADS"] = str(threads)  # read when torch is imported
        self._threads = threads
        self._desk = Desk(factory, seed)
        self._vitals = Vitals()
        self._carrier = None if shelf is None else Carrier(shelf)
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Clear the desk for another trial."""
        self._died = str(new_config.get("died", ""))
        candidate = Candidate.model_validate_json(new_config["candidate"])
        self._number = int(new_config["number"])
        place = self._carrier.fetch(self._number) if self._carrier else Path(new_config["checkpoint"])
        self._desk.take(candidate, place, new_config["repetition"])
        self._samples = list(new_config["samples"])
        return True

    def step(self) -> dict[str, Any]:
        """Train up to the next evaluation."""
        if self._died:
            return {OUTCOME: pack(Failure(self._died))}
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(self._threads)
        try:
            outcome = self._desk.advance(self._samples.pop(0))
            if self._carrier and isinstance(outcome, Report):
                self._carrier.keep(self._number)
        except StorageError as error:
            return {OUTCOME: pack(error)}
        if isinstance(outcome, Report):
            outcome = outcome.model_copy(update={"extra": {**outcome.extra, **self._vitals.take()}})
        return {OUTCOME: pack(outcome)}

    def cleanup(self) -> None:
        """Leave nothing on the node's disk."""
        if self._carrier:
            self._carrier.close()


def pack(outcome: Report | Failure | StorageError) -> str:
    """Write what a worker has to say as JSON, so that nothing but text crosses."""
    match outcome:
        case Report():
            return outcome.model_dump_json()
        case Failure(reason):
            return json.dumps({"failure": reason})
        case StorageError():
            return json.dumps({"storage": str(outcome)})


def unpack(text: str) -> Report | Failure | StorageError:
    """Read what `pack` wrote."""
    fields = json.loads(text)
    if "failure" in fields:
        return Failure(fields["failure"])
    if "storage" in fields:
        return StorageError(fields["storage"])
    return Report.model_validate(fields)

"""Verifying: is a bundle what it says it is? Its files, its logits and its score, each in a fresh process."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from autopeft.errors import BundleError, ExportError
from autopeft.export.bundle import Bundle, Evaluated, Verified
from autopeft.export.check import TOLERANCE, differences
from autopeft.export.loading import dtype_of
from autopeft.export.names import ADAPTER_CONFIG, BASE_FIELD, EVALUATION
from autopeft.export.opening import open_bundle, read_bundle
from autopeft.journey.rescoring import Asked, Rescored

SCORE_TOLERANCE = {"float32": 1e-3, "bfloat16": 1e-2, "float16": 1e-2}
"""Largest difference of scores, where they are above 1 a share of them, that another machine may make."""


def verify(place: Path, places: dict[str, Any]) -> Verified:
    """Hold a bundle against what it recorded of itself.

    Args:
        places: fields of the study's request that have moved since, such as the data.

    Raises:
        InputError: there is no bundle, or what it says of itself cannot be read.
    """
    bundle = read_bundle(place)
    found = Verified(place=str(place), label=bundle.candidate.label, metric=bundle.metric.name,
                     recorded=bundle.test_score, files=len(bundle.files))  # fmt: skip
    try:
        open_bundle(place)
    except BundleError as error:
        return _ended(found, "differs", str(error))
    moved = Path(places["model"]) if "model" in places else None
    with _on_base(place, bundle, moved) as folder:
        return _loaded(found, bundle.model_copy(update={"path": str(folder)}), folder, places)


def _loaded(found: Verified, bundle: Bundle, folder: Path, places: dict[str, Any]) -> Verified:
    try:
        (logits,) = differences([(folder, bundle)])
    except ExportError as error:
        return _ended(found, "unknown", str(error))
    if isinstance(logits, str):
        why = f"its files are as they were, but it does not load here: {logits}"
        hint = "; where its base is a directory here, name that with --model DIR"
        lies = "" if "model" in places or bundle.format == "model" else hint
        return _ended(found, "unknown", f"{why.rstrip('.')}{lies}.")
    found = found.model_copy(update={"logits": logits})
    allowed = TOLERANCE[dtype_of(bundle)]
    if not logits <= allowed:
        return _ended(found, "differs", f"logits must be within {allowed:g} of the recorded ones, but differ "
                      f"by {logits:.2g}: another base model, or another version of a library.")  # fmt: skip
    return _scored(found, bundle, folder, places)


@contextmanager
def _on_base(place: Path, bundle: Bundle, moved: Path | None) -> Iterator[Path]:
    """Give a directory with the bundle in which its base is where it lies now.

    Args:
        moved: directory of the base; None, or no directory, leaves the bundle as it is.
    """
    config = place / ADAPTER_CONFIG
    if moved is None or not moved.is_dir() or bundle.format == "model" or not config.is_file():
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="autopeft-verify-") as there:
        copy = Path(shutil.copytree(place, Path(there) / place.resolve().name))
        fields = json.loads(config.read_text(encoding="utf-8"))
        fields[BASE_FIELD] = str(moved.resolve())
        (copy / ADAPTER_CONFIG).write_text(json.dumps(fields), encoding="utf-8")
        yield copy


def _scored(found: Verified, bundle: Bundle, folder: Path, places: dict[str, Any]) -> Verified:
    if bundle.request is None or not (folder / EVALUATION).exists():
        return _ended(found, "unknown", "files and logits are as recorded, but it does not say on which rows "
                      "it was scored.")  # fmt: skip
    recorded = Evaluated.read(folder / EVALUATION)
    asked = Asked(place=str(folder), request=bundle.request.model_copy(update=places), rows=recorded.rows)
    answer = _in_fresh_process(asked)
    if answer.evaluated is None:
        return _ended(found, "unknown", f"files and logits are as recorded, but it cannot be scored: "
                      f"{answer.reason}")  # fmt: skip
    score, allowed = answer.evaluated.score, SCORE_TOLERANCE[dtype_of(bundle)] * max(1.0, abs(recorded.score))
    found = found.model_copy(update={"score": score})
    if abs(score - recorded.score) <= allowed * (1 + 1e-9):
        return _ended(found, "same", "")
    return _ended(found, "differs", f"{bundle.metric.name} must be within {allowed:g} of the recorded "
                  f"{recorded.score:.4f}, but is {score:.4f}.")  # fmt: skip


def _in_fresh_process(asked: Asked) -> Rescored:
    done = subprocess.run(
        [sys.executable, "-m", "autopeft.journey.rescoring"],
        input=asked.model_dump_json(),
        capture_output=True,
        text=True,
        check=False,
    )
    last = (done.stdout.strip().splitlines() or [""])[-1]
    try:
        return Rescored.model_validate_json(last)
    except ValidationError:
        reason = (done.stderr.strip().splitlines() or ["without a word"])[-1]
        return Rescored(reason=f"the process that scores it ended with {done.returncode}: {reason}")


def _ended(found: Verified, state: str, reason: str) -> Verified:
    return Verified(**found.model_dump() | {"state": state, "reason": reason})
